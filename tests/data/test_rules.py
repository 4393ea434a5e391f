"""Which bytes count: Fairway's own normalisation, and no tokenizer that makes another text."""

import hashlib
import io
import json
import math
import os
from pathlib import Path

import brotli
import numpy as np
import pytest
import sentencepiece
from hypothesis import example, given
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2

from fairway.coding import artifact
from fairway.config.schema import Pack
from fairway.data import challenge_tokenizer, rules
from fairway.data.challenge_tokenizer import ChallengeTokenizer, load_challenge
from fairway.data.stored_tokenizer import read_tokenizer
from fairway.errors import BadInput
from fairway.formats import byte_mixing
from fairway.pipeline.pack import pack_weights

ODD = st.text("a  \t\n\x00\x01ﬁÅA\u030aé½①\u2581\u00a0\u3000\u200b\u061c\ua7f1\ufffd漢👩\u200d")
TEXTS = st.one_of(ODD, st.text())


def test_the_map_that_fairway_builds_is_the_pinned_one():
    assert hashlib.sha256(rules.pinned_map()).hexdigest() == rules.MAP_SHA256


@pytest.mark.parametrize(
    ("document", "counted"),
    [
        ("", ""),
        ("a b", "a b"),
        ("  two\t\nspaces \u3000", "two spaces"),
        ("ﬁne ½ A\u030a", "fine 1⁄2 Å"),
        ("\u2581a\u2581\u2581b", "a b"),  # the mark for a space is a space
        ("a\x01b\x00", "ab\x00"),
        ("\u061c\ua7f1", "\u061c\ua7f1"),  # later versions of SentencePiece map these
    ],
)
def test_the_challenge_counts_the_normalised_text(document, counted):
    assert rules.counted_bytes(document.encode(), "challenge") == counted.encode()


@given(st.binary())
def test_the_rule_bytes_counts_the_document_itself(document):
    assert rules.counted_bytes(document, "bytes") == document


def test_the_challenge_knows_valid_utf8_only():
    with pytest.raises(BadInput, match="not valid UTF-8"):
        rules.counted_bytes(b"\xff", "challenge")


@given(TEXTS)
@example("a\x01\u030a")  # a second normalisation would join these
def test_what_counts_is_a_text_that_some_document_has(document):
    assert rules.fault(rules.counted_bytes(document.encode(), "challenge")) == ""


@given(TEXTS)
@example("the \u2581")
@example("a  b")
def test_a_text_without_fault_is_counted_as_it_is(text):
    """The document with U+0001, which the map removes, between its characters normalises to it."""
    apart = rules.counted_bytes("\x01".join(text).encode(), "challenge")
    assert (rules.fault(text.encode()) == "") == (apart == text.encode())


def test_a_text_that_is_cut_may_end_anywhere():
    text = "the cat — sat".encode()
    assert all(rules.fault(text[:end], cut=True) == "" for end in range(len(text)))
    assert "valid UTF-8 at byte 8" in rules.fault(text[:9])
    assert "space at an end" in rules.fault(b"the ")
    assert rules.fault(b"\xffa", cut=True)
    assert rules.fault(b"a  ", cut=True)


# Tokenizers that an attacker writes -------------------------------------------------------------

LINE = "the cat sat on the mat, and the other “cats” sat there too — 12 or 345 of them."
REAL = [
    f"{LINE} Here are ﬁve more:\n\n\tcafé, naïve, 漢字 and {number} \u2581 marks.".encode()
    for number in range(3)
]
DOCUMENTS = [
    *REAL,
    b"",
    b"z",
    b"a",
    b"\x00",
    b"<s> </s> <unk> <0x41> <pad>",
    " \u2581 \u2581a  b\u3000c ".encode(),
    "A\u030a½ \u061c\ua7f1 👩\u200d👩".encode(),
    bytes(range(1, 128)),
]


