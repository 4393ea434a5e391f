"""Build the tables of exact arithmetic, cosines, sines and tanh, from integers alone."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import numpy as np
from numpy.typing import NDArray

from fairway.config.schema import Model
from fairway.exact.fixed_point import (
    CAP_BITS,
    CAP_REACH,
    CAP_STEP_BITS,
    EXPONENT_BITS,
    GATE_BITS,
    ROTARY_BITS,
    TURN_BITS,
)
from fairway.integer_math import BITS, ONE, exponential, ln2, logarithm, pi

Ints = NDArray[np.int32]
Longs = NDArray[np.int64]


@dataclass(frozen=True, repr=False)
class Tables:
    """Functions in integers. Networks of one head width, RoPE base and softcap share them."""

    cosines: Ints  # [2^TURN_BITS], ROTARY_BITS
    sines: Ints
    turns: NDArray[np.uint64]  # [h/2]: what a position adds to each angle, in 2^-64 of a turn
    softcap: Longs  # log2(e) · softcap · tanh with EXPONENT_BITS, packed as in _tanh_table
    gate: Longs  # tanh with GATE_BITS - 1, packed as in _tanh_table


def tables_of(shape: Model) -> Tables:
    """Return the tables of a network."""
    return Tables(*_circle(), _turns(shape), softcap_table(shape.softcap), _gate_table())


def softcap_table(softcap: float) -> Longs:
    """Return log2(e) · softcap · tanh with EXPONENT_BITS, packed as in _tanh_table."""
    cap = Fraction(softcap) * (1 << EXPONENT_BITS)
    return _tanh_table((cap.numerator * ONE << 20) // (cap.denominator * ln2()))


@cache
def _gate_table() -> Longs:
    """Return tanh with GATE_BITS - 1, because σ(2u) = 1/2 + tanh(u)/2."""
    return _tanh_table(1 << 20 + GATE_BITS - 1)


@cache
def _circle() -> tuple[Ints, Ints]:
    """Return cosine and sine of all 2^TURN_BITS angles, ROTARY_BITS."""
    angle = (2 * pi()) >> TURN_BITS
    square = angle * angle >> BITS
    cos1, sin1, term = ONE, 0, ONE
    for i in range(1, 20, 2):
        term_sin = term * angle // i >> BITS
        sin1 += term_sin
        term = -(term * square // (i * (i + 1)) >> BITS)
        cos1 += term
    c, s = ONE, 0
    cosines, sines = [], []
    shift = BITS - ROTARY_BITS
    half = 1 << shift - 1
    for _ in range(1 << TURN_BITS):
        cosines.append((c + half) >> shift)
        sines.append((s + half) >> shift)
        c, s = (c * cos1 - s * sin1) >> BITS, (s * cos1 + c * sin1) >> BITS
    return np.array(cosines, np.int32), np.array(sines, np.int32)


def _turns(shape: Model) -> NDArray[np.uint64]:
    """Return base^(-2j/r) / 2π in 2^-64 of a turn, for r rotary dimensions; 0 from j = r/2 on."""
    width = shape.rotary_dims or shape.head_dim
    log = logarithm(Fraction(shape.rope_base))
    turns = []
    for j in range(width // 2):
        power = exponential(Fraction(-2 * j * log, width * ONE))
        turns.append((power << 63) // pi())  # / 2π
    turns += [0] * (shape.head_dim // 2 - len(turns))
    return np.array(turns, np.uint64)


def _tanh_table(factor: int) -> Longs:
    """Return factor / 2^20 · tanh(i / 512) for i ≤ CAP_REACH · 512.

    Each int64 packs value << 32 | the step to the next value, so that one look-up finds both.
    """
    per_unit = 1 << CAP_BITS - CAP_STEP_BITS
    ratio = exponential(Fraction(-2, per_unit))
    power, values = ONE, []
    for _ in range(CAP_REACH * per_unit + 1):
        tanh = ((ONE - power) << BITS) // (ONE + power)
        values.append((factor * tanh + (1 << BITS + 19)) >> BITS + 20)
        power = power * ratio >> BITS
    table = np.array(values, np.int64)
    steps = np.append(np.diff(table), 0)
    packed: Longs = table << 32 | steps
    return packed
