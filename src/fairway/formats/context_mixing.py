"""Code integers under adaptive contexts, which give the codes of weights their probabilities.

An integer is its magnitude's class, counted up by one binary decision per class, then its sign and
the bits that place it inside the class. Classes 0 to 11 hold one magnitude; above, there are two
per octave. Each decision's probability is a mixture, in the logistic domain, of what several
contexts have seen (Mahoney's PAQ): the magnitude that row and column lead to expect, what the
neighbours are, the kind of the matrix. Tables start as Gaussian, so that little has to be learned.
A row that is nearly the row above it (embeddings of tokens that never occur are) has one bit that
says so, and differences for integers.

Integers only, sums in a fixed order: the same bits on every machine. docs/formats.md has every
constant. Legend: probabilities have 16 bits where they are used and 22 where they are learned; s
is ln(p / (1 - p)) in units of 1/256; magnitudes in estimates have 12 fractional bits.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import cache
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairway.formats.range_coder import Coder, code_bit
from fairway.integer_math import exponential
from fairway.kernels import njit

KINDS = 16  # of matrices and vectors, each with statistics of its own where that helps
_DIFFERENCES = 15  # the kind of rows that are coded as differences to the row above
CLASSES = 40
LARGEST = (3 << 16) - 1  # magnitude
_SINGLE = 12  # classes of one magnitude
_LEVELS = 64  # of an expected magnitude, four per octave; up to _TOP_LEVEL are reached
_TOP_LEVEL = 48
_PAIRS = 32 * 32  # of two coarse levels
_INPUTS = 5  # of a mixture
_KIND_AT = 2 * _LEVELS + 256 + _PAIRS
_EXTRA_AT = (_KIND_AT + KINDS) * CLASSES
_BITS_PER_INTEGER = 512  # at most: 39 decisions of 12 bits, a sign, 12 and 15 bits inside
_BLOCK = 1 << 14  # integers that are coded in one call
_HALF, _CERTAIN = 1 << 15, 16  # sixteen-bit probabilities: of a sign, and the least of a decision
_LIMIT = 1000  # how much a slot's past counts at most
_PRIOR = 20  # what a Gaussian start counts
_FIRST_WEIGHTS = np.array([29491, 9830, 9830, 13107, 3277], np.int64)


class Contexts:
    """What the integers of one stream have taught so far; equal in encoder and decoder."""

    def __init__(self) -> None:
        self.slots = _first_slots().copy()  # probability << 10 | count
        self.weights = np.tile(_FIRST_WEIGHTS, (KINDS * CLASSES, 1))  # 16 fractional bits

    def code(
        self, coder: Coder, values: NDArray[np.int64] | None, shape: tuple[int, int], kind: int
    ) -> NDArray[np.int64]:
        """Code integers of magnitude up to LARGEST, [rows, columns]; values None: decode them.

        The mean magnitude goes first, then the integers row by row.
        """
        rows, columns = shape
        found = np.zeros(shape, np.int64) if values is None else np.ascontiguousarray(values)
        level = None
        if values is not None:
            mean = int(np.abs(values).sum(dtype=np.int64)) * 16 // max(values.size, 1)
            level = min(_level(mean), _LEVELS - 1)
        level = code_raw(coder, level, 6)
        # Running means of magnitudes: of every column, of the whole, of the row, of differences.
        state = np.full(columns + 3, _mean_of(level), np.int64)
        size = max(1, _BLOCK // max(columns, 1))
        for first in range(0, rows if columns else 0, size):
            last = min(first + size, rows)
            coder.run_kernel(
                _code_rows, (last - first) * columns * _BITS_PER_INTEGER // 32,
                found, first, last, kind, self.slots, self.weights, state, tables(),
            )  # fmt: skip
        return found


def code_raw(coder: Coder, value: int | None, bits: int) -> int:
    """Code an integer of `bits` bits, the highest first, each with probability 1/2."""
    return int(coder.run_kernel(_code_uniform, bits, 0 if value is None else value, bits))


@njit(cache=True, nogil=True)
def _code_uniform(state, spent, buffer, size, decoding, value, bits):  # type: ignore[no-untyped-def]
    found = np.int64(0)
    for place in range(bits - 1, -1, -1):
        bit = code_bit(state, buffer, size, _HALF, (value >> place) & 1, decoding)
        found = (found << 1) | bit
    spent[0] += bits
    return found


@njit(cache=True, nogil=True)
def _code_rows(  # type: ignore[no-untyped-def]
    state, spent, buffer, size, decoding, values, first, last, kind, slots, weights, means, tables
):
    """Code rows first .. last - 1 of values int64[m, n]; `means` as in Contexts.code."""
    logistic, squash, levels, shares, costs = tables
    n = values.shape[1]
    slot = np.empty(_INPUTS, np.int64)
    stretched = np.empty(_INPUTS, np.int64)
    for r in range(first, last):
        copied = r > 0 and n > 0
        if copied:  # is it the row above, nearly?
            p = min(max(slots[_EXTRA_AT] >> 16, _CERTAIN), 65536 - _CERTAIN)
            alike = np.int64(0) if decoding else np.int64(_alike(values[r], values[r - 1]))
            alike = code_bit(state, buffer, size, p, alike, decoding)
            spent[0] += costs[(p if alike else 65536 - p) >> 4]
            learn(slots, _EXTRA_AT, alike, shares, _LIMIT)
            copied = alike == 1
        row_kind = _DIFFERENCES if copied else kind
        means[n + 1] = means[n + 2] if copied else means[n]
        left: Any = np.int64(0)
        left2: Any = np.int64(0)
        for c in range(n):
            if copied:
                base, up, up2 = values[r - 1, c], np.int64(0), np.int64(0)
                expected = column = means[n + 1] >> 8
            else:
                base = np.int64(0)
                up = abs(values[r - 1, c]) if r > 0 else np.int64(0)
                up2 = abs(values[r - 2, c]) if r > 1 else np.int64(0)
                column = means[c] >> 8
                expected = column * (means[n + 1] >> 8) // max(means[n] >> 8, 1)
            near = min(3 * (2 * left + left2 + 2 * up + up2), 4095)
            level = levels[min(expected, 4095)]
            slot[0] = level
            slot[1] = _LEVELS + levels[min(column, 4095)]
            slot[2] = 2 * _LEVELS + 16 * min(left, 15) + min(up, 15)
            slot[3] = 2 * _LEVELS + 256 + 32 * (levels[near] >> 1) + (level >> 1)
            slot[4] = _KIND_AT + row_kind
            value = values[r, c] - base
            magnitude, k = abs(value), np.int64(0)
            k_true = np.int64(0) if decoding else class_of(magnitude)
            while k < CLASSES - 1:
                mixture = weights[row_kind * CLASSES + k]
                dot = np.int64(0)
                for i in range(_INPUTS):
                    stretched[i] = logistic[slots[slot[i] * CLASSES + k] >> 20]
                    dot += mixture[i] * stretched[i]
                dot = min(max(dot >> 16, np.int64(-2047)), np.int64(2047))
                p = squash[dot + 2048]
                more = code_bit(state, buffer, size, p, np.int64(k < k_true), decoding)
                spent[0] += costs[(p if more else 65536 - p) >> 4]
                error = (more << 16) - p
                for i in range(_INPUTS):
                    mixture[i] += (stretched[i] * error + (1 << 17)) >> 18
                    learn(slots, slot[i] * CLASSES + k, more, shares, _LIMIT)
                if not more:
                    break
                k += 1
            inside = inside_bits(k)
            if inside:  # the first bit inside a class is learned, too
                place = _EXTRA_AT + k
                p = min(max(slots[place] >> 16, _CERTAIN), 65536 - _CERTAIN)
                top = (magnitude - least_of(k)) >> (inside - 1) & 1
                top = code_bit(state, buffer, size, p, top, decoding)
                spent[0] += costs[(p if top else 65536 - p) >> 4]
                learn(slots, place, top, shares, _LIMIT)
                rest = top
                for shift in range(inside - 2, -1, -1):
                    bit = (magnitude - least_of(k)) >> shift & 1
                    rest = rest << 1 | code_bit(state, buffer, size, _HALF, bit, decoding)
                spent[0] += inside - 1
                if decoding:
                    magnitude = least_of(k) + rest
            elif decoding:
                magnitude = least_of(k)
            sign = np.int64(0)
            if magnitude:
                sign = code_bit(state, buffer, size, _HALF, np.int64(value < 0), decoding)
                spent[0] += 1
            if decoding:
                values[r, c] = base + (-magnitude if sign else magnitude)
            left, left2 = magnitude, left
            seen = magnitude << 12
            means[n + 1] += ((seen - means[n + 1]) * shares[min(c, 4000) + 24]) >> 16
            if not copied:
                means[c] += ((seen - means[c]) * shares[min(r, 200) + 10]) >> 16
                means[n] += ((seen - means[n]) * shares[min(r * n + c, 4000) + 60]) >> 16
        if copied:
            means[n + 2] = means[n + 1]
    return 0


@njit(cache=True, nogil=True)
def _alike(row, above):  # type: ignore[no-untyped-def]
    """Return whether differences to the row above are less than half as large as the row."""
    size, apart = np.int64(0), np.int64(0)
    for c in range(row.shape[0]):
        difference = abs(row[c] - above[c])
        if difference > LARGEST:
            return False
        size, apart = size + abs(row[c]), apart + difference
    return 2 * apart < size


@njit(cache=True, nogil=True)
def learn(slots, place, bit, shares, limit):  # type: ignore[no-untyped-def]
    """Move a slot's probability towards the bit by 1 / (count + 2)."""
    p, count = slots[place] >> 10, slots[place] & 1023
    p += (((bit << 22) - p) * shares[count + 2]) >> 16
    slots[place] = p << 10 | min(count + 1, limit)