def trained(**settings):
    """A small model with the challenge's settings, as SentencePiece of today makes it."""
    model = io.BytesIO()
    given = {
        "model_type": "bpe",
        "vocab_size": 340,
        "hard_vocab_limit": False,
        "byte_fallback": True,
        "split_digits": True,
        "normalization_rule_name": "nmt_nfkc",
        "add_dummy_prefix": False,
        "pad_id": 0,
        "bos_id": 1,
        "eos_id": 2,
        "unk_id": 3,
        "minloglevel": 2,
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([LINE[i % 40 :] for i in range(200)]),
        model_writer=model,
        **given | settings,
    )
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(model.getvalue())
    return proto


@pytest.fixture
def honest():
    return trained()


def opened(proto):
    """As from a file of SentencePiece's."""
    where = "a file"
    model = challenge_tokenizer.opened(proto.SerializePartialToString(), where)
    return ChallengeTokenizer(model, where)


def from_artifact(proto):
    """As from a part of an artifact: pieces, scores and some settings."""
    return read_tokenizer(b"\x02" + byte_mixing.compress(challenge_tokenizer.model_bytes(proto)))


def refused_or_right(how, proto, random):
    """Whether a tokenizer is refused; otherwise it must count right, or refuse a text."""
    try:
        tokenizer = how(proto)
    except BadInput:
        return True
    for document in DOCUMENTS:
        counted = rules.counted_bytes(document, tokenizer.rule)
        try:
            tokens = tokenizer.encode_documents([document])
        except BadInput:
            continue
        assert tokenizer.decode(tokens) == [counted]
        assert tokenizer.byte_lengths(tokens).sum() == len(counted)
    tokens = random.integers(0, tokenizer.vocab_size, 2000)
    tokens[0] = tokenizer.bos_id
    written = tokenizer.decode(tokens)
    assert tokenizer.byte_lengths(tokens).sum() == sum(map(len, written))
    assert len(written) == np.count_nonzero(tokens == tokenizer.bos_id)
    return False


