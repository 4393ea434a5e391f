import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairway.coding.bits import bits_per_byte
from fairway.coding.protocols import plain, sliding
from fairway.errors import BadInput

texts = st.integers(1, 400)
lengths = st.integers(1, 40)


def test_plain_windows_are_these():
    assert list(plain(11, 4)) == [(0, 0, 4), (4, 4, 8), (8, 8, 10)]


def test_sliding_windows_are_these():
    assert list(sliding(12, 4, 3)) == [(0, 0, 4), (3, 4, 7), (6, 7, 10), (7, 10, 11)]


def test_a_short_text_is_one_window():
    assert list(plain(3, 8)) == list(sliding(3, 8, 2)) == [(0, 0, 2)]
    assert list(plain(1, 8)) == list(sliding(1, 8, 2)) == []


@given(texts, lengths, st.data())
def test_each_position_is_scored_once(tokens, window, data):
    stride = data.draw(st.integers(1, window))
    for planned in (plain(tokens, window), sliding(tokens, window, stride)):
        scored = [p for start, first, end in planned for p in range(first, end)]
        assert scored == list(range(tokens - 1))


@given(texts, lengths, st.data())
def test_sliding_windows_give_each_position_the_context_they_can(tokens, window, data):
    stride = data.draw(st.integers(1, window))
    for start, first, end in sliding(tokens, window, stride):
        assert 0 <= start <= first < end
        assert end - start == min(window, tokens - 1)
        assert first - start >= min(first, window - stride)


def test_bits_per_byte_is_nats_over_ln_2_and_bytes():
    assert bits_per_byte(np.log(2) * 16, 8) == pytest.approx(2)
    with pytest.raises(BadInput, match="no bytes"):
        bits_per_byte(1.0, 0)
