"""Entropy coding of codes, scales and halves: static histograms, integers only.

Every function works in both directions, as the Coder that it is given does: an encoder takes the
values, a decoder takes None; both return the values. Byte for byte in docs/formats.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from fairway.rangecoder import TOTAL, Coder

Shapes = Mapping[str, tuple[int, ...]]


def cumulative(weights: list[int]) -> NDArray[np.int64]:
    """int64[V+1] for the coder: c_i = floor(W_i · (2^30 - V) / W_V) + i, W_i = Σ_{j<i} weights_j.

    Every frequency is at least 1. In Python's integers: no file makes this overflow.
    """
    room, total = TOTAL - len(weights), max(sum(weights), 1)
    sums = accumulate(weights, initial=0)
    table = np.array([w * room // total + i for i, w in enumerate(sums)], np.int64)
    table[-1] = TOTAL  # also where all weights are 0
    return table


_UNIFORM = cumulative([1] * 256)
# Differences of neighbouring levels, modulo 256: small ones are likely.
_DIFFERENCES = cumulative([1 << max(20 - min(d, 256 - d) // 4, 0) for d in range(256)])


def level(count: int) -> int:
    """A count as its four leading bits and their place: 0..15 is itself, 30 and 31 are both 23."""
    place = max(count.bit_length() - 4, 0)
    return 8 * place + (count >> place)


def count_of(level: int) -> int:
    """The count in the middle of those that share `level`."""
    place = max(level // 8 - 1, 0)
    return ((level - 8 * place) << place) + ((1 << place) >> 1)


def code_symbols(
    coder: Coder, symbols: NDArray[np.uint8] | None, count: int, alphabet: int
) -> NDArray[np.uint8]:
    """`count` symbols below `alphabet` (at most 256) under their own histogram, sent first."""
    levels = None
    if symbols is not None:
        levels = [level(n) for n in np.bincount(symbols, minlength=alphabet).tolist()]
    table = cumulative([count_of(x) for x in _code_levels(coder, levels, alphabet)])
    wide = None if symbols is None else symbols.astype(np.int64)
    return coder.code_static(table, wide, count).astype(np.uint8)


def _code_levels(coder: Coder, levels: list[int] | None, alphabet: int) -> list[int]:
    """First and last symbol that occur; then each level between, less the one before it."""
    ends = steps = None
    if levels is not None:
        used = [i for i, x in enumerate(levels) if x] or [0]
        ends = np.array([used[0], used[-1]])
        steps = np.diff(np.array(levels[used[0] : used[-1] + 1]), prepend=0) % 256
    first, last = coder.code_static(_UNIFORM, ends, 2).tolist()
    last = min(last, alphabet - 1)  # only a damaged stream says more
    first = min(first, last)
    steps = coder.code_static(_DIFFERENCES, steps, last - first + 1)
    between: list[int] = (np.cumsum(steps) % 256).tolist()
    return [0] * first + between + [0] * (alphabet - 1 - last)


def code_halves(
    coder: Coder, halves: NDArray[np.float16] | None, count: int
) -> NDArray[np.float16]:
    """fp16[count] as two planes: high bytes under their histogram, then low bytes as they are."""
    words = None if halves is None else halves.view(np.uint16)
    top = None if words is None else (words >> 8).astype(np.uint8)
    rest = None if words is None else (words & 255).astype(np.int64)
    high = code_symbols(coder, top, count, 256).astype(np.uint16)
    low = coder.code_static(_UNIFORM, rest, count).astype(np.uint16)
    return (high << 8 | low).view(np.float16)


def code_codes(
    coder: Coder, codes: NDArray[np.int8] | None, shape: tuple[int, ...], bits: int
) -> NDArray[np.int8]:
    """Codes int8[rows, columns] in -2^(bits-1) .. 2^(bits-1) - 1, row by row."""
    shift = 1 << (bits - 1)
    symbols = None if codes is None else (codes.astype(np.int16) + shift).astype(np.uint8).ravel()
    coded = code_symbols(coder, symbols, math.prod(shape), 1 << bits)
    return (coded.astype(np.int16) - shift).astype(np.int8).reshape(shape)


@dataclass(frozen=True)
class Matrix:
    """A quantized matrix: codes int8[rows, columns] and scales fp16[rows]."""

    codes: NDArray[np.int8]
    scales: NDArray[np.float16]


def code_matrices(
    coder: Coder, matrices: Mapping[str, Matrix] | None, shapes: Shapes, bits: int
) -> tuple[dict[str, Matrix], dict[str, float]]:
    """The scales of all matrices, in the order of `shapes`; then the codes of each.

    Returns the matrices and the bits that each took.
    """
    scales = _joined(None if matrices is None else [matrices[name].scales for name in shapes])
    rows = [shape[0] for shape in shapes.values()]
    scales = code_halves(coder, scales, sum(rows))
    bits_per_scale = coder.ideal_bits / max(sum(rows), 1)
    found, spent = {}, {}
    for (name, shape), own in zip(shapes.items(), _split(scales, rows), strict=True):
        before = coder.ideal_bits
        codes = code_codes(coder, None if matrices is None else matrices[name].codes, shape, bits)
        found[name] = Matrix(codes, own)
        spent[name] = coder.ideal_bits - before + bits_per_scale * shape[0]
    return found, spent


def code_small(
    coder: Coder, halves: Mapping[str, NDArray[np.float16]] | None, shapes: Shapes
) -> dict[str, NDArray[np.float16]]:
    """fp16 tensors as one array, in the order of `shapes`."""
    values = _joined(None if halves is None else [halves[name].ravel() for name in shapes])
    sizes = [math.prod(shape) for shape in shapes.values()]
    found = _split(code_halves(coder, values, sum(sizes)), sizes)
    return {n: h.reshape(shape) for (n, shape), h in zip(shapes.items(), found, strict=True)}


def _joined(arrays: list[NDArray[np.float16]] | None) -> NDArray[np.float16] | None:
    return None if arrays is None else np.concatenate([np.empty(0, np.float16), *arrays])


def _split(values: NDArray[np.float16], sizes: list[int]) -> list[NDArray[np.float16]]:
    return [values[end - size : end] for size, end in zip(sizes, accumulate(sizes), strict=True)]
