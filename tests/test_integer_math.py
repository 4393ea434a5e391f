"""Numbers from integers against those of the mathematical library."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairway.integer_math import ONE, exponential, ln2, logarithm, pi, sigmoid


@given(st.floats(-60, 0))
def test_exponentials(x):
    assert exponential(Fraction(x)) / 2**120 == pytest.approx(math.exp(x), rel=1e-12)


@given(st.floats(-50, 50))
def test_sigmoids_are_multiples_of_2_to_the_minus_24(x):
    assert sigmoid(x) == pytest.approx(1 / (1 + math.exp(-x)), abs=2**-23)
    assert (sigmoid(x) * 2**24).is_integer()


@given(st.fractions(1, 1000, max_denominator=10**6).filter(lambda x: x > 1))
def test_logarithms(x):
    assert logarithm(x) / ONE == pytest.approx(math.log(x), rel=1e-12)


def test_the_constants_are_the_library_s():
    assert ln2() / ONE == math.log(2)
    assert pi() / ONE == math.pi
