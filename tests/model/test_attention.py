"""Attention by slices of queries, for training on a CPU, against the library's."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fairway.model import attention
from fairway.model.attention import Span, _SlicedAttention, attend
from fairway.recipe import Model


def draw(seed, S, heads=4, groups=2, dtype=torch.float32):
    random = torch.Generator().manual_seed(seed)
    shapes = [(2, n, S, 8) for n in (heads, groups, groups)]
    return [torch.randn(s, generator=random, dtype=dtype, requires_grad=True) for s in shapes]


def masks(seed, S):
    """bool[2, 1, S, S] of rows with documents of random lengths."""
    starts = torch.rand(2, S, generator=torch.Generator().manual_seed(seed)) < 0.1
    document = starts.cumsum(1)
    same = document[:, None, :, None] == document[:, None, None, :]
    return same & torch.ones(S, S, dtype=torch.bool).tril()


@given(st.integers(0, 999), st.sampled_from([1, 2, 63, 64, 65, 150]), st.sampled_from([1, 2, 4]))
@settings(max_examples=20, deadline=None)
def test_values_and_gradients_are_those_of_the_library(seed, S, groups):
    inputs, mask = draw(seed, S, groups=groups), masks(seed, S)
    bias = torch.zeros(2, S, S).masked_fill(~mask[:, 0], -math.inf)
    y, expected = _SlicedAttention.apply(*inputs, bias), attend(*inputs, mask)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    found, wanted = (torch.autograd.grad(o, inputs, upstream) for o in (y, expected))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_gradients_in_double_precision(monkeypatch):
    monkeypatch.setattr(attention, "_SLICE", 4)
    inputs = draw(3, 10, dtype=torch.float64)
    bias = torch.zeros(2, 10, 10, dtype=torch.float64).masked_fill(~masks(3, 10)[:, 0], -math.inf)
    assert torch.autograd.gradcheck(lambda q, k, v: _SlicedAttention.apply(q, k, v, bias), inputs)


@pytest.mark.parametrize("aware", [True, False])
def test_a_bias_is_there_for_training_only(aware):
    shape = Model(num_layers=1, dim=32, num_heads=2, num_kv_heads=1, document_aware=aware)
    tokens = torch.tensor([[0, 5, 6, 0, 7, 8]])
    bias = Span.of(tokens, shape, 0, torch.float32, None).bias
    assert bias.shape[1:] == (6, 6)
    assert bool(bias[0, 4, 2] == 0) is not aware  # across a document's start
    assert bias[0, 2, 4] == -math.inf
    with torch.no_grad():
        assert Span.of(tokens, shape, 0, torch.float32, None).bias is None
