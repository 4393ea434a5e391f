"""Lossless for any bytes; the same tokens as the trained model; the challenge's byte rule."""

from itertools import pairwise

import numpy as np
import pytest
import sentencepiece
from hypothesis import example, given, settings
from hypothesis import strategies as st

from challenge_models import train_challenge_model
from fairway.data import byte_tokenizer as module
from fairway.data.byte_tokenizer import FIRST_PIECE, train_tokenizer
from fairway.data.challenge_tokenizer import load_challenge
from fairway.data.stored_tokenizer import read_tokenizer
from fairway.errors import BadInput
from fairway.formats import byte_mixing
from fairway.formats.byte_mixing import compress

LINE = "the cat sat on the mat, and the other “cats” sat there too — 12 or 345 of them.\n"
TEXT = "".join(
    f"{LINE[i % 60 :]}{'  ' * (i % 5)}def f{i % 7}():\n\treturn {i}\n\n" for i in range(400)
)
DOCUMENTS = [TEXT[i : i + 999].encode() for i in range(0, len(TEXT), 999)]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(DOCUMENTS, 340)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    """A small model with the challenge's settings."""
    path = tmp_path_factory.mktemp("challenge") / "small.model"
    return train_challenge_model(path, TEXT, split_digits=True)


@pytest.fixture(scope="module")
def challenge(model_file):
    return load_challenge(model_file)


def assert_lossless(tokenizer, document):
    tokens = tokenizer.encode_documents([document])
    assert tokens.dtype == np.uint16
    assert tokens[0] == tokenizer.bos_id
    assert tokenizer.decode(tokens) == [document]
    assert tokenizer.byte_lengths(tokens).sum() == len(document)
    assert len(tokens) <= tokenizer.most_tokens(len(document), 1)


ANY_BYTES = st.one_of(
    st.binary(),
    st.text().map(str.encode),
    st.text("the cat\n\t \u2581\ue00a—é").map(str.encode),
    st.lists(st.sampled_from([b"\xe2", b"\x96", b"\x81", b" ", b"the", b"\n", b"\0", b"\xff"])).map(
        b"".join
    ),
)


@settings(deadline=None)
@given(ANY_BYTES)
@example(b"")
@example(b"\0")
@example(b"\x80\xbf")
@example(b"\xed\xa0\x80")  # a surrogate, which UTF-8 forbids
@example(b"a\r\nb\r\n")
@example(b"\n\ntext\n\n")
@example("\u2581 \u2585 \ue009\ue00a".encode())  # the reserved characters
@example(b"\t  two  \t\n")
@example("👩‍👩‍👧 ﬁ e\u0301 é \ufeff \u00a0 \u200b".encode())
@example(bytes(range(256)))
@example(b"cut inside a character \xe2\x80")
def test_any_bytes_come_back(tokenizer, document):
    assert_lossless(tokenizer, document)


def test_long_documents_come_back(tokenizer):
    assert_lossless(tokenizer, b" " * 200_000 + b"x" * 70_000 + b" and  on" * 20_000)


@settings(deadline=None)
@given(st.lists(ANY_BYTES))
def test_documents_come_back_in_order(tokenizer, documents):
    assert tokenizer.decode(tokenizer.encode_documents(documents)) == documents


def test_ids_are_bos_bytes_and_pieces(tokenizer):
    assert tokenizer.vocab_size == 340
    assert tokenizer.decode(np.arange(257)) == [bytes(range(256))]
    assert tokenizer.byte_lengths(np.arange(FIRST_PIECE, 340)).min() >= 2
    assert tokenizer.encode(b"\xff\n").tolist() == [256, 11]


def test_pieces_shorten_the_text(tokenizer):
    assert len(tokenizer.encode_documents(DOCUMENTS)) < len(TEXT.encode()) / 2.5


