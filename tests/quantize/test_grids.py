"""Quantizers; `rtn` against the rule of pull request 264, written out a second time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairway.config.schema import Model, Pack
from fairway.formats import tensors
from fairway.formats.tensors import LARGEST_CODE, LARGEST_EXPONENT, Matrix
from fairway.model.parameters import tensors_of
from fairway.quantize import grids
from fairway.quantize.grids import RowScale

seeds = st.integers(0, 1 << 30)


def rows(seed: int, shape: tuple[int, int], spread: float = 0.1) -> np.ndarray:
    random = np.random.default_rng(seed)
    weights = random.standard_normal(shape) * np.exp(spread * random.standard_normal((shape[0], 1)))
    return weights.astype(np.float32)


# Steps -------------------------------------------------------------------------------------------


def test_steps_are_quarters_of_an_octave() -> None:
    exponents = np.arange(-480, 481)
    steps = tensors.step_sizes(exponents)
    assert steps.dtype == np.float32
    assert np.allclose(steps, np.exp2(exponents / 4), rtol=1e-7, atol=0)
    assert np.array_equal(steps[4:], 2 * steps[:-4])  # exactly: every machine has the same bits
    assert np.array_equal(grids.exponents(np.log2(steps.astype(np.float64)))[81:-80],
                          exponents[81:-80])  # fmt: skip
    assert np.abs(grids.exponents(np.array([-1e9, 1e9]))).tolist() == [LARGEST_EXPONENT] * 2


@settings(deadline=None, max_examples=60)
@given(seeds, st.integers(1, 9), st.integers(0, 20))
def test_steps_of_a_matrix_multiply_rows_and_columns(seed: int, m: int, n: int) -> None:
    random = np.random.default_rng(seed)
    matrix = Matrix(
        random.integers(-LARGEST_CODE, LARGEST_CODE + 1, (m, n)).astype(np.int16),
        random.integers(-60, 60, m),
        random.integers(-60, 60, n),
    )
    steps = tensors.steps_of(matrix)
    assert steps.shape == (m, n)
    exact = np.exp2(matrix.rows / 4)[:, None] * np.exp2(matrix.columns / 4)
    assert np.allclose(steps, exact, rtol=3e-7)
    weights = tensors.weights_from_codes(matrix)
    assert weights.dtype == np.float32
    assert np.array_equal(weights, matrix.codes * steps)
    if n:
        assert tensors.step_range(matrix) == (steps.min(), steps.max())


# uniform -----------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=80)
@given(
    seeds, st.integers(1, 9), st.integers(1, 40), st.floats(-9, 9), st.floats(0.001, 4),
)  # fmt: skip
def test_uniform_is_off_by_half_a_step(
    seed: int, m: int, n: int, power: float, step: float
) -> None:
    weights = rows(seed, (m, n), 1.0) * np.float32(10.0**power)
    matrix = grids.uniform(weights, step)
    steps = tensors.steps_of(matrix)
    assert np.all(np.abs(tensors.weights_from_codes(matrix) - weights) <= steps * 0.50001)
    wanted = step * np.sqrt(np.mean(np.square(weights, dtype=np.float64), axis=1))
    assert np.abs(np.log2(steps[:, 0] / wanted)).max() <= 0.1251  # the nearest quarter-octave
    assert not matrix.columns.any()


# rtn ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bits", "c"), [(5, 15), (6, 31), (8, 127)])
def test_rtn_is_the_rule_of_the_reference(bits: int, c: int) -> None:
    weights = rows(0, (40, 96))
    weights[3] = 0
    matrix = grids.rtn(weights, bits, "max")
    assert matrix.grid == "fp16_row"
    scales = matrix.rows.astype(np.uint16).view(np.float16)
    for row, found, scale in zip(weights, matrix.codes, scales, strict=True):
        s = np.float16(max(np.abs(row).max() / np.float32(c), 1e-12))
        s = max(s, np.finfo(np.float16).tiny)
        assert scale == s
        assert found.tolist() == [min(max(round(float(w / np.float32(s))), -c - 1), c) for w in row]


@settings(deadline=None, max_examples=60)
@given(seeds, st.integers(2, 8), st.integers(1, 9), st.integers(0, 40), st.floats(-9, 4))
def test_rtn_round_trips(seed: int, bits: int, height: int, width: int, power: float) -> None:
    """Off by at most half a step, and rounded weights are a fixed point."""
    weights = rows(seed, (height, width)) * np.float32(10.0**power)
    matrix = grids.rtn(weights, bits, "max")
    assert np.abs(matrix.codes.astype(int)).max(initial=0) <= 2 ** (bits - 1) - 1
    back = tensors.weights_from_codes(matrix)
    # at the row's largest weight the rounding of the scale to fp16 adds to it
    assert np.all(np.abs(back - weights) <= tensors.steps_of(matrix) * (0.5 + 2.0 ** (bits - 12)))
    again = grids.rtn(back, bits, "max")
    assert np.array_equal(tensors.weights_from_codes(again), back)


@pytest.mark.parametrize("bits", [5, 6])
def test_a_row_scale_by_spread_ignores_one_outlier(bits: int) -> None:
    weights = rows(2, (1, 4096))
    quiet = tensors.step_range(grids.rtn(weights, bits, "std"))[0]
    weights[0, 7] = 12.0
    matrix = grids.rtn(weights, bits, "std")
    top = 2 ** (bits - 1) - 1
    assert matrix.codes[0, 7] == top  # clipped
    assert tensors.step_range(matrix)[0] == pytest.approx(quiet, rel=0.03)
    assert quiet * top == pytest.approx(4 * weights[0, 8:].std(), rel=0.02)


# All ---------------------------------------------------------------------------------------------

QUANTIZERS: dict[str, Callable[[np.ndarray], Matrix]] = {
    "uniform": lambda w: grids.uniform(w, 0.1),
    "rtn std": lambda w: grids.rtn(w, 5, "std"),
    "rtn max": lambda w: grids.rtn(w, 8, "max"),
}


@pytest.mark.parametrize("name", QUANTIZERS)
def test_zero_rows_stay_zero(name: str) -> None:
    matrix = QUANTIZERS[name](np.zeros((3, 4), np.float32))
    assert not matrix.codes.any()
    assert np.all(np.isfinite(tensors.steps_of(matrix)))
    assert np.all(tensors.steps_of(matrix) > 0)


@pytest.mark.parametrize("name", QUANTIZERS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_diverged_weights_are_refused(name: str, bad: float) -> None:
    weights = np.ones((2, 3), np.float32)
    weights[1, 2] = bad
    with pytest.raises(ValueError, match="not finite or too large"):
        QUANTIZERS[name](weights)


@pytest.mark.parametrize("row_scale", ["std", "max"])
def test_rtn_refuses_weights_beyond_its_scales(row_scale: RowScale) -> None:
    with pytest.raises(ValueError, match="not finite or too large"):
        grids.rtn(np.full((2, 3), 3e38, np.float32), 5, row_scale)


@settings(deadline=None, max_examples=100)
@given(seeds, st.integers(0, 300), st.floats(-15, 15), st.floats(0, 3))
def test_vectors_are_off_by_half_a_step(seed: int, n: int, power: float, offset: float) -> None:
    values = rows(seed, (1, n))[0]
    values = ((values + offset) * 10.0**power).astype(np.float32)
    codes, exponent = grids.vector(values)
    back = tensors.values_from_vector(codes, exponent)
    assert back.shape == values.shape
    assert back.dtype == np.float32
    rms = float(np.sqrt(np.mean(np.square(values, dtype=np.float64)))) if n else 0.0
    step = 2.0 ** (exponent / 4)
    assert np.all(np.abs(back - values) <= step * 0.50001)
    if rms:
        assert rms / 128 / 2**0.25 * 0.999 <= step <= rms / 128 * 1.001


def test_scalars_zeros_and_ones_are_stored_well() -> None:
    for values in (np.float32(3.7), np.zeros(4, np.float32), np.ones((2, 3), np.float32)):
        codes, exponent = grids.vector(np.asarray(values))
        back = tensors.values_from_vector(codes, exponent)
        assert back.shape == np.shape(values)
        assert np.allclose(back, values, rtol=1 / 256)
    with pytest.raises(ValueError, match="not finite"):
        grids.vector(np.array([1, np.nan], np.float32))


def test_every_matrix_of_the_network_is_quantized() -> None:
    """Small: gains, mixes, skips, gates. In pull request 264's shape 25,689 of them."""
    shape = Model(num_layers=11, dim=512, num_heads=8, num_kv_heads=4, window=2048)
    sizes = dict.fromkeys(("embedding", "attention", "mlp", "bigram", "small"), 0)
    for tensor in tensors_of(shape, 1024):
        sizes[tensor.part] += int(np.prod(tensor.shape))
    assert sizes == {
        "embedding": 1024 * 512,
        "attention": 11 * (2 * 512 + 2 * 256) * 512,
        "mlp": 11 * 2 * 1536 * 512,
        "bigram": 2048 * 64 + 512 * 64,
        "small": 58_457 - 512 * 64,
    }
    assert [grids.bits_of(part, Pack()) for part in list(sizes)[:4]] == [8, 6, 5, 6]
