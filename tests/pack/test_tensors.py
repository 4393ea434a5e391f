"""Static histograms: round trips, how close they come to the entropy, damaged streams."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairway.errors import BadInput
from fairway.pack import tensors
from fairway.rangecoder import TOTAL, Coder


def test_levels_keep_four_leading_bits() -> None:
    assert [tensors.level(n) for n in (0, 1, 15, 16, 17, 30, 31, 32, 35)] == [
        0, 1, 15, 16, 16, 23, 23, 24, 24,
    ]  # fmt: skip
    assert [tensors.count_of(tensors.level(n)) for n in range(16)] == list(range(16))
    for n in [*range(16, 5000), 10**6, 10**9]:
        assert abs(tensors.count_of(tensors.level(n)) / n - 1) <= 1 / 16
    assert tensors.level(2**31 - 1) < 256


@given(st.lists(st.integers(0, 1 << 40), min_size=1, max_size=256))
def test_cumulative_is_what_the_coder_wants(weights: list[int]) -> None:
    table = tensors.cumulative(weights)
    assert table[0] == 0
    assert table[-1] == TOTAL
    assert np.all(np.diff(table) >= 1)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 256), st.data())
def test_symbols_round_trip(alphabet: int, data: st.DataObject) -> None:
    values = data.draw(st.lists(st.integers(0, alphabet - 1), max_size=300))
    symbols = np.array(values, np.uint8)
    encoder = Coder()
    tensors.code_symbols(encoder, symbols, len(symbols), alphabet)
    decoder = Coder(encoder.finish())
    assert np.array_equal(tensors.code_symbols(decoder, None, len(symbols), alphabet), symbols)
    decoder.check_end()


def test_every_half_round_trips() -> None:
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    encoder = Coder()
    tensors.code_halves(encoder, halves, len(halves))
    decoder = Coder(encoder.finish())
    found = tensors.code_halves(decoder, None, len(halves))
    assert np.array_equal(found.view(np.uint16), halves.view(np.uint16))


@pytest.mark.parametrize("bits", [2, 5, 6, 8])
def test_gaussian_codes_cost_their_entropy(bits: int) -> None:
    """Histogram and its rounding: under 0.1 % and 60 bytes above the order-0 entropy."""
    random = np.random.default_rng(bits)
    top = 2 ** (bits - 1) - 1
    codes = np.rint(random.standard_normal((300, 400)) * top / 3).clip(-top - 1, top)
    encoder = Coder()
    tensors.code_codes(encoder, codes.astype(np.int8), codes.shape, bits)
    data = encoder.finish()
    share = np.unique(codes, return_counts=True)[1] / codes.size
    entropy_bytes = -(share * np.log2(share)).sum() * codes.size / 8
    assert entropy_bytes - 1 <= len(data) <= entropy_bytes * 1.001 + (60 if bits < 8 else 160)
    decoder = Coder(data)
    assert np.array_equal(tensors.code_codes(decoder, None, codes.shape, bits), codes)
    decoder.check_end()


def test_matrices_round_trip_and_their_bits_sum_to_the_stream() -> None:
    random = np.random.default_rng(0)
    shapes = {"a": (7, 30), "b": (1, 5), "none": (3, 0)}
    matrices = {
        name: tensors.Matrix(
            random.integers(-16, 16, shape).astype(np.int8),
            random.standard_normal(shape[0]).astype(np.float16),
        )
        for name, shape in shapes.items()
    }
    encoder = Coder()
    tensors.code_matrices(encoder, matrices, shapes, 5)
    data = encoder.finish()
    found, spent = tensors.code_matrices(Coder(data), None, shapes, 5)
    for name in shapes:
        assert np.array_equal(found[name].codes, matrices[name].codes)
        assert np.array_equal(found[name].scales, matrices[name].scales)
    assert 0 <= 8 * len(data) - sum(spent.values()) <= 8


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=80))
def test_any_bytes_decode_to_something_or_are_refused(data: bytes) -> None:
    decoder = Coder(data)
    found, _ = tensors.code_matrices(decoder, None, {"a": (4, 6), "b": (0, 3)}, 3)
    small = tensors.code_small(decoder, None, {"c": (5,), "d": ()})
    assert found["a"].codes.min() >= -4
    assert found["a"].codes.max() <= 3
    assert small["d"].shape == ()
    with suppress(BadInput):
        decoder.check_end()
