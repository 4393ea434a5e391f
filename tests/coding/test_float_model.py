import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fairway.coding.float_model import FloatStepper, fill_cumulative
from fairway.errors import BadInput
from fairway.formats.range_coder import TOTAL


def tables(model, tokens):
    """All cumulative tables of lanes tokens int64[lanes, S]."""
    stepper = FloatStepper(model, len(tokens))
    return [stepper.step(column).copy() for column in tokens.T]


@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 3, 257, 5000]), st.floats(0.01, 60))
@settings(max_examples=30, deadline=None)
def test_every_frequency_is_at_least_one(seed, vocab_size, spread):
    logits = torch.randn(3, vocab_size, generator=torch.Generator().manual_seed(seed)) * spread
    table = np.empty((3, vocab_size + 1), np.int64)
    probabilities = logits.softmax(-1)
    assert fill_cumulative(probabilities.numpy(), table)
    frequencies = np.diff(table, axis=1)
    assert (table[:, 0] == 0).all()
    assert (table[:, -1] == TOTAL).all()
    assert frequencies.min() >= 1
    wanted = probabilities.double().numpy() * (TOTAL - vocab_size) + 1
    assert np.abs(frequencies - wanted).max() < 1 + 1e-6 * TOTAL


def test_one_certain_symbol_leaves_one_count_for_each_other():
    table = np.empty((1, 6), np.int64)
    assert fill_cumulative(np.array([[0, 0, 1, 0, 0]], np.float32), table)
    assert np.diff(table[0]).tolist() == [1, 1, TOTAL - 4, 1, 1]


@given(st.data())
@settings(max_examples=10, deadline=None)
def test_a_later_token_changes_no_earlier_table(lively_model, data):
    """The flip test: the tables up to step s know nothing of what is fed after it."""
    lanes, steps = data.draw(st.integers(1, 4)), 40
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    tokens = random.integers(0, lively_model.vocab_size, (lanes, steps))
    flipped = tokens.copy()
    lane, step = data.draw(st.integers(0, lanes - 1)), data.draw(st.integers(0, steps - 1))
    flipped[lane, step] = (tokens[lane, step] + 1) % lively_model.vocab_size
    before, after = tables(lively_model, tokens), tables(lively_model, flipped)
    assert all(np.array_equal(a, b) for a, b in zip(before[:step], after[:step], strict=True))
    others = np.arange(lanes) != lane
    assert all(np.array_equal(a[others], b[others]) for a, b in zip(before, after, strict=True))
    assert not np.array_equal(before[step][lane], after[step][lane])


@given(st.data())
@settings(max_examples=10, deadline=None)
def test_steps_agree_with_the_parallel_pass(lively_model, data):
    """For any document layout, as long as the text fits the window."""
    steps = lively_model.shape.window
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    tokens = random.integers(1, lively_model.vocab_size, (3, steps))
    tokens[random.random(tokens.shape) < data.draw(st.sampled_from([0, 0.1, 0.5]))] = 0
    stepper = FloatStepper(lively_model, 3)
    stepped = torch.stack([stepper.logits(column) for column in tokens.T], 1)
    with torch.inference_mode():
        torch.testing.assert_close(
            stepped, lively_model.logits(torch.from_numpy(tokens)), rtol=1e-4, atol=1e-4
        )


def test_lanes_that_end_leave_the_others_alone(lively_model):
    tokens = np.random.default_rng(3).integers(0, lively_model.vocab_size, (3, 8))
    alone = tables(lively_model, tokens[:1])
    stepper = FloatStepper(lively_model, 3)
    shrinking = [stepper.step(tokens[: 3 - step // 3, step]).copy() for step in range(8)]
    for a, b in zip(alone, shrinking, strict=True):
        assert np.abs(a[0] - b[0]).max() < 1e-4 * TOTAL


def test_a_network_that_overflows_is_refused(lively_model):
    broken = copy.deepcopy(lively_model)
    with torch.no_grad():
        broken.blocks[0].mlp_scale.fill_(float("nan"))
    with pytest.raises(BadInput, match="finite"):
        FloatStepper(broken, 1).step(np.array([0]))
