"""Replies of foreign processes: every field has its range, and no bytes end in a traceback."""

import os
import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairway.audit import scorer, wire
from fairway.audit.scorer import ARRAYS, NUMBERS, Charges
from fairway.errors import BadInput

COUNT, NUMBER = 5, 77
GOOD = Charges(
    np.ones(COUNT), np.ones(COUNT, int), np.full(COUNT, 3), 5.0 + 8 * np.log(2) * 2, COUNT,
    3 * COUNT, np.arange(COUNT), 2,
)  # fmt: skip
HUGE = 1 << 62
OUT_OF_RANGE = {
    "nats": [np.nan, np.inf, -np.inf, 1e7, -1e7, 1e300],
    "times_charged": [-1, HUGE, 0.5, np.nan, np.inf, -np.inf],
    "bytes": [-1, HUGE, 0.5, np.nan, np.inf],
    "order": [-1, COUNT, HUGE, -HUGE, 0.5, np.nan],
    "total_nats": [-1e-9, -5.0, np.nan, np.inf, -np.inf, 1e300, "5", True, None.__class__],
    "total_tokens": [-1, HUGE, 4.5, np.nan, np.inf, 10**400, "5", True, b"5"],
    "total_bytes": [-1, HUGE, 4.5, np.nan, np.inf, 10**400, [5, 6]],
    "side_bytes": [-1, -(10**9), HUGE, 0.5, np.nan, np.inf, 1e9, 10**400, "2", np.array([2, 3])],
}


def answered(data, kind=wire.CHARGES, count=COUNT, limit_s=0.5):
    """What the audit makes of these bytes, of a process that then ends."""
    inward, outward = os.pipe()
    try:
        os.write(outward, data)
        os.close(outward)
        found = wire.read_reply(wire.Pipe(inward, -1), NUMBER, kind, count, limit_s)
    finally:
        os.close(inward)
    if found.charges is not None:
        return scorer.checked(found.charges, count)
    return found if found.rows is None else scorer.checked_rows(found.rows, count)


def test_every_field_is_listed():
    assert set(OUT_OF_RANGE) == set(ARRAYS) | set(NUMBERS)


def test_what_is_in_range_comes_back():
    found = answered(wire.reply(NUMBER, wire.Reply(wire.CHARGES, GOOD)))
    for name in ARRAYS:
        assert np.array_equal(getattr(found, name), getattr(GOOD, name))
    for name in NUMBERS:
        assert getattr(found, name) == getattr(GOOD, name)


@pytest.mark.parametrize(
    ("name", "value"),
    [(n, v) for n, values in OUT_OF_RANGE.items() for v in values],
    ids=lambda x: repr(x)[:12],
)
def test_a_value_out_of_its_range_is_refused(name, value):
    """Where the scorer returns it, and again where forged bytes say so."""
    if name in ARRAYS:
        array = np.array(getattr(GOOD, name), dtype=float if isinstance(value, float) else None)
        array[3] = value
        returned = replace(GOOD, **{name: array})
    else:
        returned = replace(GOOD, **{name: value})
    with pytest.raises(BadInput):
        scorer.checked(scorer.plain(returned), COUNT)
    if value is True or (name in ARRAYS and name != "nats" and isinstance(value, float)):
        return  # a reply has no such types
    try:
        data = wire.reply(NUMBER, wire.Reply(wire.CHARGES, returned))
    except (struct.error, ValueError, TypeError):
        return  # no bytes of a reply say it
    with pytest.raises(BadInput):
        answered(data)


@given(st.binary(max_size=400))
def test_any_bytes_are_a_reply_or_none(data):
    for kind in (wire.CHARGES, wire.ROWS, wire.READY):
        with pytest.raises((wire.Nonsense, EOFError, BadInput)):
            answered(data, kind)


@given(st.integers(0, 52 + 8 * COUNT * 4 - 1), st.integers(0, 255))
def test_a_reply_with_one_other_byte_stays_in_range(place, byte):
    data = bytearray(wire.reply(NUMBER, wire.Reply(wire.CHARGES, GOOD)))
    data[place % len(data)] = byte
    try:
        found = answered(bytes(data))
    except (wire.Nonsense, EOFError, TimeoutError, BadInput):
        return
    if isinstance(found, Charges):
        assert np.isfinite(found.nats).all()
        assert found.side_bytes >= 0
        assert found.order is None or set(found.order) <= set(range(COUNT))


def test_a_reply_asks_for_no_memory_that_the_question_did_not():
    head = struct.pack("<4sQBBBIdqqq", b"FWR1", NUMBER, wire.ROWS, 0, 0, 1 << 31, 0.0, 0, 0, 0)
    with pytest.raises(wire.Nonsense, match="too many"):
        answered(head, wire.ROWS, 1 << 20)


@pytest.mark.parametrize("value", [-1e-3, 1.001, 1.5, np.nan, np.inf, -np.inf])
def test_rows_hold_probabilities(value):
    rows = np.full((COUNT, 4), 0.25)
    rows[2, 1] = value
    with pytest.raises(BadInput, match="between 0 and 1"):
        scorer.checked_rows(rows, COUNT)


@pytest.mark.parametrize("values", [[[1.0], [1.0, 2.0]], "text", [None] * COUNT, [1j] * COUNT, {}])
def test_what_is_no_array_of_numbers_is_refused(values):
    with pytest.raises(BadInput):
        scorer.checked(scorer.plain({"nats": values}), COUNT)