@njit(cache=True, nogil=True)
def class_of(magnitude):  # type: ignore[no-untyped-def]
    """Return the class of a magnitude."""
    if magnitude < _SINGLE:
        return magnitude
    octave = np.int64(0)
    while magnitude >> octave > 3:
        octave += 1
    return _SINGLE + 2 * (octave - 2) + (magnitude >> octave & 1) - 1


@njit(cache=True, nogil=True)
def inside_bits(k):  # type: ignore[no-untyped-def]
    """Return how many bits place a magnitude inside class k."""
    return np.int64(0) if k < _SINGLE else (k - _SINGLE + 1) // 2 + 2


@njit(cache=True, nogil=True)
def least_of(k):  # type: ignore[no-untyped-def]
    """Return the least magnitude of class k."""
    if k < _SINGLE:
        return k
    return (2 + (k - _SINGLE + 1) % 2) << inside_bits(k)


# Tables, in integers ---------------------------------------------------------------------------

_ONE = 1 << 60


def _exponential(numerator: int, denominator: int) -> int:
    """Return exp(-numerator / denominator) · 2^60."""
    return exponential(Fraction(-numerator, denominator)) >> 60


def _level(magnitude_16: int) -> int:
    """Return the level of a magnitude in sixteenths: about 4·log2(x + 1), exact at powers of 2."""
    x = magnitude_16 + 1
    octave = x.bit_length() - 1
    return 4 * octave + (4 * x >> octave) - 4


