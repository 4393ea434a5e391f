"""Engines of attention: every one computes the formula, and its gradients."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fairway.config.schema import Model
from fairway.model import attention_backends
from fairway.model.attention import AttentionContext
from fairway.model.attention_backends import (
    _SlicedAttention,
    flash3,
    flexible,
    for_windows,
    library,
    sliced,
)
from fairway.model.gpt import build
from fake_cuda import CUDA, FakeCuda

on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def draw(seed, S, heads=4, groups=2, dtype=torch.float32, device="cpu", h=8):
    random = torch.Generator().manual_seed(seed)
    shapes = [(2, n, S, h) for n in (heads, groups, groups)]
    drawn = [torch.randn(s, generator=random).to(device, dtype) for s in shapes]
    return [t.requires_grad_() for t in drawn]


def documents(seed, S):
    """Rows with documents of random lengths: where each token's begins, int64[2, S], and the mask
    bool[2, 1, S, S]."""
    first = torch.rand(2, S, generator=torch.Generator().manual_seed(seed)) < 0.1
    starts = torch.where(first, torch.arange(S), 0).cummax(1).values
    keys = torch.arange(S)
    return starts, ((keys >= starts[..., None]) & (keys <= keys[:, None]))[:, None]


def formula(q, k, v, mask):
    """As the specification writes it, in float64."""
    q, k, v = (t.detach().double() for t in (q, k, v))
    k, v = (t.repeat_interleave(q.shape[1] // k.shape[1], 1) for t in (k, v))
    scores = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(~mask, -math.inf)
    return (scores.softmax(-1) @ v).float()


@given(st.integers(0, 999), st.sampled_from([1, 2, 63, 64, 65, 150]), st.sampled_from([1, 2, 4]))
@settings(max_examples=15)
@pytest.mark.filterwarnings("ignore:flex_attention called without:UserWarning")
def test_every_engine_computes_the_formula(seed, S, groups):
    inputs = [t.detach() for t in draw(seed, S, groups=groups)]
    starts, mask = documents(seed, S)
    wanted = formula(*inputs, mask)
    with torch.no_grad():
        for engine in (library(mask), flexible(starts), sliced(mask, torch.float32)):
            torch.testing.assert_close(engine(*inputs), wanted, rtol=1e-5, atol=1e-5)
        causal = torch.ones(S, S, dtype=torch.bool).tril()
        torch.testing.assert_close(
            library(None)(*inputs), formula(*inputs, causal), rtol=1e-5, atol=1e-5
        )


@given(st.integers(0, 999), st.sampled_from([2, 65, 150]), st.sampled_from([1, 4]))
@settings(max_examples=10)
def test_slices_have_the_gradients_of_the_library(seed, S, groups):
    inputs, (_, mask) = draw(seed, S, groups=groups), documents(seed, S)
    outputs = [engine(*inputs) for engine in (sliced(mask, torch.float32), library(mask))]
    upstream = torch.randn(outputs[0].shape, generator=torch.Generator().manual_seed(1))
    found, wanted = (torch.autograd.grad(o, inputs, upstream) for o in outputs)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@given(st.integers(0, 999), st.sampled_from([2, 65, 150]), st.data())
@settings(max_examples=15)
def test_the_last_queries_alone_get_what_they_get_among_all(seed, S, data):
    q, k, v = (t.detach() for t in draw(seed, S))
    last, (_, mask) = data.draw(st.integers(1, S)), documents(seed, S)
    with torch.no_grad():
        for engine in (library(mask), library(None), sliced(mask, torch.float32)):
            wanted = engine(q, k, v)[:, :, -last:]
            found = engine(q[:, :, -last:], k, v)
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_gradients_in_double_precision(monkeypatch):
    monkeypatch.setattr(attention_backends, "_SLICE", 4)
    inputs, (_, mask) = draw(3, 10, dtype=torch.float64), documents(3, 10)
    bias = torch.zeros(2, 10, 10, dtype=torch.float64).masked_fill(~mask[:, 0], -math.inf)
    for last in (10, 7):
        assert torch.autograd.gradcheck(
            lambda q, k, v, n=last: _SlicedAttention.apply(q[:, :, -n:], k, v, bias), inputs
        )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, while it compiles
def test_compiled_blocks_follow_the_documents():
    """As the network uses it on a GPU: the blocks are made inside the compiled graph."""
    inputs = [t.detach() for t in draw(5, 256, h=16)]
    starts, mask = documents(5, 256)
    with torch.no_grad():
        attend = torch.compile(lambda s, *x: flexible(s)(*x), fullgraph=True, dynamic=False)
        torch.testing.assert_close(
            attend(starts, *inputs), formula(*inputs, mask), rtol=1e-4, atol=1e-4
        )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, while it compiles
def test_plain_causal_windows_compile_into_one_graph():
    """On the device "meta" the network chooses as on a GPU."""
    shape = Model(num_layers=1, dim=32, num_heads=2, num_kv_heads=1, document_aware=False)
    model = build(shape, 300, 0, 1).to("meta")
    compiled = torch.compile(model.hidden, fullgraph=True, backend="eager")
    assert compiled(torch.zeros(2, 64, dtype=torch.int64, device="meta")).shape == (2, 64, 32)


def test_a_gpu_takes_no_cudnn_for_shapes_that_change(monkeypatch):
    allowed, attention = [], attention_backends.scaled_dot_product_attention

    def watched(*inputs, **settings):
        allowed.append(torch.backends.cuda.cudnn_sdp_enabled())
        return attention(*inputs, **settings)

    monkeypatch.setattr(attention_backends, "scaled_dot_product_attention", watched)
    with FakeCuda():
        inputs = [t.detach() for t in draw(1, 65, device=CUDA)]
        mask = documents(1, 65)[1].to(CUDA)
        for engine in (library(mask), library(None)):
            assert engine(*inputs).shape == inputs[0].shape
    assert allowed == [False, True]


@on_cuda
@pytest.mark.parametrize("S", [256, 2048])
def test_engines_of_a_gpu_agree_and_so_do_their_gradients(S):
    inputs, (starts, mask) = draw(7, S, dtype=torch.bfloat16, device="cuda", h=64), documents(7, S)
    starts, mask = starts.cuda(), mask.cuda()
    compiled = torch.compile(lambda *x: flexible(starts)(*x), dynamic=False)
    pairs = [(compiled, library(mask))]
    if three := flash3():
        pairs.append((three, library(None)))
    for engine, other in pairs:
        outputs = engine(*inputs), other(*inputs)
        found, wanted = (torch.autograd.grad(o.float().square().sum(), inputs) for o in outputs)
        for a, b in zip((outputs[0], *found), (outputs[1], *wanted), strict=True):
            assert (a - b).float().norm() / b.float().norm() < 2e-2


@pytest.mark.parametrize("aware", [True, False])
def test_a_context_stops_at_documents_if_the_model_does(aware):
    shape = Model(num_layers=1, dim=32, num_heads=2, num_kv_heads=1, document_aware=aware)
    tokens = torch.tensor([[0, 5, 6, 0, 7, 8], [1, 2, 3, 4, 5, 6]])
    inputs = draw(1, 6, heads=2, groups=1)
    attend = AttentionContext.of(tokens, shape, 0, torch.float32, None).attend
    changed = [inputs[0], inputs[1], inputs[2] + torch.eye(6)[1, :, None]]  # the value at 1
    moved = (attend(*changed) - attend(*inputs)).abs().amax((1, 3)) > 0
    assert moved.tolist() == [
        [False, True, True, *[not aware] * 3],
        [False, True, True, True, True, True],
    ]


def test_a_cpu_takes_slices_where_they_pay():
    def chosen(tokens):
        mask = torch.ones(1, 1, tokens, tokens, dtype=torch.bool).tril()
        return for_windows(mask, None, torch.float32).__qualname__.partition(".")[0]

    assert [chosen(n) for n in (9, 512, 1024, 1025)] == ["sliced", "sliced", "sliced", "library"]
    with torch.no_grad():
        assert [chosen(n) for n in (9, 255, 256, 2048)] == ["library"] * 2 + ["sliced"] * 2
