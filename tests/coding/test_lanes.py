import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fairway.coding.lanes import LONGEST_DOCUMENT, Layout, chunk_ends, lane_starts
from fairway.formats.coded_tokens import TOKENS_PER_LANE, Starts


@st.composite
def document_layouts(draw):
    """(tokens, positions of BOS), with short, empty and giant documents."""
    sizes = st.one_of(st.integers(1, 30), st.integers(1, 3 * LONGEST_DOCUMENT))
    lengths = draw(st.lists(sizes, min_size=1, max_size=30))
    ends = np.cumsum(lengths)
    return int(ends[-1]), np.append(0, ends[:-1])


def coded(layout):
    steps = [layout.positions(step) for step in range(layout.steps)]
    return np.concatenate(steps) if steps else np.zeros(0, np.int64)


@given(document_layouts(), st.integers(1, 200))
def test_every_token_is_coded_once(documents, lanes):
    tokens, bos = documents
    starts = lane_starts(tokens, bos, lanes)
    paid_by_header = starts.positions[~starts.inside]
    once = np.sort(np.concatenate([coded(Layout(tokens, starts)), paid_by_header]))
    assert np.array_equal(once, np.arange(tokens))
    with_boundaries = np.sort(coded(Layout(tokens, starts, boundaries=True)))
    assert np.array_equal(with_boundaries, np.arange(1, tokens))


@given(document_layouts(), st.integers(1, 200))
def test_plans_keep_their_promises(documents, lanes):
    tokens, bos = documents
    starts = lane_starts(tokens, bos, lanes)
    assert 1 <= len(starts) <= min(lanes, max(1, tokens // TOKENS_PER_LANE))
    assert starts.positions[0] == 0
    assert (np.diff(starts.positions) > 0).all()
    assert np.array_equal(~starts.inside, np.isin(starts.positions, bos))
    runs = np.diff(starts.positions, append=tokens)
    assert (runs[:-1] + runs[1:] > runs.max()).all()  # no two of them could have been one


@given(st.integers(1, 500), st.integers(2, 200))
def test_lanes_that_save_no_step_are_not_taken(short, lanes):
    """Beside a document of 8,000 tokens short ones stand in runs of as many."""
    sizes = [8000, *[short] * (20_000 // short)]
    bos = np.cumsum([0, *sizes[:-1]])
    layout = Layout(sum(sizes), lane_starts(sum(sizes), bos, lanes))
    assert layout.steps == 7999 if lanes > 4 else layout.steps >= 7999
    assert layout.lanes <= 4


def test_lanes_cut_a_giant_document_into_equal_parts():
    starts = lane_starts(4 * LONGEST_DOCUMENT, np.array([0]), 128)
    assert starts.positions.tolist() == [i * LONGEST_DOCUMENT for i in range(4)]
    assert starts.inside.tolist() == [False, True, True, True]


def test_a_document_below_the_limit_is_never_cut():
    assert len(lane_starts(LONGEST_DOCUMENT, np.array([0]), 128)) == 1


def test_even_documents_fill_all_lanes_evenly():
    bos = np.arange(0, 4096 * 8, 64)
    layout = Layout(4096 * 8, lane_starts(4096 * 8, bos, 8))
    assert layout.lanes == 8
    assert layout.length.tolist() == [4095] * 8


def test_active_lanes_are_a_prefix_that_shrinks():
    starts = Starts(np.array([0, 3, 10, 12]), np.array([False, True, False, False]))
    layout = Layout(17, starts)
    assert layout.first.tolist() == [3, 13, 1, 11]
    assert layout.length.tolist() == [7, 4, 2, 1]
    assert [layout.active(step) for step in range(8)] == [4, 3, 2, 2, 1, 1, 1, 0]
    assert layout.positions(2).tolist() == [5, 15]


def test_one_empty_document_needs_no_step():
    assert Layout(1, lane_starts(1, np.array([0]), 4)).steps == 0


def test_chunks_end_at_documents_and_are_even():
    assert chunk_ends(np.array([0]), 100, 10) == [100]
    assert chunk_ends(np.array([0, 50]), 100, 100) == [100]
    assert chunk_ends(np.array([0, 40, 60, 80]), 100, 60) == [60, 100]
    assert chunk_ends(np.arange(0, 1000, 10), 1000, 300) == [250, 500, 750, 1000]
    assert chunk_ends(np.array([0, 1]), 1000, 100) == [1, 1000]
