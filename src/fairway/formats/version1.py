"""Artifacts of format version 1, which are read but not written any more: static histograms.

Layout in docs/formats.md, under "Version 1".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairway.errors import BadInput
from fairway.formats.range_coder import Coder, cumulative
from fairway.formats.tensors import Matrix, TensorSpec, Weights

_UNIFORM = cumulative([1] * 256)
# Differences of neighbouring levels, modulo 256: small ones are likely.
_DIFFERENCES = cumulative([1 << max(20 - min(d, 256 - d) // 4, 0) for d in range(256)])


def read_matrices(
    body: bytes, tensors: Sequence[TensorSpec]
) -> tuple[dict[str, Matrix], dict[str, float]]:
    """The matrices of a part and the bits that each took. Raises BadInput."""
    bits, coder = body[0] if body else 0, Coder(body[1:])
    if not 2 <= bits <= 8:
        raise BadInput(f"its codes cannot have {bits} bits")
    rows = [tensor.shape[0] for tensor in tensors]
    scales = _read_halves(coder, sum(rows)).view(np.uint16).astype(np.int64)
    bits_per_scale = coder.ideal_bits / max(sum(rows), 1)
    found, spent = {}, {}
    for (name, shape, *_), own in zip(tensors, _split(scales, rows), strict=True):
        before = coder.ideal_bits
        symbols = _read_symbols(coder, math.prod(shape), 1 << bits).astype(np.int64)
        codes = (symbols - (1 << (bits - 1))).reshape(shape).astype(np.int16)
        found[name] = Matrix(codes, own, np.zeros(shape[1], np.int64), "fp16_row")
        spent[name] = coder.ideal_bits - before + bits_per_scale * shape[0]
    coder.check_end()
    return found, spent


def read_small(
    body: bytes, tensors: Sequence[TensorSpec]
) -> tuple[dict[str, Weights], dict[str, float]]:
    """The values of all other tensors and the bits that each took. Raises BadInput."""
    coder = Coder(body)
    sizes = [math.prod(tensor.shape) for tensor in tensors]
    found = _split(_read_halves(coder, sum(sizes)), sizes)
    coder.check_end()
    bits_each = coder.ideal_bits / max(sum(sizes), 1)
    values = {
        t.name: h.reshape(t.shape).astype(np.float32) for t, h in zip(tensors, found, strict=True)
    }
    return values, {n: bits_each * v.size for n, v in values.items()}


def _count_of(level: int) -> int:
    """The count in the middle of those that share `level`: four leading bits and their place."""
    place = max(level // 8 - 1, 0)
    return ((level - 8 * place) << place) + ((1 << place) >> 1)


def _read_symbols(coder: Coder, count: int, alphabet: int) -> NDArray[np.uint8]:
    """`count` symbols below `alphabet` under their own histogram, which stands first."""
    table = cumulative([_count_of(x) for x in _read_levels(coder, alphabet)])
    return coder.code_static(table, None, count).astype(np.uint8)


def _read_levels(coder: Coder, alphabet: int) -> list[int]:
    """First and last symbol that occur; then each level between, less the one before it."""
    first, last = coder.code_static(_UNIFORM, None, 2).tolist()
    last = min(last, alphabet - 1)  # only a damaged stream says more
    first = min(first, last)
    steps = coder.code_static(_DIFFERENCES, None, last - first + 1)
    between: list[int] = (np.cumsum(steps) % 256).tolist()
    return [0] * first + between + [0] * (alphabet - 1 - last)


def _read_halves(coder: Coder, count: int) -> NDArray[np.float16]:
    """fp16[count] as two planes: high bytes under their histogram, then low bytes as they are."""
    high = _read_symbols(coder, count, 256).astype(np.uint16)
    low = coder.code_static(_UNIFORM, None, count).astype(np.uint16)
    return (high << 8 | low).view(np.float16)


def _split(values: NDArray[Any], sizes: list[int]) -> list[NDArray[Any]]:
    return [values[end - size : end] for size, end in zip(sizes, accumulate(sizes), strict=True)]
