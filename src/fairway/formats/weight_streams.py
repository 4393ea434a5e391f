"""Code quantized tensors: which integers go into a stream, and in which order.

Every function works in both directions, as the Coder that it is given does: an encoder takes the
values, a decoder takes None; both return the values. Byte for byte in docs/formats.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from fairway.errors import BadInput
from fairway.formats.context_mixing import Contexts, code_raw
from fairway.formats.range_coder import Coder
from fairway.formats.tensors import (
    LARGEST_CODE,
    LARGEST_EXPONENT,
    NARROW_CODE,
    Grid,
    Integers,
    Matrix,
    TensorSpec,
    Vector,
)

STREAM_WEIGHTS = 1 << 22  # weights of a stream, about: streams are decoded side by side
VECTOR_KIND = 14  # of vectors
_ROWS, _COLUMNS = 12, 13  # coder kinds of the exponents of matrices
_LARGEST_HALF = 0x7BFF  # bits of the largest finite fp16
_START_BITS, _START = 18, 1 << 17  # of the value before a vector's first
_MEMORY = 3  # the running mean moves by 1/8 of each difference


def streams(tensors: Sequence[TensorSpec]) -> list[list[TensorSpec]]:
    """Cut the tensors of a part, in order, where a stream would grow over STREAM_WEIGHTS."""
    groups: list[list[TensorSpec]] = [[]]
    weights = 0
    for tensor in tensors:
        size = math.prod(tensor.shape)
        if weights and weights + size > STREAM_WEIGHTS:
            groups.append([])
            weights = 0
        groups[-1].append(tensor)
        weights += size
    return groups


def code_matrices(
    coder: Coder, matrices: Mapping[str, Matrix] | None, tensors: Sequence[TensorSpec], grid: Grid
) -> tuple[dict[str, Matrix], dict[str, float]]:
    """Code one stream; return its matrices and the bits that each took. Raises BadInput."""
    contexts = Contexts()
    found: dict[str, Matrix] = {}
    spent: dict[str, float] = {}
    columns: Integers | None = None
    for tensor in tensors:
        name, bits = tensor.name, coder.ideal_bits
        if columns is not None and len(columns) != tensor.shape[1]:
            columns = None
        matrix = None if matrices is None else matrices[name]
        found[name] = _code_matrix(contexts, coder, matrix, tensor, grid, columns)
        columns, spent[name] = found[name].columns, coder.ideal_bits - bits
    return found, spent


def _code_matrix(
    contexts: Contexts,
    coder: Coder,
    matrix: Matrix | None,
    tensor: TensorSpec,
    grid: Grid,
    columns_before: Integers | None,
) -> Matrix:
    """Code whether it is wide, its rows, its columns (or that they are the same), its codes."""
    name, (m, n) = tensor.name, tensor.shape
    codes, rows, columns = (matrix.codes, matrix.rows, matrix.columns) if matrix else (None,) * 3
    wide = None if codes is None else int(np.abs(codes).max(initial=0) > NARROW_CODE)
    wide = code_raw(coder, wide, 1)
    rows = _code_vector(contexts, coder, rows, m, _ROWS)
    low, high = (
        (-LARGEST_EXPONENT, LARGEST_EXPONENT) if grid == "log2_quarter" else (1, _LARGEST_HALF)
    )
    _check(rows, low, high, name)
    if grid == "fp16_row":
        columns = np.zeros(n, np.int64)
    else:
        columns = _code_columns(contexts, coder, columns, n, columns_before)
        _check(columns, low, high, name)
    wider = None if codes is None else codes.astype(np.int64)
    wider = contexts.code(coder, wider, (m, n), tensor.coder_kind)
    largest = LARGEST_CODE if wide else NARROW_CODE
    _check(wider, -largest, largest, name)
    return Matrix(wider.astype(np.int16), rows, columns, grid)


def _code_columns(
    contexts: Contexts, coder: Coder, columns: Integers | None, n: int, before: Integers | None
) -> Integers:
    """Code the columns, or that they are those of the matrix before, if it has as many."""
    if before is not None:
        same = None if columns is None else int(np.array_equal(columns, before))
        if code_raw(coder, same, 1):
            return before
    return _code_vector(contexts, coder, columns, n, _COLUMNS)


def code_vectors(
    coder: Coder, vectors: Mapping[str, Vector] | None, tensors: Sequence[TensorSpec]
) -> tuple[dict[str, Vector], dict[str, float]]:
    """Code one stream of vectors, each the exponent of its step and its codes. Raises BadInput."""
    contexts = Contexts()
    found: dict[str, Vector] = {}
    spent: dict[str, float] = {}
    for name, shape, _, kind in tensors:
        bits = coder.ideal_bits
        codes, exponent = (None, None) if vectors is None else vectors[name]
        biased = code_raw(coder, None if exponent is None else exponent + 512, 10)
        flat = None if codes is None else codes.ravel().astype(np.int64)
        flat = _code_vector(contexts, coder, flat, math.prod(shape), kind)
        _check(np.array([biased - 512]), -LARGEST_EXPONENT, LARGEST_EXPONENT, name)
        _check(flat, -LARGEST_CODE, LARGEST_CODE, name)
        found[name] = flat.reshape(shape).astype(np.int16), biased - 512
        spent[name] = coder.ideal_bits - bits
    return found, spent


def _code_vector(
    contexts: Contexts, coder: Coder, values: Integers | None, count: int, kind: int
) -> Integers:
    """Code int64[count], each as its difference to a running mean of those before it."""
    start = None if values is None else int(np.median(values)) if count else 0
    start = code_raw(coder, None if start is None else start + _START, _START_BITS) - _START
    differences = np.zeros((1, count), np.int64)
    if values is not None:
        mean = start << 8
        for i, value in enumerate(values.tolist()):
            differences[0, i] = value - (mean + 128 >> 8)
            mean += ((value << 8) - mean) >> _MEMORY
        contexts.code(coder, differences, (1, count), kind)
        return values
    found, mean = [], start << 8
    for difference in contexts.code(coder, None, (1, count), kind)[0].tolist():
        found.append(difference + (mean + 128 >> 8))
        mean += ((found[-1] << 8) - mean) >> _MEMORY
    return np.array(found, np.int64)


def _check(values: Integers, low: int, high: int, name: str) -> None:
    if values.size and (int(values.min()) < low or int(values.max()) > high):
        raise BadInput(f"{name} holds a number out of range")
