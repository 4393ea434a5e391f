"""Quantizers that round to a grid: integer codes from weights, without calibration.

`uniform` rounds to steps 2^(e/4) with an exponent per row; `rtn` is the starting system's rule
(pull request 264), with an fp16 scale per row. formats/tensors.py turns codes into weights.

Legend: m rows (outputs), n columns (inputs), W [m, n] the weights.
"""

from __future__ import annotations

import math
from functools import cache
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fairway.config.schema import Pack
from fairway.formats.tensors import (
    LARGEST_CODE,
    LARGEST_EXPONENT,
    Codes,
    Integers,
    Matrix,
    Part,
    Vector,
    Weights,
    step_sizes,
)

RowScale = Literal["std", "max"]

VECTOR_LEVELS = 128  # steps per root mean square of a vector
SPREADS = 4.0  # standard deviations under the largest code of `rtn`, for row_scale "std"
USEFUL_CODE = 8191  # steps so fine that codes grow beyond change nothing any more
_NORMAL = NormalDist()
_SMALLEST_SCALE = np.finfo(np.float16).smallest_normal


def bits_of(part: Part, pack: Pack) -> int:
    """Return the bits of the codes that `rtn` gives a part's matrices."""
    return {
        "embedding": pack.embed_bits,
        "attention": pack.attention_bits,
        "mlp": pack.mlp_bits,
        "bigram": pack.bigram_bits,
    }[part]


def rtn(weights: Weights, bits: int, row_scale: RowScale) -> Matrix:
    """Round with a scale per row: s_r = fp16(a_r / c), code = clamp(round(w / s_r), -(c+1), c).

    c = 2^(bits-1) - 1; a_r is max_j |w_rj| ("max", the original's) or 4·std_j(w_rj) ("std"; 8 bits
    keep "max"). Unlike the original's, scales have no floor of 1/127 and 8-bit rows no clipping.
    Raises ValueError when a weight is not finite or too large for an fp16 scale.
    """
    top = 2 ** (bits - 1) - 1
    if row_scale == "max" or bits == 8:
        reach = np.max(np.abs(weights), axis=1, initial=0.0)
    else:
        reach = SPREADS * row_rms(weights)
    limit = reach / np.float32(top)
    if not np.all(limit <= np.finfo(np.float16).max):
        raise ValueError("a weight is not finite or too large")
    scales = np.maximum(limit, _SMALLEST_SCALE).astype(np.float16)
    codes = np.rint(weights / scales.astype(np.float32)[:, None])
    codes = np.clip(codes, -top - 1, top).astype(np.int16)
    columns = np.zeros(weights.shape[1], np.int64)
    return Matrix(codes, scales.view(np.uint16).astype(np.int64), columns, "fp16_row")


def uniform(weights: Weights, step: float | NDArray[np.float64]) -> Matrix:
    """Round each row to multiples of about step · std(row), step [m] or one, without clipping.

    Raises ValueError when a weight is not finite.
    """
    check_finite(weights)
    rows = exponents(np.log2(row_rms(weights) * step))
    columns = np.zeros(weights.shape[1], np.int64)
    return Matrix(clamped(np.rint(weights / step_sizes(rows)[:, None])), rows, columns)


def row_rms(weights: Weights) -> NDArray[np.float64]:
    """Return the root mean square of each row, [m], and a little where it is 0."""
    squares = np.mean(np.square(weights, dtype=np.float64), axis=1)
    rms: NDArray[np.float64] = np.maximum(np.sqrt(squares), 1e-30)
    return rms


def exponents(log2_steps: NDArray[np.float64]) -> Integers:
    """Return the nearest exponents of steps that are given by their logarithms."""
    return np.clip(np.rint(4 * log2_steps), -LARGEST_EXPONENT, LARGEST_EXPONENT).astype(np.int64)


def check_finite(weights: Weights) -> None:
    """Raise ValueError when a weight is not finite."""
    if not np.all(np.isfinite(weights)):
        raise ValueError("a weight is not finite or too large")


def clamped(codes: Weights) -> Codes:
    """Return rounded codes as integers. Raises ValueError when one is not finite."""
    check_finite(codes)
    return np.clip(codes, -LARGEST_CODE, LARGEST_CODE).astype(np.int16)


def vector(values: Weights) -> Vector:
    """Quantize a gain, mix or skip: codes of its shape, and the exponent of their one step.

    The step is at most 1/128 of the root mean square: about 7 bits, far finer than the matrices.
    """
    rms = float(np.sqrt(np.mean(np.square(values, dtype=np.float64)))) if values.size else 0.0
    if not np.isfinite(rms):
        raise ValueError("a weight is not finite or too large")
    exponent = int(np.floor(4 * np.log2(max(rms, 1e-20) / VECTOR_LEVELS)))
    exponent = min(max(exponent, -LARGEST_EXPONENT), LARGEST_EXPONENT)
    return clamped(np.rint(values / step_sizes(np.array(exponent)))), exponent


@cache
def entropy_bits(spread: float) -> float:
    """Return the bits of entropy of a Gaussian of this standard deviation, rounded to integers."""
    if spread > 64:
        return math.log2(spread * math.sqrt(2 * math.pi * math.e))
    total, k = 0.0, 0
    while k <= 8 * spread + 8:
        p = _NORMAL.cdf((k + 0.5) / spread) - _NORMAL.cdf((k - 0.5) / spread)
        if p > 0:
            total -= (1 if k == 0 else 2) * p * math.log2(p)
        k += 1
    return total
