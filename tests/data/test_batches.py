"""Batches: every window once per epoch, the same rows for any world, the step is the state."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairway.data.batches import Batches
from fairway.errors import BadInput


def shards(*sizes):
    """Shards that hold 0, 1, 2, ... in one sequence."""
    ends = np.cumsum([0, *sizes])
    return [np.arange(a, b, dtype=np.uint16) for a, b in pairwise(ends)]


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=5),
    st.integers(1, 9),
    st.integers(1, 5),
    st.integers(0, 1 << 62),
)
def test_an_epoch_visits_every_window_once(sizes, window, rows, seed):
    total = sum(sizes)
    if total < 2 * window:
        with pytest.raises(BadInput, match="give it at least"):
            Batches(shards(*sizes), window, rows, "shuffled", seed)
        return
    batches = Batches(shards(*sizes), window, rows, "shuffled", seed)
    seen = []
    for step in range(-(-2 * batches.windows // rows)):
        batch = batches.batch(step)
        assert (batch.shape, batch.dtype) == ((rows, window + 1), np.uint16)
        np.testing.assert_array_equal(np.diff(batch.astype(int), axis=1), 1)
        seen += batch[:, 0].tolist()
    for epoch in range(2):
        starts = sorted(seen[epoch * batches.windows : (epoch + 1) * batches.windows])
        assert set(np.diff(starts)) <= {window}
        assert 0 <= starts[0] < window
        assert starts[-1] + window < total
    assert batches.windows == total // window - 1


def test_epochs_and_seeds_differ():
    def first_rows(seed):
        batches = Batches(shards(30_000), 100, 298, "shuffled", seed)
        return [batches.batch(step)[:, 0].tolist() for step in (0, 1)]

    one, two = first_rows(1), first_rows(2)
    assert one == first_rows(1)
    assert len({tuple(rows) for rows in one + two}) == 4
    assert len({min(rows) for rows in one + two}) > 1  # offsets


@pytest.mark.parametrize("order", ["shuffled", "sequential"])
def test_ranks_share_the_rows_of_one(order):
    batches = Batches(shards(500, 300), 10, 16, order, 7)
    for step in range(9):
        whole = batches.batch(step)
        for size in (2, 4, 8):
            parts = [batches.batch(step, rank, size) for rank in range(size)]
            np.testing.assert_array_equal(np.concatenate(parts), whole)
    with pytest.raises(BadInput, match="16 rows cannot be shared by 3 ranks"):
        batches.batch(0, 0, 3)


@pytest.mark.parametrize("order", ["shuffled", "sequential"])
def test_the_step_is_the_whole_state(order):
    batches = Batches(shards(1000), 10, 4, order, 7)
    for step in range(60):
        again = Batches(shards(1000), 10, 4, order, 7)
        np.testing.assert_array_equal(again.batch(step), batches.batch(step))


def test_sequential_is_the_challenges_order():
    """The challenge's order, as its loader reads it: spans of m + 1 tokens, over ends of files."""
    sizes, window, rows, spans = (57, 101), 3, 16, 8
    tokens = np.concatenate(shards(*sizes))
    batches = Batches(shards(*sizes), window, rows, "sequential", 0)
    local = rows // spans * window
    endless = np.tile(tokens, 20)
    position = 0
    for step in range(20):
        x_rows, y_rows = [], []
        for _ in range(spans):
            span = endless[position : position + local + 1]
            position += local + 1
            x_rows.append(span[:-1].reshape(-1, window))
            y_rows.append(span[1:].reshape(-1, window))
        batch = batches.batch(step)
        np.testing.assert_array_equal(batch[:, :-1], np.concatenate(x_rows))
        np.testing.assert_array_equal(batch[:, 1:], np.concatenate(y_rows))


def test_sequential_without_eight_spans_is_one_stretch():
    batch = Batches(shards(100), 5, 3, "sequential", 0).batch(1)
    assert batch.tolist() == [list(range(start, start + 6)) for start in (16, 21, 26)]
