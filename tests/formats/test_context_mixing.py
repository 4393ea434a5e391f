"""Integers ↔ bits: round trips, classes that partition, sizes near the entropy, damaged streams."""

from __future__ import annotations

import time
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fairway.formats import context_mixing
from fairway.formats.context_mixing import KINDS, LARGEST, Contexts
from fairway.formats.range_coder import Coder
from fairway.quantize.grids import entropy_bits

shapes = st.tuples(st.integers(0, 9), st.integers(0, 40))
magnitudes = st.one_of(st.integers(-2, 2), st.integers(-300, 300), st.integers(-LARGEST, LARGEST))
matrices = shapes.flatmap(lambda shape: arrays(np.int64, shape, elements=magnitudes))


def encoded(values: np.ndarray, kind: int = 0) -> tuple[bytes, float]:
    """Stream and ideal bits of one matrix."""
    coder = Coder()
    Contexts().code(coder, values, values.shape, kind)
    return coder.finish(), coder.ideal_bits


def decoded(data: bytes, shape: tuple[int, int], kind: int = 0) -> np.ndarray:
    coder = Coder(data)
    found = Contexts().code(coder, None, shape, kind)
    coder.check_end()
    return found


def gaussian(spread: float, count: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return np.rint(spread * random.standard_normal((count // 300, 300))).astype(np.int64)


@settings(deadline=None, max_examples=80)
@given(st.lists(st.tuples(matrices, st.integers(0, KINDS - 1)), max_size=3))
def test_matrices_of_one_stream_round_trip(stream: list[tuple[np.ndarray, int]]) -> None:
    coder, memory = Coder(), Contexts()
    for values, kind in stream:
        memory.code(coder, values, values.shape, kind)
    back, memory = Coder(coder.finish()), Contexts()
    for values, kind in stream:
        assert np.array_equal(memory.code(back, None, values.shape, kind), values)
    back.check_end()


@pytest.mark.parametrize(
    "values",
    [
        np.full((3, 700), LARGEST),
        np.full((700, 3), -LARGEST),
        np.zeros((200, 200), np.int64),
        np.tile([0, LARGEST, -1], (40, 30)),
        np.where(np.arange(40_000).reshape(100, 400) == 39_999, LARGEST, 0),
        np.random.default_rng(0).integers(-LARGEST, LARGEST + 1, (50, 60)),
        np.arange(-20_000, 20_000).reshape(2, 20_000),
        (np.random.default_rng(1).standard_cauchy((90, 90)) * 3).clip(-9999, 9999).astype(np.int64),
    ],
    ids=["largest", "least", "zeros", "mixed", "surprise", "uniform", "wide", "cauchy"],
)
def test_extreme_distributions_round_trip(values: np.ndarray) -> None:
    data, _ = encoded(values.astype(np.int64))
    assert np.array_equal(decoded(data, values.shape), values)


def test_classes_partition_the_magnitudes() -> None:
    following = 0
    for k in range(context_mixing.CLASSES):
        least, count = int(context_mixing.least_of(k)), 1 << int(context_mixing.inside_bits(k))
        assert least == following
        for magnitude in {least, least + count // 2, least + count - 1}:
            assert context_mixing.class_of(magnitude) == k
        following = least + count
    assert following == LARGEST + 1


@pytest.mark.parametrize("spread", [0.2, 0.5, 1.0, 2.5, 6.0, 15.0, 60.0, 400.0])
def test_gaussian_integers_cost_their_entropy(spread: float) -> None:
    """Against -log2 of their true probabilities, summed over these very integers."""
    values = gaussian(spread, 60_000)
    normal = NormalDist(0, spread)
    kinds, counts = np.unique(np.abs(values), return_counts=True)  # the tails are exact there
    chances = [normal.cdf(0.5 - k) - normal.cdf(-0.5 - k) for k in kinds.tolist()]
    information = -float(counts @ np.log2(chances))
    assert information == pytest.approx(entropy_bits(spread) * values.size, rel=0.06)
    assert information * 0.995 < 8 * len(encoded(values)[0]) < information * 1.015 + 128


def test_rows_and_columns_of_their_own_spread_are_learned() -> None:
    """Half of the columns and rows 8 times as wide: cheaper than one distribution for all."""
    random = np.random.default_rng(3)
    spread = np.exp2(3.0 * random.integers(0, 2, 200))[:, None] * np.exp2(
        3.0 * random.integers(0, 2, 300)
    )
    values = np.rint(spread * random.standard_normal(spread.shape)).astype(np.int64)
    entropy = sum(entropy_bits(s) * int((spread == s).sum()) for s in np.unique(spread))
    share = np.unique(values, return_counts=True)[1] / values.size
    assert 8 * len(encoded(values)[0]) < 1.025 * entropy
    assert 1.1 * entropy < -(share * np.log2(share)).sum() * values.size


@settings(deadline=None, max_examples=60)
@given(matrices)
@example(gaussian(3.0, 3000))
def test_ideal_bits_are_the_real_size(values: np.ndarray) -> None:
    """They use probabilities of 12 bits, so rare decisions count a little more."""
    data, ideal = encoded(values)
    back = Coder(data)
    Contexts().code(back, None, values.shape, 0)
    assert back.ideal_bits == ideal
    assert ideal * 0.95 - 8 <= 8 * len(data) <= ideal * 1.01 + 6 + 16  # 6 raw bits: the level


@settings(deadline=None, max_examples=80)
@given(st.binary(max_size=200), shapes, st.integers(0, KINDS - 1))
def test_any_bytes_decode_to_integers_in_range(
    data: bytes, shape: tuple[int, int], kind: int
) -> None:
    found = Contexts().code(Coder(data), None, shape, kind)
    assert found.shape == shape
    assert np.abs(found).max(initial=0) <= LARGEST * max(1, len(found))


def test_damage_does_not_make_decoding_slow() -> None:
    """39 decisions per integer are the most, whatever the bytes say."""
    data, _ = encoded(gaussian(8.0, 60_000))
    start = time.perf_counter()
    decoded(data, (200, 300))
    usual = time.perf_counter() - start
    random = np.random.default_rng(5)
    for damaged in (b"\xff" * 9000, b"", data[:50] + random.bytes(len(data)), random.bytes(9000)):
        start = time.perf_counter()
        Contexts().code(Coder(damaged), None, (200, 300), 0)
        assert time.perf_counter() - start < 30 * usual + 1


def test_levels_are_about_four_per_octave() -> None:
    levels = [context_mixing._level(x) for x in range(5000)]
    assert levels == sorted(levels)
    for x, level in enumerate(levels):
        assert abs(level - 4 * np.log2(x + 1)) < 1.4
        if levels[max(x - 1, 0)] < level and x > 2:  # the least of its level
            assert context_mixing._mean_of(level) == 256 * x + 128


@given(st.integers(0, 60 << 20), st.integers(1, 1 << 24))
def test_exponential_in_integers(numerator: int, denominator: int) -> None:
    if numerator / denominator < 40:
        exact = np.exp(-numerator / denominator)
        found = context_mixing._exponential(numerator, denominator) / (1 << 60)
        assert found == pytest.approx(exact, rel=1e-9, abs=1e-15)


def test_probabilities_of_the_tables_are_valid() -> None:
    logistic, squash, levels, shares, _ = context_mixing.tables()
    assert np.all((squash >= 16) & (squash <= 65536 - 16))
    assert np.all(np.diff(squash) >= 0)
    exact = 65536 / (1 + np.exp(-np.arange(-2048, 2048) / 256))
    assert np.abs(squash - exact).max() < 1.01
    assert np.all(np.diff(logistic) >= 0)
    assert np.abs(squash[logistic[16:-16] + 2048] - (16 * np.arange(16, 4080) + 8)).max() < 70
    assert levels.max() < 64
    assert shares[1:].max() == 65536
    slots = context_mixing._first_slots() >> 10
    assert slots.min() > 0
    assert slots.max() < 1 << 22


def test_rows_like_the_one_above_cost_little() -> None:
    random = np.random.default_rng(5)
    alike = np.repeat(gaussian(20, 300 * 20), 5, axis=0)
    alike += random.integers(-1, 2, alike.shape)
    data, bits = encoded(alike)
    assert np.array_equal(decoded(data, alike.shape), alike)
    first = encoded(alike[::5])[1]
    difference = 2.2  # bits: of two independent ones of -1, 0 and 1
    assert bits < first + 1.05 * difference * alike[::5].size * 4
    apart = gaussian(20, 300 * 100)  # and where there are none, their flags cost nearly nothing
    assert encoded(apart)[1] < entropy_bits(20) * apart.size * 1.02
