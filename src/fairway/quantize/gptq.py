"""Rounding that knows the loss: later weights of a row make up for the errors of earlier ones.

The loss rises by about ½ Σ_r g_r · e_r A e_rᵀ when a matrix has errors E with rows e_r
(train/calibrate.py). With A = U D Uᵀ, U unit upper triangular, columns are rounded from left to
right, each after adding what the errors before it call for:

    code_k = round((w_k + Σ_{i<k} e_i U_ik) / Δ_k)

The loss then rises by ½ Σ_r g_r Σ_k D_k η_rk², η the rounding errors alone (GPTQ, Frantar and
others 2022; in this form LDLQ of QuIP, Chee and others 2023).

A code costs const - log2 Δ bits. So the fewest bits for a loss come with g_r D_k Δ_rk² equal for
all weights of the network (reverse water-filling; for columns WaterSIC, Lifar and others 2025):
Δ_rk = √(θ / (g_r D_k)), one θ for all. Weights that matter little get code 0 and next to no bits.

Legend: m rows (outputs), n columns (inputs), weights [m, n].
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fairway.formats.tensors import Integers, Matrix, Part, Weights, step_sizes
from fairway.model.parameters import kind_of
from fairway.quantize.grids import USEFUL_CODE, check_finite, clamped, exponents
from fairway.train.calibrate import Curvature

_DAMPING = 0.01  # of the mean diagonal, added to the diagonal
# Of the mean g, added to each: rows that calibration hardly saw may matter elsewhere.
_SMOOTHING: dict[Part, float] = {"embedding": 0.5, "bigram": 0.5, "attention": 0.1, "mlp": 0.1}
_BLOCK = 64  # columns between updates of all columns that follow


@dataclass(frozen=True)
class FactoredHessian:
    """A matrix's curvature, with its inputs factored as U D Uᵀ."""

    upper: Tensor  # U, float32[n, n], with ones on its diagonal
    log2_columns: NDArray[np.float64]  # [n], log2 D
    log2_rows: NDArray[np.float64]  # [m], log2 g

    @staticmethod
    def of(curvature: Curvature, part: Part) -> FactoredHessian:
        """Factor a curvature, damped; `part` is the artifact's part that holds the matrix."""
        a = curvature.inputs.double().cpu()
        mean = float(a.diagonal().mean().clamp(min=1e-30))
        a = a + torch.eye(len(a), dtype=torch.float64) * (_DAMPING * mean)
        upper = torch.linalg.cholesky(a.flip(0, 1)).flip(0, 1)  # A = R Rᵀ
        diagonal = upper.diagonal()
        g = curvature.outputs.double().cpu().numpy()
        share = _SMOOTHING[part]
        g = np.maximum((g + share * g.mean()) / (1 + share), 1e-30)
        return FactoredHessian(
            (upper / diagonal).float(), 2 * np.log2(diagonal.numpy()), np.log2(g)
        )

    def steps(self, log2_theta: float | NDArray[np.float64]) -> tuple[Integers, Integers]:
        """Return the exponents of rows [m] and columns [n]; log2 θ of all rows, or of each [m]."""
        return exponents((log2_theta - self.log2_rows) / 2), exponents(-self.log2_columns / 2)


def factor(curvatures: Mapping[str, Curvature]) -> dict[str, FactoredHessian]:
    """Factor the curvatures of matrices, by their names."""
    return {n: FactoredHessian.of(c, kind_of(n).part) for n, c in curvatures.items()}


def gptq(
    weights: Weights, hessian: FactoredHessian, log2_theta: float | NDArray[np.float64]
) -> Matrix:
    """Quantize weights float32[m, n] at θ. Raises ValueError when one is not finite."""
    check_finite(weights)
    rows, columns = hessian.steps(log2_theta)
    rows = np.maximum(rows, least_exponents(weights, columns))
    codes = ldlq(weights, hessian.upper, step_sizes(rows[:, None] + columns))
    return Matrix(clamped(codes), rows, columns)


def least_exponents(weights: Weights, columns: Integers) -> Integers:
    """Return the exponents of rows [m] below which codes would exceed USEFUL_CODE."""
    largest = np.abs(weights / step_sizes(columns)).max(axis=1, initial=0.0)
    octaves = np.log2(np.maximum(largest, 1e-30) / USEFUL_CODE)
    least: Integers = np.ceil(4 * octaves).astype(np.int64)
    return least


def ldlq(weights: Weights, upper: Tensor, steps: Weights) -> Weights:
    """Return codes float32[m, n], rounded column by column; steps float32[m, n].

    Arrays are transposed inside, so that a column is a row.
    """
    w, step = torch.from_numpy(weights.T.copy()), torch.from_numpy(steps.T.copy())
    error, codes = torch.empty_like(w), torch.empty_like(w)
    n = len(w)
    for start in range(0, n, _BLOCK):
        stop = min(start + _BLOCK, n)
        wanted = w[start:stop] + upper[:start, start:stop].T @ error[:start]
        for k in range(start, stop):
            codes[k] = torch.round(wanted[k - start] / step[k])
            error[k] = w[k] - codes[k] * step[k]
            if k + 1 < stop:
                wanted[k + 1 - start :] += upper[k, k + 1 : stop, None] * error[k]
    return codes.T.contiguous().numpy()


def predicted_nats(weights: Weights, rounded: Weights, curvature: Curvature) -> float:
    """Return ½ Σ_r g_r · e_r A e_rᵀ: by how many nats per token the loss should rise."""
    error = torch.from_numpy(rounded - weights).to(curvature.inputs.device)
    quadratic = ((error @ curvature.inputs) * error).sum(1)
    nats = 0.5 * float(curvature.outputs @ quadratic)
    return nats if math.isfinite(nats) else math.inf
