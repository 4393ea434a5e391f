"""Fingerprints follow their definition, and copies of documents are found by them."""

import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fairway.data.near_duplicates import NearDuplicates, fingerprints

WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in "nrstx"]


def prose(seed, words=200):
    """English-like words of a random generator."""
    return " ".join(random.Random(seed).choices(WORDS, k=words)).encode()


def reference_fingerprints(document):
    """The same definition without rolling, in Python's integers."""
    base, mask = 0x9E3779B97F4A7C15, (1 << 64) - 1
    letters = [b for b in document.lower() if b >= 128 or chr(b).isalnum()]
    found = []
    for end in range(48, len(letters) + 1):
        value = 0
        for letter in letters[end - 48 : end]:
            value = (value * base + letter) & mask
        value = ((value ^ (value >> 29)) * base) & mask
        value ^= value >> 32
        if value % 64 == 0:
            found.append(value)
    return found


class TestNearDuplicates:
    @settings(deadline=None, max_examples=30)
    @given(st.integers(0, 1000), st.binary(max_size=60))
    def test_fingerprints_follow_their_definition(self, seed, noise):
        document = prose(seed, 80) + noise + "—Ünï".encode() * 9
        assert fingerprints(document, 64).tolist() == reference_fingerprints(document)

    def test_repetitive_text_is_no_trouble(self):
        assert fingerprints(bytes(9), 64).size == 0
        assert fingerprints(b"ab" * 100_000, 64).dtype == np.uint64

    def test_copies_with_changes_are_found(self):
        known = [prose(i, 1000) for i in range(5)]
        near = NearDuplicates(known, 64)
        assert near.share(known[3].upper().replace(b" ", b" \n")) == 1.0
        assert near.share(known[0][: len(known[0]) // 2] + prose(9, 500)) > 0.2
        assert near.share(prose(9, 1000)) <= 0.2
        assert near.share(known[0][:150] + prose(9, 3000)) <= 0.2

    def test_short_documents_only_as_exact_copies(self):
        near = NearDuplicates([b"short"], 64)
        assert near.copy_of(b"short") == 0
        assert near.copy_of(b"shorter") is None
        assert near.share(b"short") == 0

    @given(st.lists(st.binary(min_size=0, max_size=400), min_size=1, max_size=8), st.data())
    @settings(max_examples=30)
    def test_an_index_knows_its_own_documents(self, documents, data):
        index = NearDuplicates(documents, 16)
        one = data.draw(st.sampled_from(documents))
        number, shared, own = index.nearest(one)
        assert documents[number] == one
        assert shared == own == index.counts[number]
