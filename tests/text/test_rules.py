"""Which bytes count: Fairway's own normalisation, and no tokenizer that makes another text."""

import hashlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fairway.errors import BadInput
from fairway.text import rules

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
