"""Rounding with feedback: what it does to the quadratic form that stands for the loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fairway.formats import tensors, weight_streams
from fairway.formats.range_coder import Coder
from fairway.formats.tensors import Matrix, TensorSpec
from fairway.quantize import gptq, grids
from fairway.quantize.gptq import FactoredHessian
from fairway.train.calibrate import Curvature

seeds = st.integers(0, 1 << 30)
widths = st.integers(2, 150)


def curvature(seed: int, m: int, n: int) -> Curvature:
    """Inputs whose directions matter very differently, as those of a network."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(4 * n, n, generator=random) * torch.logspace(0, -2, n)
    x = x @ torch.linalg.qr(torch.randn(n, n, generator=random)).Q
    return Curvature(x.T @ x / len(x), torch.rand(m, generator=random) ** 4 + 1e-3)


def normal(seed: int, m: int, n: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((m, n)).astype(np.float32)


def damped(a: torch.Tensor) -> np.ndarray:
    found = a.double().numpy()
    return found + gptq._DAMPING * found.diagonal().mean() * np.eye(len(found))


def loss(error: np.ndarray, a: np.ndarray) -> float:
    return float(np.einsum("ri,ij,rj->", error, a, error, optimize=True))


@settings(deadline=None, max_examples=40)
@given(seeds, widths)
def test_factors_reproduce_the_damped_form(seed: int, n: int) -> None:
    known = curvature(seed, 3, n)
    hessian = FactoredHessian.of(known, "mlp")
    unit = hessian.upper.double().numpy()
    assert np.array_equal(unit, np.triu(unit))
    assert np.all(unit.diagonal() == 1)
    a = damped(known.inputs)
    rebuilt = unit * np.exp2(hessian.log2_columns) @ unit.T
    assert np.abs(rebuilt - a).max() <= 1e-5 * np.abs(a).max()


@settings(deadline=None, max_examples=30)
@given(seeds, widths, st.floats(-3, 0))
def test_feedback_beats_plain_rounding(seed: int, n: int, log2_step: float) -> None:
    """With equal steps; over few columns chance may still decide by some percent."""
    known = curvature(seed, 64, n)
    weights, step = normal(seed, 64, n), np.float32(2**log2_step)
    hessian, steps = FactoredHessian.of(known, "mlp"), np.full((64, n), step)
    error = gptq.ldlq(weights, hessian.upper, steps) * step - weights
    plain = np.rint(weights / step) * step - weights
    a = damped(known.inputs)
    assert loss(error, a) < loss(plain, a) * (1.0 if n >= 16 else 1.3)
    # What is left is D alone, as if every rounding error were uniform: step² / 12.
    expected = 64 * float(np.exp2(hessian.log2_columns).sum()) * step**2 / 12
    if n >= 16:
        assert loss(error, a) == pytest.approx(expected, rel=0.35)


@settings(deadline=None, max_examples=30)
@given(seeds, widths)
def test_what_is_left_are_the_rounding_errors_alone(seed: int, n: int) -> None:
    """e U = η: the form of the errors is Σ D_k η_k², each η at most half a step."""
    known = curvature(seed, 5, n)
    hessian, weights = FactoredHessian.of(known, "attention"), normal(seed, 5, n)
    steps = tensors.step_sizes(np.random.default_rng(seed).integers(-12, 0, (5, n)))
    error = gptq.ldlq(weights, hessian.upper, steps).astype(np.float64) * steps - weights
    eta = error @ hessian.upper.double().numpy()
    assert np.all(np.abs(eta) <= 0.5 * steps + 1e-4)
    left = float((np.exp2(hessian.log2_columns) * eta**2).sum())
    assert loss(error, damped(known.inputs)) == pytest.approx(left, rel=1e-3)


@settings(deadline=None, max_examples=30)
@given(seeds, widths)
def test_with_a_diagonal_form_it_is_plain_rounding(seed: int, n: int) -> None:
    random = torch.Generator().manual_seed(seed)
    known = Curvature(torch.diag(torch.rand(n, generator=random) + 0.01), torch.ones(6))
    hessian, weights = FactoredHessian.of(known, "mlp"), normal(seed, 6, n)
    matrix = gptq.gptq(weights, hessian, -6.0)
    steps = tensors.steps_of(matrix)
    assert np.array_equal(matrix.codes, np.rint(weights / steps))


@settings(deadline=None, max_examples=30)
@given(seeds, st.integers(1, 20), widths, st.floats(-30, 10))
def test_steps_are_water_filled(seed: int, m: int, n: int, log2_theta: float) -> None:
    """g_r · D_k · Δ² is θ for every weight, up to the grids of rows and columns."""
    hessian = FactoredHessian.of(curvature(seed, m, n), "mlp")
    rows, columns = hessian.steps(log2_theta)
    steps = np.exp2((rows[:, None] + columns) / 4)
    level = hessian.log2_rows[:, None] + hessian.log2_columns + 2 * np.log2(steps)
    assert np.abs(level - log2_theta).max() <= 0.5001  # two roundings to quarters, squared


def test_water_filling_costs_less_than_equal_steps_of_as_many_bytes() -> None:
    """The reason for an exponent per row and per column."""
    known, weights = curvature(1, 96, 128), normal(1, 96, 128)
    hessian, up = FactoredHessian.of(known, "mlp"), TensorSpec("up", weights.shape, "mlp", 4)

    def bytes_and_nats(matrix: Matrix) -> tuple[int, float]:
        coder = Coder()
        weight_streams.code_matrices(coder, {"up": matrix}, [up], "log2_quarter")
        rounded = tensors.weights_from_codes(matrix)
        return len(coder.finish()), gptq.predicted_nats(weights, rounded, known)

    def even(exponent: int) -> Matrix:
        rows, columns = np.full(96, exponent), np.zeros(128, np.int64)
        steps = tensors.step_sizes(rows[:, None] + columns)
        codes = grids.clamped(gptq.ldlq(weights, hessian.upper, steps))
        return Matrix(codes, rows, columns)

    size, nats = bytes_and_nats(gptq.gptq(weights, hessian, -9.0))
    sizes = [bytes_and_nats(even(exponent)) for exponent in range(-20, 8)]
    even_size, even_nats = min(pair for pair in sizes if pair[0] >= size)
    assert even_size < 1.2 * size
    assert even_nats > 1.3 * nats


@settings(deadline=None, max_examples=30)
@given(seeds, st.integers(1, 9), widths)
def test_predicted_nats_is_the_sum_over_rows(seed: int, m: int, n: int) -> None:
    known, weights = curvature(seed, m, n), normal(seed, m, n)
    rounded = weights + 0.01 * normal(seed + 1, m, n)
    a, g = known.inputs.double().numpy(), known.outputs.double().numpy()
    e = (rounded - weights).astype(np.float64)
    direct = 0.5 * sum(g[r] * e[r] @ a @ e[r] for r in range(m))
    assert gptq.predicted_nats(weights, rounded, known) == pytest.approx(direct, rel=1e-3)


def test_weights_that_no_text_reached_cost_nothing_and_break_nothing() -> None:
    dead = Curvature(torch.zeros(8, 8), torch.zeros(4))
    matrix = gptq.gptq(normal(0, 4, 8), FactoredHessian.of(dead, "bigram"), -10.0)
    assert not matrix.codes.any()
    assert np.all(np.isfinite(tensors.steps_of(matrix)))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_diverged_weights_are_refused(bad: float) -> None:
    weights = normal(0, 4, 8)
    weights[2, 3] = bad
    with pytest.raises(ValueError, match="not finite or too large"):
        gptq.gptq(weights, FactoredHessian.of(curvature(0, 4, 8), "mlp"), -6.0)


def test_rows_that_matter_beyond_measure_are_rounded_finely_and_no_finer() -> None:
    """As the embeddings of a network whose residual stream is large: no code is cut off."""
    random = np.random.default_rng(5)
    weights = random.normal(size=(6, 8)).astype(np.float32)
    weights[5] = 0
    inputs = torch.eye(8)
    outputs = torch.tensor([1e12, 1e12, 1.0, 1.0, 1.0, 1.0])
    hessian = FactoredHessian.of(Curvature(inputs, outputs), "attention")
    matrix = gptq.gptq(weights, hessian, -16.0)
    assert np.abs(matrix.codes).max(axis=1).tolist()[5] == 0
    assert 4000 < np.abs(matrix.codes[:2]).max() <= gptq.USEFUL_CODE
    error = np.abs(tensors.weights_from_codes(matrix) - weights)
    assert error[:2].max() < 1e-3
    assert error[2:].max() < 0.02
