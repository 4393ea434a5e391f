"""Quantizers against the rule of REFERENCE A7, written out a second time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairway.model.gpt import skeleton
from fairway.pack import quantize
from fairway.recipe import Model, Pack


def rows(seed: int, shape: tuple[int, int], spread: float = 0.1) -> np.ndarray:
    random = np.random.default_rng(seed)
    weights = random.standard_normal(shape) * np.exp(spread * random.standard_normal((shape[0], 1)))
    return weights.astype(np.float32)


@pytest.mark.parametrize(("bits", "c"), [(5, 15), (6, 31), (8, 127)])
def test_rtn_is_the_rule_of_the_reference(bits: int, c: int) -> None:
    weights = rows(0, (40, 96))
    weights[3] = 0
    codes, scales = quantize.codes_from_weights(weights, bits, "max")
    for row, found, scale in zip(weights, codes, scales, strict=True):
        s = np.float16(max(np.abs(row).max() / np.float32(c), 1e-12))
        s = max(s, np.finfo(np.float16).tiny)
        assert scale == s
        assert found.tolist() == [min(max(round(float(w / np.float32(s))), -c - 1), c) for w in row]


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 1 << 30), st.integers(2, 8), st.integers(1, 9), st.integers(0, 40),
    st.floats(-9, 4),
)  # fmt: skip
def test_pairs_round_trip(seed: int, bits: int, height: int, width: int, power: float) -> None:
    """Off by at most half a step, and rounded weights are a fixed point."""
    weights = rows(seed, (height, width)) * np.float32(10.0**power)
    codes, scales = quantize.codes_from_weights(weights, bits, "max")
    assert codes.shape == weights.shape
    assert np.abs(codes.astype(int)).max(initial=0) <= 2 ** (bits - 1) - 1
    back = quantize.weights_from_codes(codes, scales)
    assert back.dtype == np.float32
    step = scales.astype(np.float32)[:, None]
    # at the row's largest weight the rounding of the scale to fp16 adds to it
    assert np.all(np.abs(back - weights) <= step * (0.5 + 2.0 ** (bits - 12)))
    assert np.array_equal(quantize.rounded(back, bits, "max"), back)


@pytest.mark.parametrize("row_scale", ["std", "max"])
def test_zero_rows_stay_zero(row_scale: quantize.RowScale) -> None:
    codes, scales = quantize.codes_from_weights(np.zeros((3, 4), np.float32), 5, row_scale)
    assert not codes.any()
    assert np.all(scales > 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
def test_diverged_weights_are_refused(bad: float) -> None:
    weights = np.ones((2, 3), np.float32)
    weights[1, 2] = bad
    with pytest.raises(ValueError, match="not finite or too large"):
        quantize.codes_from_weights(weights, 8, "max")
    with pytest.raises(ValueError, match="not finite or too large"):
        quantize.codes_from_weights(weights, 5, "std")
    with pytest.raises(ValueError, match="not finite or too large"):
        quantize.rounded(weights, quantize.FLOAT_BITS, "max")


@pytest.mark.parametrize("bits", [5, 6])
def test_a_row_scale_by_spread_ignores_one_outlier(bits: int) -> None:
    weights = rows(2, (1, 4096))
    _, quiet = quantize.codes_from_weights(weights, bits, "std")
    weights[0, 7] = 12.0
    codes, loud = quantize.codes_from_weights(weights, bits, "std")
    top = 2 ** (bits - 1) - 1
    assert codes[0, 7] == top  # clipped
    assert loud[0] == pytest.approx(quiet[0], rel=0.03)
    assert quiet[0] * top == pytest.approx(4 * weights[0, 8:].std(), rel=0.02)


def test_every_matrix_of_the_network_is_quantized() -> None:
    """Small: gains, mixes, skips, gates. In pull request 264's shape 25,689 of them."""
    shape = Model(num_layers=11, dim=512, num_heads=8, num_kv_heads=4, window=2048)
    sizes = dict.fromkeys(("embedding", "attention", "mlp", "bigram", "small"), 0)
    for name, dims in skeleton(shape, 1024, 0).items():
        sizes[quantize.part_of(name)] += int(np.prod(dims))
    assert sizes == {
        "embedding": 1024 * 512,
        "attention": 11 * (2 * 512 + 2 * 256) * 512,
        "mlp": 11 * 2 * 1536 * 512,
        "bigram": 2048 * 64 + 512 * 64,
        "small": 58_457 - 512 * 64,
    }
    assert [quantize.bits_of(part, Pack()) for part in sizes] == [8, 6, 5, 6, 16]
