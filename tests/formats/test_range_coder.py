"""The range coder: round trips, exact ends, damage, and constriction as the cross-check."""

from __future__ import annotations

import constriction
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairway.errors import BadInput
from fairway.formats.range_coder import TOTAL, TOTAL_BITS, Coder

GOLDEN = "5555555778e38dbe1948b1c81948ad2a23d18d13"


def tables(weights: np.ndarray) -> np.ndarray:
    """int64[n, V+1] cumulative frequencies of float weights [n, V], each frequency at least 1."""
    n, size = weights.shape
    sums = np.cumsum(weights, axis=1)
    inner = np.floor(sums / sums[:, -1:] * (TOTAL - size)).astype(np.int64)
    inner[:, -1] = TOTAL - size
    return np.concatenate([np.zeros((n, 1), np.int64), inner + np.arange(1, size + 1)], axis=1)


def example(n: int, size: int, seed: int, sharp: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    weights = np.exp(sharp * random.standard_normal((n, size)))
    likely = (weights / weights.sum(1, keepdims=True)).cumsum(1)
    symbols = (random.random((n, 1)) > likely).sum(1).clip(max=size - 1)
    return tables(weights), symbols.astype(np.int64)


def encode(cumulative: np.ndarray, symbols: np.ndarray) -> bytes:
    coder = Coder()
    coder.code(cumulative, symbols)
    return coder.finish()


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(0, 300),
    size=st.integers(1, 40),
    seed=st.integers(0, 1 << 30),
    sharp=st.floats(0, 12),
    split=st.floats(0, 1),
)
def test_round_trip(n: int, size: int, seed: int, sharp: float, split: float) -> None:
    cumulative, symbols = example(n, size, seed, sharp)
    cut = int(split * n)
    encoder = Coder()
    for part in (slice(0, cut), slice(cut, n)):
        encoder.code(cumulative[part], symbols[part])
    data = encoder.finish()
    assert encoder.finish() == data
    decoder = Coder(data)
    assert np.array_equal(decoder.code(cumulative, None), symbols)
    decoder.check_end()
    assert decoder.ideal_bits == pytest.approx(encoder.ideal_bits)
    assert 8 * len(data) <= encoder.ideal_bits * (1 + 2**-25) + 8
    assert not data.endswith(b"\0")


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 255), max_size=400), st.integers(0, 255))
def test_round_trip_of_extreme_frequencies(values: list[int], likely: int) -> None:
    """One symbol has nearly all the mass: long runs without output, carries, 30-bit symbols."""
    weights = np.zeros((1, 256))
    weights[0, likely] = 1
    table = tables(weights)[0]
    symbols = np.array(values, np.int64)
    encoder = Coder()
    rows = table[None].repeat(len(symbols), 0)
    encoder.code(rows, symbols)
    decoder = Coder(encoder.finish())
    assert np.array_equal(decoder.code(rows, None), symbols)
    decoder.check_end()


def test_carry_runs_through_written_bytes() -> None:
    """A low of 0xFF… and then a symbol that overflows it."""
    table = np.array([[0, TOTAL - 1, TOTAL]], np.int64)
    half = np.array([[0, TOTAL // 2, TOTAL]], np.int64)
    for seed in range(200):
        random = np.random.default_rng(seed)
        rows = np.concatenate([table.repeat(12, 0), half.repeat(40, 0)])
        symbols = np.concatenate([np.ones(12, np.int64), random.integers(0, 2, 40)])
        decoder = Coder(encode(rows, symbols))
        assert np.array_equal(decoder.code(rows, None), symbols)
        decoder.check_end()


def test_length_agrees_with_the_ideal_and_with_constriction() -> None:
    cumulative, symbols = example(4000, 200, 3)
    encoder = Coder()
    encoder.code(cumulative, symbols)
    data = encoder.finish()
    rows = np.arange(len(symbols))
    frequency = cumulative[rows, symbols + 1] - cumulative[rows, symbols]
    ideal = float((TOTAL_BITS - np.log2(frequency)).sum())
    assert encoder.ideal_bits == pytest.approx(ideal, rel=1e-12)
    assert ideal <= 8 * len(data) <= ideal * 1.00001 + 8
    # constriction's tables hold 24 bits and its stream is made of 32-bit words
    other = constriction.stream.queue.RangeEncoder()
    family = constriction.stream.model.Categorical(perfect=False)
    other.encode(symbols.astype(np.int32), family, np.diff(cumulative, axis=1) / TOTAL)
    assert 8 * len(data) == pytest.approx(other.num_bits(), rel=1e-4, abs=64)


def test_golden_stream() -> None:
    """The stream's bytes are a contract: artifacts and proofs consist of them."""
    table = np.array([0, 1, TOTAL // 3, TOTAL - 5, TOTAL], np.int64)
    coder = Coder()
    symbols = np.array([2, 1, 0, 3, 2, 2, 1, 0, 0, 3, 1, 2], np.int64)
    coder.code(table[None].repeat(len(symbols), 0), symbols)
    assert coder.finish().hex() == GOLDEN


def test_empty() -> None:
    assert Coder().finish() == b""
    Coder(b"").check_end()
    with pytest.raises(BadInput, match="does not end"):
        Coder(b"x").check_end()


@pytest.mark.parametrize("extra", [b"\0", b"\x01", b"\xff", bytes(9), b"garbage"])
def test_extension_is_noticed(extra: bytes) -> None:
    for n in (0, 1, 2, 50):
        cumulative, symbols = example(n, 20, n)
        decoder = Coder(encode(cumulative, symbols) + extra)
        decoder.code(cumulative, None)
        with pytest.raises(BadInput, match="does not end"):
            decoder.check_end()


def test_damage_never_fails_and_a_stream_has_one_spelling() -> None:
    """Whatever the bytes: symbols in range, and accepted only if encoding gives the same bytes."""
    cumulative, symbols = example(60, 20, 5)
    data = encode(cumulative, symbols)
    random = np.random.default_rng(0)
    accepted = 0
    for _ in range(2000):
        damaged = bytearray(data)
        damaged[random.integers(len(data))] ^= 1 << random.integers(8)
        cut = bytes(damaged[: random.integers(len(data) // 2, len(data) + 1)])
        decoder = Coder(cut)
        decoded = decoder.code(cumulative, None)
        assert decoded.min() >= 0
        assert decoded.max() < 20
        try:
            decoder.check_end()
        except BadInput:
            continue
        accepted += 1
        assert encode(cumulative, decoded) == cut
    assert accepted > 0  # a flip may well make another valid stream: checksums are the caller's


@pytest.mark.parametrize(
    ("table", "symbol"),
    [
        ([0, 5, TOTAL], 2),
        ([0, 5, TOTAL], -1),
        ([0, 5, 5, TOTAL], 1),
        ([0, 7, 5, TOTAL], 1),
        ([0, 5, TOTAL + 1], 1),
    ],
)
def test_broken_rules_are_refused(table: list[int], symbol: int) -> None:
    with pytest.raises(ValueError, match="row 0"):
        Coder().code(np.array([table], np.int64), np.array([symbol], np.int64))


def test_direction_is_checked() -> None:
    table = np.array([[0, 1, TOTAL]], np.int64)
    with pytest.raises(ValueError, match="encoder"):
        Coder().code(table, None)
    with pytest.raises(ValueError, match="encoder"):
        Coder(b"").code(table, np.zeros(1, np.int64))
    with pytest.raises(ValueError, match="encoder"):
        Coder().code(table, np.zeros(2, np.int64))
