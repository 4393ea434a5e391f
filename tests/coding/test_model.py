"""What every CodingModel promises, for float, exact and learning ones alike."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fairway.coding import artifact
from fairway.coding.lanes import Layout
from fairway.coding.session import open_model
from fairway.config.schema import NO_MEMORY, Adapt, Dynamic, Lora, Sgd
from fairway.formats.coded_tokens import Starts
from fairway.formats.range_coder import TOTAL

WAYS = {
    "exact": ("exact", Adapt()),
    "float": ("float", Adapt()),
    "sgd": ("float", Adapt(method="sgd", sgd=Sgd(block_tokens=8, lr=0.3, momentum=0.5))),
    "sgd, long blocks": ("float", Adapt(method="sgd", sgd=Sgd(block_tokens=48, lr=0.3, rows=2))),
    "dynamic": ("float", Adapt(method="dynamic", dynamic=Dynamic(block_tokens=8, lr=0.01))),
    "lora": ("float", Adapt(method="lora", lora=Lora(block_tokens=8, lr=0.05, rank=2))),
}
every_way = pytest.mark.parametrize(("arithmetic", "adapt"), WAYS.values(), ids=WAYS)
both_memories = pytest.mark.parametrize("with_memory", [False, True], ids=["alone", "memory"])
few = settings(
    max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def opened(memory_file):
    return artifact.read(memory_file)


def opener(opened, arithmetic, adapt, with_memory):
    source = opened if with_memory else replace(opened, memory=NO_MEMORY)
    return lambda: open_model(source, arithmetic, adapt, tokens=300, workers=2)


def text(seed, count=90):
    """Return tokens uint16[count] with documents of every length, and a layout of three lanes."""
    random = np.random.default_rng(seed)
    tokens = random.integers(1, 300, count).astype(np.uint16)
    tokens[random.random(count) < 0.06] = 0
    tokens[0] = 0
    positions = np.append(0, np.sort(random.choice(np.arange(1, count), 2, replace=False)))
    return tokens, Layout(count, Starts(positions, tokens[positions] != 0))


def known(model, tokens, layout):
    """Return the nats of every token by `token_costs`, NaN where none is coded."""
    nats = np.full(len(tokens), np.nan)
    for costs in model.token_costs(tokens, layout):
        assert np.isnan(nats[costs.positions]).all(), "a token was charged twice"
        nats[costs.positions] = costs.nats
        assert (costs.intervals is not None) == model.has_intervals
    return nats


def stepped(model, tokens, layout):
    """Return the nats of every token by the stepper, from tables that are checked."""
    nats, stepper = np.full(len(tokens), np.nan), model.stepper(layout)
    fed = np.full(layout.lanes, model.bos_id)
    for step in range(layout.steps):
        positions = layout.positions(step)
        table = stepper.step(fed[: len(positions)])
        assert table.shape == (len(positions), model.vocab_size + 1)
        assert (table[:, 0] == 0).all()
        assert (table[:, -1] == TOTAL).all()
        assert (np.diff(table) >= 1).all()
        fed = tokens[positions].astype(np.int64)
        rows = np.arange(len(positions))
        nats[positions] = -np.log((table[rows, fed + 1] - table[rows, fed]) / TOTAL)
        stepper.observe(fed)
    return nats


@every_way
@both_memories
@few
@given(seed=st.integers(0, 2**32 - 1))
@example(seed=164)  # its first lane is empty
def test_token_costs_are_those_of_the_stepper(opened, arithmetic, adapt, with_memory, seed):
    new_model = opener(opened, arithmetic, adapt, with_memory)
    tokens, layout = text(seed)
    costs, steps = known(new_model(), tokens, layout), stepped(new_model(), tokens, layout)
    coded = np.zeros(len(tokens), bool)
    coded[layout.order()] = True
    np.testing.assert_array_equal(np.isnan(costs), ~coded)
    if new_model().has_intervals:
        np.testing.assert_allclose(costs, steps, rtol=1e-12)
    else:
        np.testing.assert_allclose(costs, steps, rtol=1e-3, atol=1e-3)


@every_way
@both_memories
@few
@given(seed=st.integers(0, 2**32 - 1))
def test_a_restored_model_continues_equally(opened, arithmetic, adapt, with_memory, seed):
    """Whether the text before was charged or stepped; to the last bit."""
    new_model = opener(opened, arithmetic, adapt, with_memory)
    (first, first_layout), (second, second_layout) = text(seed), text(seed + 1)
    model = new_model()
    before = stepped(model, second, second_layout) if not model.learns else None
    known(model, first, first_layout)
    snapshot = model.snapshot()
    assert bool(snapshot) == model.learns
    wanted = stepped(model, second, second_layout)
    other = new_model()
    other.restore(snapshot)
    np.testing.assert_array_equal(stepped(other, second, second_layout), wanted)
    if before is not None:
        np.testing.assert_array_equal(before, wanted)