def values(field, now):
    """Other values of a scalar field of a model."""
    match field.type:
        case field.TYPE_BOOL:
            return [not now]
        case field.TYPE_ENUM:
            return [v.number for v in field.enum_type.values if v.number != now]
        case field.TYPE_STRING:
            return ["", "z" * 16, "\u2581", "z"]
        case field.TYPE_BYTES:
            changed = bytearray(now)
            if now:
                changed[len(now) // 2] ^= 1
            return [b"", bytes(changed), now + b"z", every_character_as("z" * 16)]
        case field.TYPE_FLOAT | field.TYPE_DOUBLE:
            return [math.nan, math.inf, 0.0, -1e30, 7.0]
        case _:
            signed = field.type in (field.TYPE_INT32, field.TYPE_INT64)
            return [*([-1] if signed else []), 0, 1, 2, 3, 4, 300, 1 << 20]


def every_character_as(text):
    """A character map that makes a long text of a letter."""
    normalizer = sentencepiece.SentencePieceNormalizer(
        norm_map=[(chr(i), text) for i in range(33, 128)]
    )
    spec = sentencepiece_model_pb2.NormalizerSpec()
    spec.ParseFromString(normalizer.serialized_normalizer_spec())
    return spec.precompiled_charsmap


def settings_mutants(proto):
    """Each field of each part but the pieces at each of its other values, one at a time."""
    for part in ("trainer_spec", "normalizer_spec", "denormalizer_spec"):
        message = getattr(proto, part)
        for field in message.DESCRIPTOR.fields:
            now = getattr(message, field.name)
            many = not isinstance(now, bool | int | float | str | bytes)
            for value in values(field, "" if many else now):
                mutant = sentencepiece_model_pb2.ModelProto()
                mutant.CopyFrom(proto)
                changed = getattr(mutant, part)
                if many:
                    getattr(changed, field.name).append(value)
                else:
                    setattr(changed, field.name, value)
                yield f"{part}.{field.name}={value!r:.20}", mutant


def piece_mutants(proto):
    """Pieces of every kind with another text, kind or score, twice, moved, or left out."""
    kinds = [piece.type for piece in proto.pieces]
    texts = [piece.piece for piece in proto.pieces]
    places = {kinds.index(kind) for kind in set(kinds)}
    places |= {texts.index(t) for t in ("\u2581", "z" if "z" in texts else "a", "\u2581the", "<s>")}
    places |= {texts.index("<0x20>"), texts.index("<0x7A>"), len(texts) - 1}
    strings = [
        "",
        "z",
        "\u2581",
        "zz\0z",
        "a\u2581b",
        "\u2581\u2581",
        "<0x41>",
        "<0x7a>",
        "ﬁ",
        "<s>",
    ]
    for place in sorted(places):
        changes = [("piece", text) for text in strings] + [("type", kind) for kind in range(1, 7)]
        changes += [("score", score) for score in (math.nan, -math.inf, 5.0)]
        for name, value in changes:
            mutant = sentencepiece_model_pb2.ModelProto()
            mutant.CopyFrom(proto)
            if name == "type" and kinds[place] != value:
                mutant.pieces[place].type = value
                mutant.trainer_spec.bos_id = place  # let it also begin the documents
                yield f"piece {place} bos {value!r}", mutant
                mutant = sentencepiece_model_pb2.ModelProto()
                mutant.CopyFrom(proto)
            setattr(mutant.pieces[place], name, value)
            yield f"piece {place} {name}={value!r}", mutant
        for name, pieces in {
            "left out": [*proto.pieces[:place], *proto.pieces[place + 1 :]],
            "twice": [*proto.pieces, proto.pieces[place]],
            "moved": [proto.pieces[place], *proto.pieces[:place], *proto.pieces[place + 1 :]],
        }.items():
            mutant = sentencepiece_model_pb2.ModelProto()
            mutant.CopyFrom(proto)
            del mutant.pieces[:]
            mutant.pieces.extend(pieces)
            yield f"piece {place} {name}", mutant
    for text in [*strings, "z" * 16, "y", "漢"]:
        for kind in range(1, 7):
            mutant = sentencepiece_model_pb2.ModelProto()
            mutant.CopyFrom(proto)
            mutant.pieces.add(piece=text, score=0.0, type=kind)
            yield f"new {text!r} of kind {kind}", mutant


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_every_changed_model_is_refused_or_counts_right(model_type):
    proto, random = trained(model_type=model_type), np.random.default_rng(1)
    assert not refused_or_right(opened, proto, random)
    verdicts = {
        name: refused_or_right(opened, mutant, random)
        for mutants in (settings_mutants(proto), piece_mutants(proto))
        for name, mutant in mutants
    }
    assert len(verdicts) > 400
    assert sum(verdicts.values()) > 150
    for part in ("normalizer_spec.precompiled_charsmap", "denormalizer_spec.precompiled"):
        assert all(
            verdicts[name] for name in verdicts if name.startswith(part) and "b''" not in name
        )


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_every_changed_piece_in_an_artifact_is_refused_or_counts_right(model_type):
    proto, random = trained(model_type=model_type), np.random.default_rng(1)
    assert not refused_or_right(from_artifact, proto, random)
    refused = [refused_or_right(from_artifact, m, random) for _, m in piece_mutants(proto)]
    assert 50 < sum(refused) < len(refused)


@pytest.mark.parametrize(
    ("part", "field", "value", "reason"),
    [
        ("normalizer_spec", "precompiled_charsmap", b"map", "character map has SHA-256"),
        ("normalizer_spec", "add_dummy_prefix", True, "train it with add_dummy_prefix=False"),
        ("denormalizer_spec", "precompiled_charsmap", b"map", "denormaliser"),
        ("trainer_spec", "byte_fallback", False, "cannot write every character"),
        ("trainer_spec", "model_type", 3, "neither a byte-pair nor"),
        ("trainer_spec", "treat_whitespace_as_suffix", True, "at the end of words"),
        ("trainer_spec", "bos_id", 300, "is not a control piece"),
        ("trainer_spec", "bos_id", 3, "is not a control piece"),
    ],
)
def test_refusals_of_settings_say_what_breaks_the_rule(honest, part, field, value, reason):
    setattr(getattr(honest, part), field, value)
    with pytest.raises(BadInput, match="breaks the rule 'challenge'") as error:
        opened(honest)
    assert reason in str(error.value)


@pytest.mark.parametrize(
    ("piece", "field", "value", "reason"),
    [
        ("\u2581", "piece", "Ж", "no piece for a lone space"),
        ("\u2581", "type", 4, "user-defined or unused"),
        ("\u2581the", "type", 5, "user-defined or unused"),
        ("a", "type", 3, "is a character, which it would"),
        ("\u2581the", "piece", "<s>", "'<s>' twice"),
        ("\u2581the", "piece", "", "is empty"),
        ("\u2581the", "piece", "a\0zz", "a NUL"),
        ("\u2581the", "score", math.nan, "no finite score"),
        ("\u2581the", "type", 6, "has '▁the' for a byte"),
        ("<0x41>", "type", 1, "no byte piece <0x41>"),
        ("<unk>", "type", 3, "one piece for unknown text"),
    ],
)
def test_refusals_of_pieces_say_what_breaks_the_rule(honest, piece, field, value, reason):
    changed = next(given for given in honest.pieces if given.piece == piece)
    setattr(changed, field, value)
    with pytest.raises(BadInput, match="breaks the rule 'challenge'") as error:
        opened(honest)
    assert reason in str(error.value)


def test_an_artifact_holds_no_character_map(lively_model, honest):
    """A map of its own once "proved" a letter: of each of its characters it made sixteen."""
    settings = {"vocab_size": 300, "pad_id": -1, "bos_id": 0, "eos_id": 1, "unk_id": 2}
    proto = trained(**settings)
    weights = {name: tensor.numpy() for name, tensor in lively_model.state_dict().items()}
    recipe = Pack(quantizer="uniform", step=0.1)
    data = pack_weights(lively_model.shape, opened(proto), weights, {}, recipe).data
    read = artifact.read(data)
    assert read.tokenizer.rule == "challenge"
    assert read.parts["tokenizer"] < 1500
    proto.normalizer_spec.precompiled_charsmap = every_character_as("z" * 16)
    with pytest.raises(BadInput, match="not that of nmt_nfkc"):
        opened(proto)
    assert from_artifact(proto).to_bytes() == read.tokenizer.to_bytes()


@pytest.mark.parametrize("how", [opened, from_artifact])
def test_a_model_of_todays_library_is_used_with_the_pinned_map(honest, how):
    document = "the \u061ccat \ua7f1".encode()
    tokenizer = how(honest)
    assert tokenizer.decode(tokenizer.encode_documents([document])) == [document]


def test_scores_that_are_no_ranks_come_back():
    proto = trained(model_type="unigram")
    tokenizer, again = opened(proto), from_artifact(proto)
    assert again.to_bytes() == tokenizer.to_bytes()
    for document in DOCUMENTS:
        assert again.encode(document).tolist() == tokenizer.encode(document).tolist()


def test_a_space_inside_a_piece_is_one_byte(honest):
    """Where pieces reach over words, U+2581 inside of them is a space, not its three bytes."""
    honest.pieces.add(piece="the\u2581cat", score=0.0, type=1)
    tokenizer = opened(honest)
    place = len(honest.pieces) - 1
    assert tokenizer.decode([1, place]) == [b"the cat"]
    assert tokenizer.byte_lengths([1, place]).tolist() == [0, 7]


PIECES = st.lists(
    st.text("ab \n\t\u2581\ue009\ue00a\ue001\ue002é\0<>0x41", min_size=1, max_size=4), max_size=12
)


@given(PIECES, st.booleans(), st.lists(ODD, max_size=3))
@example(["\u2581a"], False, [" a"])
@example(["\ue009a"], False, ["\ta"])
@example(["\ue001", "\ue002", "\ue001a"], True, ["A a"])
def test_fairways_own_tokenizers_restore_any_bytes_or_are_refused(pieces, cased, documents):
    data = b"\x03" if cased else b"\x01"
    data += byte_mixing.compress(b"\xff".join(piece.encode() for piece in pieces))
    try:
        tokenizer = read_tokenizer(data)
        given_documents = [*DOCUMENTS, b"\xff\xfe \xe2\x96", *(d.encode() for d in documents)]
        tokens = tokenizer.encode_documents(given_documents)
    except BadInput:
        return
    assert tokenizer.decode(tokens) == given_documents
    assert tokenizer.byte_lengths(tokens).sum() == sum(map(len, given_documents))


# The challenge's own tokenizers -----------------------------------------------------------------

DATA = Path(os.environ.get("FAIRWAY_DATA", "no data"))
PUBLISHED = pytest.mark.skipif(
    not (DATA / "tokenizers").is_dir(), reason="FAIRWAY_DATA does not name the challenge's files"
)


def formula(processor, tokens):
    """The challenge's count: a piece's bytes, its leading space only where no boundary precedes."""
    total, after_boundary = 0, True
    for token in tokens:
        piece = processor.id_to_piece(token)
        boundary = processor.is_control(token) or processor.is_unknown(token)
        if processor.is_byte(token):
            total += 1
        elif not boundary:
            space = piece.startswith("\u2581")
            total += len(piece.removeprefix("\u2581").encode()) + (space and not after_boundary)
        after_boundary = boundary
    return total


def test_the_rule_equals_the_challenges_formula(honest):
    tokenizer = opened(honest)
    processor = sentencepiece.SentencePieceProcessor(model_proto=honest.SerializeToString())
    for document in DOCUMENTS:
        tokens = tokenizer.encode_documents([document]).tolist()
        assert formula(processor, tokens) == len(rules.counted_bytes(document, "challenge"))


@PUBLISHED
@pytest.mark.parametrize("name", ["fineweb_1024_bpe", "fineweb_8192_bpe"])
def test_the_published_tokenizers_count_as_the_challenge_does(name):
    path = DATA / "tokenizers" / f"{name}.model"
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(path.read_bytes())
    assert hashlib.sha256(proto.normalizer_spec.precompiled_charsmap).hexdigest() == (
        rules.MAP_SHA256
    )
    assert proto.normalizer_spec.precompiled_charsmap == rules.pinned_map()
    lines = (DATA / "fineweb_sample.jsonl").read_text("utf-8").splitlines()
    documents = [json.loads(line)["text"].encode() for line in lines]
    tokenizer = load_challenge(path)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
    tokens = tokenizer.encode_documents(documents)
    theirs = [[1, *processor.encode(document.decode())] for document in documents]
    assert tokens.tolist() == [token for ids in theirs for token in ids]
    counted = [rules.counted_bytes(document, "challenge") for document in documents]
    assert tokenizer.decode(tokens) == counted
    assert [formula(processor, ids) for ids in theirs] == [len(text) for text in counted]
    assert not any(map(rules.fault, counted))
    stored = tokenizer.to_bytes()
    again = read_tokenizer(stored)
    assert again.encode_documents(documents).tolist() == tokens.tolist()
    assert again.decode(tokens) == counted
    plain = tokenizer._proto.SerializeToString(deterministic=True)
    assert len(stored) < 0.5 * len(brotli.compress(plain, mode=brotli.MODE_TEXT, quality=11))
