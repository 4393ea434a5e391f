"""Rounding that knows the loss: every error is made up for by the weights that are still to come.

The loss feels an error E in a matrix as ½ Σ_r g_r · e_r A e_rᵀ (train/calibrate.py). With
A = U D Uᵀ, U unit upper triangular, columns are rounded from left to right, each after adding what
the errors before it call for: code_k = round((w_k + Σ_{i<k} e_i U_ik) / Δ_k). What is left of the
loss is ½ Σ_r g_r Σ_k D_k η_rk², η the rounding errors alone (GPTQ, Frantar et al. 2022; in this
form LDLQ of QuIP, Chee et al. 2023).

As every code costs -log2 Δ + const bits, the fewest bits for a loss come with g_r D_k Δ_rk² equal
for all weights of the network (reverse water-filling; WaterSIC, Lifar et al. 2025, for columns):
Δ_rk = √(θ / (g_r D_k)), one θ for everything. Weights that matter little get code 0 and no bits.

Legend: m rows (outputs), n columns (inputs), W [m, n].
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fairway.formats.tensors import Integers, Matrix, Part, Weights, step_sizes
from fairway.quantize.grids import check_finite, clamped, exponents
from fairway.train.calibrate import Curvature

_DAMPING = 0.01  # of the mean diagonal, added to the diagonal
# Of the mean g, added to each: rows that calibration hardly saw may matter elsewhere.
_SMOOTHING: dict[Part, float] = {"embedding": 0.5, "bigram": 0.5, "attention": 0.1, "mlp": 0.1}
USEFUL_CODE = 8191  # steps so fine that codes grow beyond change nothing any more
_BLOCK = 64  # columns between updates of all columns that follow


@dataclass(frozen=True)
class Form:
    """A matrix's curvature, factored: unit[n, n] is U, log2_columns float64[n] is log2 D."""

    unit: Tensor
    log2_columns: NDArray[np.float64]
    log2_rows: NDArray[np.float64]  # [m], log2 g

    @staticmethod
    def of(curvature: Curvature, part: Part) -> Form:
        a = curvature.inputs.double().cpu()
        mean = float(a.diagonal().mean().clamp(min=1e-30))
        a = a + torch.eye(len(a), dtype=torch.float64) * (_DAMPING * mean)
        lower = torch.linalg.cholesky(a.flip(0, 1)).flip(0, 1)  # upper triangular: A = R Rᵀ
        diagonal = lower.diagonal()
        g = curvature.outputs.double().cpu().numpy()
        share = _SMOOTHING[part]
        g = np.maximum((g + share * g.mean()) / (1 + share), 1e-30)
        return Form((lower / diagonal).float(), 2 * np.log2(diagonal.numpy()), np.log2(g))

    def steps(self, log2_theta: float | NDArray[np.float64]) -> tuple[Integers, Integers]:
        """Exponents of rows [m] and columns [n]; log2 θ of all rows, or of each [m]."""
        return exponents((log2_theta - self.log2_rows) / 2), exponents(-self.log2_columns / 2)


def gptq(weights: Weights, form: Form, log2_theta: float | NDArray[np.float64]) -> Matrix:
    """The codes of weights float32[m, n] at θ. Raises ValueError when one is not finite."""
    check_finite(weights)
    rows, columns = form.steps(log2_theta)
    rows = np.maximum(rows, least_exponents(weights, columns))
    codes = feedback(weights, form.unit, step_sizes(rows[:, None] + columns))
    return Matrix(clamped(codes), rows, columns)


def least_exponents(weights: Weights, columns: Integers) -> Integers:
    """Exponents of rows below which codes grow beyond USEFUL_CODE, where nothing is gained: [m]."""
    largest = np.abs(weights / step_sizes(columns)).max(axis=1, initial=0.0)
    octaves = np.log2(np.maximum(largest, 1e-30) / USEFUL_CODE)
    found: Integers = np.ceil(4 * octaves).astype(np.int64)
    return found


def feedback(weights: Weights, unit: Tensor, steps: Weights) -> Weights:
    """Codes float32[m, n], column by column; a column is a row of the transposed arrays here."""
    w, step = torch.from_numpy(weights.T.copy()), torch.from_numpy(steps.T.copy())
    error, codes = torch.empty_like(w), torch.empty_like(w)
    n = len(w)
    for start in range(0, n, _BLOCK):
        stop = min(start + _BLOCK, n)
        wanted = w[start:stop] + unit[:start, start:stop].T @ error[:start]
        for k in range(start, stop):
            codes[k] = torch.round(wanted[k - start] / step[k])
            error[k] = w[k] - codes[k] * step[k]
            if k + 1 < stop:
                wanted[k + 1 - start :] += unit[k, k + 1 : stop, None] * error[k]
    return codes.T.contiguous().numpy()


def predicted_nats(weights: Weights, rounded: Weights, curvature: Curvature) -> float:
    """½ Σ_r g_r · e_r A e_rᵀ per token: what the loss should rise by."""
    error = torch.from_numpy(rounded - weights).to(curvature.inputs.device)
    quadratic = ((error @ curvature.inputs) * error).sum(1)
    found = 0.5 * float(curvature.outputs @ quadratic)
    return found if math.isfinite(found) else math.inf