def test_rebuilt_model_encodes_like_the_trained_one(monkeypatch):
    trained = []

    def keep(sentences, size):
        trained.append(train_model(sentences, size))
        return trained[-1]

    train_model = module._train_model
    monkeypatch.setattr(module, "_train_model", keep)
    tokenizer = train_tokenizer(DOCUMENTS, 330)
    reference = sentencepiece.SentencePieceProcessor(model_proto=trained[0].SerializeToString())
    pieces = reference.encode(TEXT.replace("\n", "\ue00a").replace("\t", "\ue009"), out_type=str)
    ours = [tokenizer.decode([0, t])[0] for t in tokenizer.encode(TEXT.encode()).tolist()]
    marks = str.maketrans({"\u2581": " ", "\ue00a": "\n", "\ue009": "\t"})
    assert [b.decode() for b in ours] == [piece.translate(marks) for piece in pieces]


def merge(text, pieces):
    """docs/formats.md's encoding of text without reserved characters, one merge at a time."""
    ranks = {piece: rank for rank, piece in enumerate(pieces)}
    parts = list(text)
    while True:
        pairs = [(ranks[a + b], i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in ranks]
        if not pairs:
            break
        _, i = min(pairs)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    ids = []
    for part in parts:
        ids += [257 + ranks[part]] if part in ranks else [1 + byte for byte in part.encode()]
    return ids


@settings(deadline=None)
@given(
    st.one_of(st.text("thecasonm ,“—1\n\t\r\0é", max_size=60), st.sampled_from(TEXT.split("\n\n")))
)
def test_encoding_is_what_the_format_says(tokenizer, text):
    pieces = byte_mixing.decompress(tokenizer.to_bytes()[1:]).decode("latin-1").split("\xff")
    pieces = [piece.encode("latin-1").decode() for piece in pieces]
    assert tokenizer.encode(text.encode()).tolist() == merge(text, pieces)


def test_a_long_document_is_encoded_as_in_one_piece(tokenizer, monkeypatch):
    text = TEXT.encode()
    whole = tokenizer.encode(text)
    monkeypatch.setattr(module, "_ENCODE_CHARS", 100)
    np.testing.assert_array_equal(tokenizer.encode(text), whole)


def test_training_repeats_itself():
    assert train_tokenizer(DOCUMENTS, 340).to_bytes() == train_tokenizer(DOCUMENTS, 340).to_bytes()


def test_text_without_spaces_or_ascii_trains():
    tokenizer = train_tokenizer(["漢字仮名交じり文".encode() * 3000], 280)
    assert_lossless(tokenizer, "文字 漢字".encode())


def test_a_vocabulary_too_large_names_the_largest(tokenizer):
    documents = [b"hello world, hello trees"] * 9
    with pytest.raises(BadInput, match=r"vocab_size 1024 is too large .* at most \d+") as error:
        train_tokenizer(documents, 1024)
    largest = int(str(error.value).split()[-1])
    assert train_tokenizer(documents, largest).vocab_size == largest


@pytest.mark.parametrize("documents", [[], [b""], [b"\xff\xfe"], [b"a"]])
def test_no_text_to_train_on(documents):
    with pytest.raises(BadInput, match="too little train text"):
        train_tokenizer(documents, 300)


def test_stored_tokenizer_is_the_same_and_small(tokenizer):
    data = tokenizer.to_bytes()
    again = read_tokenizer(data)
    assert len(data) < 1000
    assert again.to_bytes() == data
    assert again.sha256 == tokenizer.sha256
    np.testing.assert_array_equal(
        again.encode_documents(DOCUMENTS), tokenizer.encode_documents(DOCUMENTS)
    )


def test_stored_challenge_tokenizer_is_the_same(challenge):
    again = read_tokenizer(challenge.to_bytes())
    assert again.to_bytes() == challenge.to_bytes()
    tokens = challenge.encode_documents(DOCUMENTS)
    np.testing.assert_array_equal(again.encode_documents(DOCUMENTS), tokens)
    assert again.decode(tokens) == challenge.decode(tokens)


@settings(deadline=None)
@given(st.data())
def test_a_damaged_tokenizer_is_refused_or_usable(tokenizer, data):
    stored = bytearray(tokenizer.to_bytes())
    place = data.draw(st.integers(0, len(stored) - 1))
    stored[place] = data.draw(st.integers(0, 255))
    del stored[data.draw(st.integers(1, len(stored))) :]
    try:
        damaged = read_tokenizer(bytes(stored))
    except BadInput:
        return
    assert damaged.vocab_size >= FIRST_PIECE


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "newer"),
        (b"\x09", "newer"),
        (b"\x01\x01not a stream", "does not end where its symbols end"),
        (b"\x01\xff\xff\xff\xff\x7f", "length is no number in range"),
        (b"\x01\x80\x00", "length is no number in range"),
        (b"\x01" + compress(b"the\xffthe"), "not distinct"),
        (b"\x01" + compress(b"th\xc3"), "not UTF-8"),
        (b"\x01" + compress(b"\xff" * 70_000), "too many"),
        (b"\x02" + compress(b"\x01\x02\x03"), "truncated"),
        (b"\x02" + compress(b"\x03\x03\x01\x03\x01\x01the"), "neither a byte-pair nor"),
        (b"\x02" + compress(b"\x02\x03\x01\x03\x01\x01"), "needs a BOS piece"),
        (b"\x02" + compress(b"\x02\x03\x01\x03\x01\x00\x00the"), "number of scores"),
        (b"\x02" + compress(b"\x02\x03\x01\x03\x01\x01the\xff\xf8a"), "no UTF-8"),
        (b"\x02" + compress(b"\x02\x03\x01\x03\x01\x01" + b"\xff\xfe" * 300), "too many pieces"),
    ],
)
def test_refusals_of_stored_tokenizers(data, message):
    with pytest.raises(BadInput, match=message):
        read_tokenizer(data)


