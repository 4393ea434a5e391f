"""Words in lower case behind marks: the same text comes back, in fewer different pieces."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fairway.config.toml import load
from fairway.data import case
from fairway.data.byte_tokenizer import train_tokenizer
from fairway.data.stored_tokenizer import read_tokenizer
from fairway.errors import BadInput
from fairway.formats import byte_mixing

LINE = "The cat sat on the mat; THE OTHER Cats, e.g. McTavish and I, sat There — in the USA's É.\n"
DOCUMENTS = [(LINE[i % 60 :] + LINE[: i % 40]).encode() for i in range(400)]
TITLE, CAPS = case.MARKS


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(DOCUMENTS, 340, cased=True)


@pytest.mark.parametrize(
    ("text", "marked"),
    [
        ("The cat", f"{TITLE}the cat"),
        ("a THE cat I", f"a{CAPS} the cat{TITLE} i"),
        ("USA's", f"{CAPS}usa's"),
        ("McTavish iPhone ABc", "McTavish iPhone ABc"),
        ("“Élan”, Aé", f"“Élan”, {TITLE}aé".replace(f", {TITLE}", f",{TITLE} ")),
        ("x  Two\nA.B", f"x {TITLE} two\n{TITLE}a.{TITLE}b"),
    ],
)
def test_marks(text, marked):
    assert case.mark(text) == marked
    assert case.unmark(case.written(marked)) == text.encode()


ANY_BYTES = st.one_of(
    st.binary(),
    st.text().map(str.encode),
    st.text(f"THEthe i\n'é{TITLE}{CAPS}").map(str.encode),
    st.lists(st.sampled_from([b"\xfd", b"\xfe", b"\xff", b" ", b"The", b"THE", b"x", b"\n"])).map(
        b"".join
    ),
)


@settings(deadline=None)
@given(st.lists(ANY_BYTES))
@example([bytes(range(256))])
@example([b"A.B.C", b"A", b"A1A1A1"])
@example([case.MARKS.encode() + b"the", b"\xffthe", b"\xfd\xfeTHE"])
def test_any_documents_come_back(tokenizer, documents):
    tokens = tokenizer.encode_documents(documents)
    assert tokenizer.decode(tokens) == documents
    text_bytes = sum(map(len, documents))
    assert tokenizer.byte_lengths(tokens).sum() == text_bytes
    assert len(tokens) <= tokenizer.most_tokens(text_bytes, len(documents))


@settings(deadline=None)
@given(st.lists(st.integers(1, 339)))
def test_bytes_are_those_of_the_text_whatever_the_tokens(tokenizer, tokens):
    (text,) = tokenizer.decode([0, *tokens])
    assert tokenizer.byte_lengths([0, *tokens]).sum() == len(text)


def test_a_long_document_comes_back(tokenizer):
    document = b" The THE the\n" * 20_000
    assert tokenizer.decode(tokenizer.encode_documents([document])) == [document]


def test_marks_are_the_first_pieces_and_pieces_are_shared(tokenizer):
    stored = byte_mixing.decompress(tokenizer.to_bytes()[1:]).split(b"\xff")
    assert stored[:2] == [TITLE.encode(), CAPS.encode()]
    title, lower = (tokenizer.encode(text).tolist() for text in (b" The", b" the"))
    assert title == [257, *lower]
    assert tokenizer.byte_lengths([257, 258]).tolist() == [0, 0]


def test_it_is_stored(tokenizer):
    again = read_tokenizer(tokenizer.to_bytes())
    assert again.to_bytes() == tokenizer.to_bytes()
    tokens = tokenizer.encode_documents(DOCUMENTS)
    np.testing.assert_array_equal(again.encode_documents(DOCUMENTS), tokens)
    assert again.decode(tokens) == DOCUMENTS


def test_a_stored_one_without_marks_is_refused():
    with pytest.raises(BadInput, match="lacks the marks"):
        read_tokenizer(b"\x03" + byte_mixing.compress(b"the\xffcat"))


def test_no_text_to_train_on():
    with pytest.raises(BadInput, match="too little train text"):
        train_tokenizer([], 300, cased=True)


@pytest.mark.parametrize(
    "sets", [["data.vocab_size=258"], ["data.source=shards", "data.path=x", "data.tokenizer=y"]]
)
def test_recipes_that_cannot_be_cased(sets):
    with pytest.raises(BadInput, match=r"data\.cased"):
        load("tiny", ["data.cased=true", *sets])
