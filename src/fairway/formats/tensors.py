"""Quantized tensors as a file stores them: integer codes, the steps they count, and where they go.

A weight is code · step. A step is 2^(e/4): its exponent e is the sum of one for the row and one
for the column, so that a matrix needs m + n small integers for m · n steps, and every machine
computes the same float32. Matrices of the quantizer `rtn` have an fp16 scale per row instead.

Legend: m rows (outputs), n columns (inputs).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Part = Literal["embedding", "attention", "mlp", "bigram", "small"]
Grid = Literal["log2_quarter", "fp16_row"]
Weights = NDArray[np.float32]
Integers = NDArray[np.int64]
Codes = NDArray[np.int16]
Vector = tuple[Codes, int]
"""Codes of any shape, and the exponent of their one step."""

LARGEST_CODE = 32767
NARROW_CODE = 127  # of a matrix that is not marked wide
LARGEST_EXPONENT = 400  # of a row or a column, in quarters of an octave
# 2^(0/4) to 2^(3/4), by their bits: no rounding mode can change them.
_QUARTERS = np.array([0x3F800000, 0x3F9837F0, 0x3FB504F3, 0x3FD744FD], np.uint32).view(np.float32)


class TensorSpec(NamedTuple):
    """One tensor of a network, as the network tells a file's reader and writer about it."""

    name: str
    shape: tuple[int, ...]
    part: Part  # of the artifact; all tensors of "small" are vectors, all others matrices
    coder_kind: int  # tensors of one kind share statistics in formats/context_mixing.py


@dataclass(frozen=True)
class Matrix:
    """A quantized matrix; its grid says how rows and columns give the steps."""

    codes: Codes  # [m, n]
    rows: Integers  # [m]: exponents (log2_quarter), or the bits of fp16 scales (fp16_row)
    columns: Integers  # [n]: exponents; all 0 with fp16_row
    grid: Grid = "log2_quarter"


@dataclass(frozen=True)
class Quantized:
    """All tensors of a network as integers."""

    matrices: Mapping[str, Matrix]
    vectors: Mapping[str, Vector]

    def weights(self) -> dict[str, Weights]:
        """Return float32 weights by name, as a decoder gets them."""
        decoded = {n: weights_from_codes(m) for n, m in self.matrices.items()}
        return decoded | {n: values_from_vector(*v) for n, v in self.vectors.items()}


def step_sizes(exponents: Integers) -> Weights:
    """Return 2^(e/4) in float32, of the exponents' shape."""
    steps: Weights = np.ldexp(_QUARTERS[exponents & 3], (exponents >> 2).astype(np.int32))
    return steps


def steps_of(matrix: Matrix) -> Weights:
    """Return the step of every weight: float32, [m, 1] for fp16_row, else [m, n]."""
    if matrix.grid == "fp16_row":
        scales = matrix.rows.astype(np.uint16).view(np.float16).astype(np.float32)
        return scales[:, None]
    return step_sizes(matrix.rows[:, None] + matrix.columns)


def step_range(matrix: Matrix) -> tuple[float, float]:
    """Return the smallest and the largest step of a matrix; zeros for an empty one."""
    steps = steps_of(matrix)
    return (float(steps.min()), float(steps.max())) if steps.size else (0.0, 0.0)


def weights_from_codes(matrix: Matrix) -> Weights:
    """Return float32[m, n], the same bits on every machine."""
    weights: Weights = matrix.codes.astype(np.float32) * steps_of(matrix)
    return weights


def values_from_vector(codes: Codes, exponent: int) -> Weights:
    """Return float32 values of the codes' shape."""
    return np.asarray(codes.astype(np.float32) * step_sizes(np.array(exponent)))