def test_tokens_of_another_tokenizer_are_refused(tokenizer):
    with pytest.raises(BadInput, match=r"ids outside 0\.\.339"):
        tokenizer.decode([0, 340])
    with pytest.raises(BadInput, match="document boundary"):
        tokenizer.decode([5, 0])
    assert tokenizer.decode([]) == []


def challenge_bytes(processor, tokens):
    """The challenge's rule as the challenge states it, token by token; the first is a boundary."""
    lengths = []
    after_boundary = True
    for token in tokens:
        piece = processor.id_to_piece(token)
        boundary = processor.is_control(token) or processor.is_unknown(token)
        if processor.is_byte(token):
            lengths.append(1)
        elif boundary:
            lengths.append(0)
        elif piece.startswith("\u2581"):
            lengths.append(len(piece[1:].encode()) + (not after_boundary))
        else:
            lengths.append(len(piece.encode()))
        after_boundary = boundary
    return lengths


@settings(deadline=None)
@given(st.lists(st.integers(0, 339)))
def test_bytes_follow_the_rule_of_the_challenge(challenge, model_file, tokens):
    tokens = [challenge.bos_id, *tokens]
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model_file))
    lengths = challenge.byte_lengths(tokens)
    assert lengths.tolist() == challenge_bytes(processor, tokens)
    assert lengths.sum() == len(b"".join(challenge.decode(tokens)))


def test_the_challenge_normalises(challenge):
    tokens = challenge.encode_documents(["  the ﬁne\ncat 漢".encode(), b"sat"])
    assert challenge.rule == "challenge"
    assert challenge.decode(tokens) == ["the fine cat 漢".encode(), b"sat"]


def test_refusals_of_challenge_models(challenge, tmp_path):
    with pytest.raises(BadInput, match="cannot read the tokenizer"):
        load_challenge(tmp_path / "missing.model")
    (tmp_path / "bad.model").write_bytes(b"\x07 nonsense")
    with pytest.raises(BadInput, match="no SentencePiece model"):
        load_challenge(tmp_path / "bad.model")
    with pytest.raises(BadInput, match="not valid UTF-8"):
        challenge.encode(b"\xff")
