"""Compute transcendental numbers by integers alone, so that every machine gets the same bits.

Libraries round exp, log and tanh differently. Formats and exact arithmetic build their tables with
the functions of this module instead. Numbers are fixed point with 120 fraction bits; the last
twenty bits of a result can be wrong.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache

BITS = 120  # fraction bits
ONE = 1 << BITS


def exponential(x: Fraction) -> int:
    """Return e^x · 2^120 for x ≤ 0, or 0 below x = -100, by halving x and the power series."""
    if x < -100:
        return 0
    halvings = max(int(-x).bit_length() + 8, 8)
    y = (x.numerator << BITS) // (x.denominator << halvings)
    term = total = ONE
    for i in range(1, 24):
        term = (term * y >> BITS) // i
        total += term
    for _ in range(halvings):
        total = total * total >> BITS
    return total


def sigmoid(x: float) -> float:
    """Return 1 / (1 + e^-x), rounded down to a multiple of 2^-24."""
    small = exponential(-abs(Fraction(x)))
    share = (ONE << 24) // (ONE + small) if x >= 0 else (small << 24) // (ONE + small)
    return share / (1 << 24)


def logarithm(x: Fraction) -> int:
    """Return ln(x) · 2^120 for x > 1: octaves times ln 2, and a series for the rest."""
    octaves = (x.numerator // x.denominator).bit_length()
    y = x / 2**octaves  # in [1/2, 1)
    return octaves * ln2() + _small_logarithm((y.numerator << BITS) // y.denominator)


@cache
def ln2() -> int:
    """Return ln(2) · 2^120."""
    return -_small_logarithm(ONE >> 1)


@cache
def pi() -> int:
    """Return π · 2^120 by Machin's formula, π/4 = 4·arctan(1/5) - arctan(1/239)."""

    def arctan_inverse(n: int) -> int:
        term = total = (ONE << 16) // n
        k, sign = 3, -1
        while term:
            term //= n * n
            total += sign * (term // k)
            k, sign = k + 2, -sign
        return total

    return 4 * (4 * arctan_inverse(5) - arctan_inverse(239)) >> 16


def _small_logarithm(y: int) -> int:
    """Return ln(y / 2^120) · 2^120 for 1/4 < y / 2^120 ≤ 1, by 2·artanh((y - 1) / (y + 1))."""
    ratio = ((y - ONE) << BITS) // (y + ONE)
    square = ratio * ratio >> BITS
    term, total, k = ratio, 0, 1
    while term and k < 400:
        total += term // k
        term, k = term * square >> BITS, k + 2
    return 2 * total
