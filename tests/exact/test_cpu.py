"""The fast network equals the oracle bit for bit, however its work is cut."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fairway.config.schema import Pack
from fairway.exact.cpu import Network
from fairway.exact.cuda import DeviceNetwork, DeviceOperands
from fairway.exact.operands import prepare
from oracles.exact_network import ExactNetwork

seeds = st.integers(0, 2**32 - 1)


def by_torch(operands, lanes, block):
    return DeviceNetwork(DeviceOperands(operands, torch.device("cpu")), lanes)


def blocked(operands, tokens, cuts, make=Network, states=None):
    """int64[L, S, V+1] from blocks that end at `cuts`; `states` gets theirs, [L, S, d]."""
    edges = sorted({0, tokens.shape[1], *(c % tokens.shape[1] for c in cuts)})
    network = make(operands, len(tokens), max(np.diff(edges)))
    found = []
    for first, last in pairwise(edges):
        table = np.empty((len(tokens) * (last - first), operands.vocab_size + 1), np.int64)
        head = network.forward(tokens[:, first:last])
        head.cumulative(table)
        found.append(table.reshape(len(tokens), last - first, -1))
        if states is not None:
            states.append(head.states.reshape(len(tokens), last - first, -1))
    return np.concatenate(found, 1)


def assert_equal_to_the_oracle(operands, tokens, cuts):
    """Both networks, in blocks that end at `cuts` and token by token; returns the tables."""
    oracle, states = ExactNetwork(operands, len(tokens)), []
    expected = []
    for column in tokens.T:
        expected.append(oracle.step(column).copy())
        states.append(oracle.states)
    expected, states = np.stack(expected, 1), np.stack(states, 1)
    assert np.abs(states).max() > 0
    for make in (Network, by_torch):
        for edges in (cuts, range(99)):
            found = []
            assert np.array_equal(blocked(operands, tokens, edges, make, found), expected)
            assert np.array_equal(np.concatenate(found, 1), states)
    return expected


@given(seeds, st.integers(1, 3), st.lists(st.integers(0, 99), max_size=5))
@settings(max_examples=6, deadline=None)
def test_blocks_of_any_size_equal_the_oracle(draw, operands, seed, lanes, cuts):
    tokens = draw(np.random.default_rng(seed), lanes, 30, operands.vocab_size)
    assert_equal_to_the_oracle(operands, tokens, cuts)


@given(seeds)
@settings(max_examples=10, deadline=None)
def test_intervals_are_those_of_the_tables(draw, operands, seed):
    tokens = draw(np.random.default_rng(seed), 1, 50, operands.vocab_size)
    tables = blocked(operands, tokens, [])[0]
    symbols = np.random.default_rng(seed).integers(0, operands.vocab_size, 50)
    at = np.arange(50)
    for head in (make(operands, 1, 50).forward(tokens) for make in (Network, by_torch)):
        starts, stops = head.intervals(symbols)
        assert np.array_equal(starts, tables[at, symbols])
        assert np.array_equal(stops, tables[at, symbols + 1])
        later = head.intervals(symbols[40:], 40)
        assert np.array_equal(later[0], starts[40:])
        assert np.array_equal(later[1], stops[40:])


def test_every_frequency_is_at_least_one(draw, operands):
    tokens = draw(np.random.default_rng(1), 2, 40, operands.vocab_size)
    tables = blocked(operands, tokens, [])
    assert (tables[..., 0] == 0).all()
    assert (tables[..., -1] == 1 << 30).all()
    assert np.diff(tables, axis=-1).min() >= 1


def test_it_is_the_floating_point_network_to_within_its_rounding(opened, operands):
    """Of a document no longer than the window, as there they see the same."""
    tokens = np.random.default_rng(2).integers(1, 300, (20, opened.model.window))
    tokens[:, 0] = 0
    tables = blocked(operands, tokens, [])
    exact = np.log2(np.diff(tables, axis=-1) / 2**30)
    with torch.inference_mode():
        logits = opened.build_model().logits(torch.from_numpy(tokens)).double()
    real = logits.log_softmax(-1).numpy() / np.log(2)
    kl = (2**real * (real - exact)).sum(-1)
    assert kl.max() < 1e-4  # bits per token
    assert abs(kl.mean()) < 1e-5


@pytest.mark.parametrize("factor", [3e3, 1e9])
def test_a_residual_stream_may_grow(draw, make_artifact, factor):
    """As it does in trained networks of many layers; 1e9 leaves every fixed range."""
    opened = make_artifact({"num_layers": 4})
    weights = dict(opened.weights)
    for name in weights:
        if name.endswith("mlp_scale"):
            weights[name] = weights[name] * np.float32(min(factor, 2.0**19))
    grown = dataclasses.replace(opened, weights=weights)
    operands = prepare(grown)
    tokens = draw(np.random.default_rng(9), 2, 16, operands.vocab_size)
    tokens[:, 0] = 0
    expected = assert_equal_to_the_oracle(operands, tokens, [5])
    exact = np.log2(np.diff(expected, axis=-1) / 2**30)
    with torch.inference_mode():
        logits = grown.build_model().logits(torch.from_numpy(tokens)).double()
    real = logits.log_softmax(-1).numpy() / np.log(2)
    assert (2**real * (real - exact)).sum(-1).max() < 1e-3


def test_lanes_that_end_leave_the_others_alone(draw, operands):
    tokens = draw(np.random.default_rng(3), 3, 12, operands.vocab_size)
    expected = blocked(operands, tokens[:1], [])
    for network in (make(operands, 3, 1) for make in (Network, by_torch)):
        for step in range(12):
            left = 3 - step // 5
            network.shrink_batch(left)
            table = np.empty((left, operands.vocab_size + 1), np.int64)
            network.forward(tokens[:left, step : step + 1]).cumulative(table)
            assert np.array_equal(table[0], expected[0, step])


def test_a_block_that_its_rings_cannot_hold_is_refused(operands):
    with pytest.raises(ValueError, match="overwrite"):
        Network(operands, 1, 4).forward(np.zeros((1, 5), np.int64))


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_change_nothing(draw, operands, threads):
    tokens = draw(np.random.default_rng(5), 4, 64, operands.vocab_size)
    expected = blocked(operands, tokens, range(0, 64, 8))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert np.array_equal(blocked(operands, tokens, []), expected)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    "pack",
    [
        Pack(quantizer="rtn", row_scale="max"),
        Pack(quantizer="rtn", row_scale="std"),
        Pack(quantizer="uniform", step=0.01),
        Pack(quantizer="uniform", step=1.0),
    ],
)
def test_coarse_fine_and_wide_codes(draw, make_artifact, pack):
    operands = prepare(make_artifact(pack=pack))
    tokens = draw(np.random.default_rng(6), 2, 20, operands.vocab_size)
    assert_equal_to_the_oracle(operands, tokens, [7])


@pytest.mark.parametrize("factor", [1e-3, 10.0, 100.0])
def test_tiny_and_huge_weights_saturate_alike(draw, make_artifact, factor):
    operands = prepare(make_artifact(factor=factor))
    tokens = draw(np.random.default_rng(7), 2, 20, operands.vocab_size)
    assert_equal_to_the_oracle(operands, tokens, [3])
