"""Quantizers as pairs: codes from weights, weights from codes; and which part holds which tensor.

A weight is code · step. A step is 2^(e/4): its exponent e is the sum of one for the row and one
for the column, so that a matrix needs m + n small integers for m · n steps, and every machine
computes the same float32. `rtn`, the original's rule, has an fp16 scale per row instead.

Legend: m rows (outputs), n columns (inputs), W [m, n] the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fairway.config.schema import Pack

Part = Literal["embedding", "attention", "mlp", "bigram", "small"]
Grid = Literal["quarters", "halves"]
RowScale = Literal["std", "max"]
Weights = NDArray[np.float32]
Integers = NDArray[np.int64]
Codes = NDArray[np.int16]

LARGEST_CODE = 32767
NARROW_CODE = 127  # of a matrix that is not marked wide
LARGEST_EXPONENT = 400  # of a row or a column, in quarters of an octave
VECTOR_LEVELS = 128  # steps per root mean square of a vector
SPREADS = 4.0  # standard deviations under the largest code of `rtn`, for row_scale "std"
_SMALLEST_SCALE = np.finfo(np.float16).smallest_normal
# 2^(0/4) to 2^(3/4), by their bits: no rounding mode can change them.
_QUARTERS = np.array([0x3F800000, 0x3F9837F0, 0x3FB504F3, 0x3FD744FD], np.uint32).view(np.float32)

_PARTS: dict[str, Part] = {
    "tokens": "embedding",
    "q": "attention",
    "k": "attention",
    "v": "attention",
    "o": "attention",
    "up": "mlp",
    "down": "mlp",
    "bigram_table": "bigram",
    "bigram_proj": "bigram",
    "gate": "attention",
}


@dataclass(frozen=True)
class Matrix:
    """A quantized matrix. `rows`: per row, an exponent ("quarters") or the bits of an fp16 scale
    ("halves"); `columns`: an exponent per column, all 0 with halves."""

    codes: Codes  # [m, n]
    rows: Integers  # [m]
    columns: Integers  # [n]
    grid: Grid = "quarters"


def part_of(name: str) -> Part:
    """The artifact's part that holds a parameter. Vectors, gains and mixes are `small`."""
    return _PARTS.get(name.rsplit(".", 1)[-1], "small")


def step_sizes(exponents: Integers) -> Weights:
    """2^(e/4) in float32, of any shape."""
    steps: Weights = np.ldexp(_QUARTERS[exponents & 3], (exponents >> 2).astype(np.int32))
    return steps


def bits_of(part: Part, pack: Pack) -> int:
    """Bits of the codes that `rtn` gives a part's matrices."""
    return {
        "embedding": pack.embed_bits,
        "attention": pack.attention_bits,
        "mlp": pack.mlp_bits,
        "bigram": pack.bigram_bits,
    }[part]


def steps_of(matrix: Matrix) -> Weights:
    """The step of every weight: float32, [m, 1] with halves, [m, n] with quarters."""
    if matrix.grid == "halves":
        scales = matrix.rows.astype(np.uint16).view(np.float16).astype(np.float32)
        return scales[:, None]
    return step_sizes(matrix.rows[:, None] + matrix.columns)


def step_range(matrix: Matrix) -> tuple[float, float]:
    steps = steps_of(matrix)
    return (float(steps.min()), float(steps.max())) if steps.size else (0.0, 0.0)


def weights_from_codes(matrix: Matrix) -> Weights:
    """float32[m, n], the same bits on every machine."""
    weights: Weights = matrix.codes.astype(np.float32) * steps_of(matrix)
    return weights


def rtn(weights: Weights, bits: int, row_scale: RowScale) -> Matrix:
    """REFERENCE A7: s_r = fp16(a_r / c), code = clamp(round(w / s_r), -(c+1), c).

    c = 2^(bits-1) - 1; a_r is max_j |w_rj| ("max", the original's) or 4·std_j(w_rj) ("std"; 8 bits
    keep "max"). Unlike the original's, scales have no floor of 1/127 and 8-bit rows no clipping.
    Raises ValueError when a weight is not finite or too large for an fp16 scale.
    """
    top = 2 ** (bits - 1) - 1
    if row_scale == "max" or bits == 8:
        reach = np.max(np.abs(weights), axis=1, initial=0.0)
    else:
        reach = SPREADS * np.sqrt(np.mean(np.square(weights, dtype=np.float64), axis=1))
    limit = reach / np.float32(top)
    if not np.all(limit <= np.finfo(np.float16).max):
        raise ValueError("a weight is not finite or too large")
    scales = np.maximum(limit, _SMALLEST_SCALE).astype(np.float16)
    codes = np.rint(weights / scales.astype(np.float32)[:, None])
    codes = np.clip(codes, -top - 1, top).astype(np.int16)
    columns = np.zeros(weights.shape[1], np.int64)
    return Matrix(codes, scales.view(np.uint16).astype(np.int64), columns, "halves")


def uniform(weights: Weights, step: float | NDArray[np.float64]) -> Matrix:
    """Round each row to multiples of about step · std(row), step [m] or one, without clipping.

    Raises ValueError when a weight is not finite.
    """
    check_finite(weights)
    spread = np.sqrt(np.mean(np.square(weights, dtype=np.float64), axis=1))
    rows = exponents(np.log2(np.maximum(spread, 1e-30) * step))
    columns = np.zeros(weights.shape[1], np.int64)
    return Matrix(clamped(np.rint(weights / step_sizes(rows)[:, None])), rows, columns)


def exponents(log2_steps: NDArray[np.float64]) -> Integers:
    """The nearest exponents of steps that are given by their logarithms."""
    return np.clip(np.rint(4 * log2_steps), -LARGEST_EXPONENT, LARGEST_EXPONENT).astype(np.int64)


def check_finite(weights: Weights) -> None:
    """Raise ValueError when a weight is not finite."""
    if not np.all(np.isfinite(weights)):
        raise ValueError("a weight is not finite or too large")


def clamped(codes: Weights) -> Codes:
    """Rounded codes as integers. Raises ValueError when one is not finite."""
    check_finite(codes)
    return np.clip(codes, -LARGEST_CODE, LARGEST_CODE).astype(np.int16)


def vector(values: Weights) -> tuple[Codes, int]:
    """A gain, mix, gate or skip as codes of its shape and the exponent of their one step.

    The step is at most 1/128 of the root mean square: about 7 bits, far finer than the matrices.
    """
    rms = float(np.sqrt(np.mean(np.square(values, dtype=np.float64)))) if values.size else 0.0
    if not np.isfinite(rms):
        raise ValueError("a weight is not finite or too large")
    exponent = int(np.floor(4 * np.log2(max(rms, 1e-20) / VECTOR_LEVELS)))
    exponent = min(max(exponent, -LARGEST_EXPONENT), LARGEST_EXPONENT)
    return clamped(np.rint(values / step_sizes(np.array(exponent)))), exponent


def values_from_vector(codes: Codes, exponent: int) -> Weights:
    """float32, of the codes' shape."""
    return np.asarray(codes.astype(np.float32) * step_sizes(np.array(exponent)))
