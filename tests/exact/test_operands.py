"""Constants from integers against those of the library, and what is refused."""

import dataclasses

import numpy as np
import pytest

from fairway.errors import BadInput
from fairway.exact.fixed_point import SUM_LIMIT
from fairway.exact.operands import prepare
from fairway.exact.tables import softcap_table
from fairway.formats.tensors import Matrix
from oracles.exact_network import power


@pytest.mark.parametrize("softcap", [1.5, 15.0, 30.0])
def test_the_softcaps_table(softcap):
    table = softcap_table(softcap)
    u = np.arange(len(table)) / 512
    exact = softcap * np.tanh(u) * np.log2(np.e) * 4096
    values, steps = table >> 32, table & 0xFFFFFFFF
    assert np.abs(values - exact).max() < 0.51
    assert np.array_equal(steps[:-1], np.diff(values))


def test_powers_of_two():
    d = np.arange(4096)
    assert np.abs(power(d) / 65536 / 2 ** (-d / 4096) - 1).max() < 1.6e-4
    assert (np.diff(power(d)) < 0).all()


def test_angles_are_those_of_the_floating_point_network(operands):
    shape, t = operands.shape, operands.tables
    j = np.arange(shape.head_dim // 2)
    width = shape.rotary_dims or shape.head_dim
    angle = np.where(j < width // 2, shape.rope_base ** (-2 * j / width), 0)
    assert t.turns / 2.0**64 * 2 * np.pi == pytest.approx(angle, rel=1e-12)
    circle = 2 * np.pi * np.arange(len(t.cosines)) / len(t.cosines)
    assert np.abs(t.cosines - np.cos(circle) * 2**14).max() < 0.51
    assert np.abs(t.sines - np.sin(circle) * 2**14).max() < 0.51


def test_no_sum_of_a_linear_can_leave_the_exact_integers(operands):
    linears = [operands.head, *(p for layer in operands.layers for p in vars(layer).values())]
    for linear in filter(lambda p: hasattr(p, "slices"), linears):
        for weights in linear.slices:
            sums = np.abs(weights.astype(np.int64)).sum(1)
            assert sums.max() * linear.largest_input <= SUM_LIMIT
        assert linear.largest_input >= 1023
        assert linear.columns.max() == 1


def changed(artifact, **changes):
    return dataclasses.replace(artifact, **changes)


def with_matrix(artifact, name, **changes):
    matrix = dataclasses.replace(artifact.matrices[name], **changes)
    return changed(artifact, matrices=artifact.matrices | {name: matrix})


def test_what_could_overflow_is_refused(make_artifact):
    good = make_artifact()
    q = good.matrices["blocks.0.attn.q"]
    gain = np.full_like(good.weights["blocks.0.attn.q_gain"], 1e5)
    cases = {
        "differ in the steps of their columns": with_matrix(
            good, "blocks.0.attn.q", columns=q.columns + 1
        ),
        "steps out of range": with_matrix(good, "blocks.1.attn.o", rows=q.rows + 200),
        "q_gain is too large": changed(good, weights=good.weights | {"blocks.0.attn.q_gain": gain}),
        "skips is too large": changed(
            good, weights=good.weights | {"skips": good.weights["skips"] * 1e7}
        ),
        "embed.tokens is too large": changed(
            good, weights=good.weights | {"embed.tokens": good.weights["embed.tokens"] + 200}
        ),
        "its window is 65536": changed(good, model=good.model.model_copy(update={"window": 65536})),
        "its softcap": changed(good, model=good.model.model_copy(update={"softcap": 1e9})),
        "its heads are 512 wide": changed(
            good, model=good.model.model_copy(update={"dim": 1024, "num_heads": 2})
        ),
    }
    for problem, artifact in cases.items():
        with pytest.raises(BadInput, match=problem) as refusal:
            prepare(artifact)
        assert "--arithmetic float" in str(refusal.value)


def test_the_widest_codes_still_have_inputs(make_artifact):
    good = make_artifact()
    up = good.matrices["blocks.0.mlp.up"]
    wide = Matrix(np.full_like(up.codes, 32767), up.rows, up.columns)
    operands = prepare(with_matrix(good, "blocks.0.mlp.up", codes=wide.codes))
    linear = operands.layers[0].up
    assert len(linear.slices) == up.codes.shape[1]
    assert linear.largest_input == SUM_LIMIT // 32767