def _mean_of(level: int) -> int:
    """Return the least magnitude of a level, in 2^-12, plus half of a sixteenth."""
    return ((4 + level % 4 << 8) << level // 4 >> 2) - 256 + 128


def _class_chances(level: int) -> list[int]:
    """Return 2^22 · P(higher class | this or higher) per class, at an expected magnitude m.

    From m = 1 on a Gaussian on the integers with σ² = m²·π/2, below it a geometric distribution.
    """
    mean = _mean_of(level)  # m · 2^12
    if mean < 1 << 12:
        return [
            min(max((mean << 22) // ((1 << 12) + mean), 1 << 14), (1 << 22) - (1 << 14))
        ] * CLASSES
    # exp(-k² / (π·m²)) by its ratios: each is the one before times exp(-2 / (π·m²)).
    denominator = 3_141_593 * mean * mean
    ratio = _exponential(1_000_000 << 24, denominator)
    factor, term, sums, k = ratio * ratio >> 60, _ONE, [0] * CLASSES, 0
    while term and k <= LARGEST:
        sums[class_of.py_func(k)] += term if k == 0 else 2 * term  # k and -k
        term, ratio, k = term * ratio >> 60, ratio * factor >> 60, k + 1
    tails = list(accumulate(reversed(sums)))[::-1]
    chances = [(tails[i + 1] << 22) // tails[i] if tails[i] else 0 for i in range(CLASSES - 1)]
    return [min(max(c, 1 << 14), (1 << 22) - (1 << 14)) for c in [*chances, 0]]


@cache
def _first_slots() -> NDArray[np.int64]:
    chances = [_class_chances(level) for level in range(_TOP_LEVEL + 1)]
    chances += chances[-1:] * (_LEVELS - len(chances))
    even = [1 << 21] * CLASSES
    slots = [[p << 10 | _PRIOR for p in row] for _ in range(2) for row in chances]
    slots += [
        [p << 10 | _PRIOR // 4 for p in chances[_level(8 * (i % 16 + i // 16) + 4)]]
        for i in range(256)
    ]
    slots += [[p << 10 | _PRIOR // 2 for p in chances[2 * (i % 32)]] for i in range(_PAIRS)]
    slots += [[p << 10 for p in even] for _ in range(KINDS + 1)]
    slots[-1][0] = (1 << 16) << 10 | _PRIOR  # few rows are like the one above
    return np.array(slots, np.int64).ravel()


@cache
def tables() -> tuple[NDArray[np.int64] | NDArray[np.float64], ...]:
    # 2^16 / (1 + exp(-s / 256)) for s >= 0, and the rest by symmetry; exp(-s / 256) by its ratio.
    ratio = _exponential(1, 256)
    powers = accumulate(range(2048), lambda x, _: x * ratio >> 60, initial=_ONE)
    upper = [min((65536 << 60) // (_ONE + x), 65536 - _CERTAIN) for x in powers]
    squash = [65536 - p for p in reversed(upper[1:])] + upper[:2048]
    logistic, s = [], 0
    for p in range(4096):  # the first s whose probability reaches the middle of this one
        while s < 4095 and squash[s] < 16 * p + 8:
            s += 1
        logistic.append(s - 2048)
    return (
        np.array(logistic, np.int64),
        np.array(squash, np.int64),
        np.array([min(_level(x), _LEVELS - 1) for x in range(4096)], np.int64),
        np.array([65536 // max(n, 1) for n in range(4096)], np.int64),
        np.array([12.0] + [12 - math.log2(p) for p in range(1, 4097)]),
    )
