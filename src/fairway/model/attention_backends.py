"""Attention backends: the same function, computed by what is fastest where it runs.

A backend is made once per call of the network, from what a query may attend to, and serves all
layers. The S queries stand at the last of the n positions; a backend may be made for more queries
than it then gets. Legend: B rows, S queries, n keys, H heads, G key/value heads, h head width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from fairway.model.operators import opaque_op

try:
    from flash_attn_interface import flash_attn_func  # type: ignore[import-not-found]
except ImportError:
    flash_attn_func = None

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(q [B, H, S, h], k, v [B, G, n, h]) to softmax(q·kᵀ/√h, masked)·v, [B, H, S, h]."""

_SLICE = 64  # queries at once on a CPU: their scores stay in its cache
_LONGEST_LEARNED = 1024  # tokens; what is kept for the backward pass grows with the square
_SHORTEST_SCORED = 256  # tokens; below, the library is faster (docs/research/LOG.md)
# On a GPU, for shapes that change: cuDNN would build a graph for each one.
_ANY_SHAPE = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def for_windows(mask: Tensor, starts: Tensor | None, dtype: torch.dtype) -> Attend:
    """Choose the fastest backend for whole windows, S = n.

    mask bool[B or 1, 1, S, S]; starts int64[B, S]: where each query's document begins, None where
    a query sees all before it.
    """
    if mask.device.type == "cpu":
        tokens, learns = mask.shape[-1], torch.is_grad_enabled()
        pays = tokens <= _LONGEST_LEARNED if learns else tokens >= _SHORTEST_SCORED
        return sliced(mask, dtype) if pays else library(mask)
    if starts is None:
        return flash3() or library(None)
    # Uncompiled, FlexAttention would hold all scores of a layer at once.
    return flexible(starts) if torch.compiler.is_compiling() else library(mask)


def library(mask: Tensor | None) -> Attend:
    """Return torch's own choice; a mask of None is plain causal.

    With a mask, shapes may change from call to call.
    """

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        group, S, n = q.shape[1] // k.shape[1], q.shape[2], k.shape[2]
        allowed = mask
        if mask is not None:
            allowed = mask[:, :, -S:]
        elif n > S:
            allowed = torch.ones(S, n, dtype=torch.bool, device=q.device).tril(n - S)
        if S == 1 and allowed is not None:  # one token: the group's heads are the rows
            B, G, _, h = k.shape
            rows = q.reshape(B, G, group, h) * h**-0.5
            scores = (rows @ k.transpose(2, 3)).masked_fill(~allowed, float("-inf"))
            y: Tensor = scores.softmax(-1) @ v
            return y.reshape(B, G * group, 1, h)
        if group > 1:
            k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        with sdpa_kernel(_ANY_SHAPE) if q.is_cuda and allowed is not None else nullcontext():
            return scaled_dot_product_attention(
                q, k, v, attn_mask=allowed, is_causal=allowed is None
            )

    return attend


def flexible(starts: Tensor) -> Attend:
    """Return torch's FlexAttention, which leaves out blocks that no query may attend to.

    starts int64[B, S]. For compiled code; on a CPU it has no backward pass.
    """
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def looks(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (key >= starts[b, query])

    B, S = starts.shape
    blocks = create_block_mask(looks, B, None, S, S, device=starts.device)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        y = flex_attention(q, k, v, block_mask=blocks, enable_gqa=q.shape[1] != k.shape[1])
        assert isinstance(y, Tensor)
        return y

    return attend


def flash3() -> Attend | None:
    """Return FlashAttention 3, plain causal, where its package is installed, else None."""
    if flash_attn_func is None:
        return None

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        y = flash_attn_func(*(t.transpose(1, 2) for t in (q, k, v)), causal=True)
        output: Tensor = y[0] if isinstance(y, tuple) else y
        return output.transpose(1, 2)

    return attend


def sliced(mask: Tensor, dtype: torch.dtype) -> Attend:
    """Return the backend for a CPU that works on slices of queries."""
    bias = opaque_op(
        torch.zeros(mask[:, 0].shape, dtype=dtype).masked_fill_(~mask[:, 0], -math.inf)
    )

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        y: Tensor = _SlicedAttention.apply(q, k, v, bias)  # type: ignore[no-untyped-call]
        return y

    return attend


class _SlicedAttention(torch.autograd.Function):
    """Attention with a bias [B or 1, S, S], one slice of queries at a time.

    A slice needs only the keys up to its end, which saves nearly half of the work. The heads of a
    group are the rows of one matrix product. At h = 64 and S = 512 it takes 0.6 times the
    library's time (docs/research/LOG.md).
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        B, H, S, h = q.shape
        G, n = k.shape[1:3]
        grouped = q.view(B, G, H // G, S, h)
        keys, values = k.reshape(B * G, n, h), v.reshape(B * G, n, h)
        bias = bias[:, None, None, -S:]
        y, weights = torch.empty_like(grouped), []
        for first in range(0, S, _SLICE):
            last = min(first + _SLICE, S)
            seen = n - S + last
            rows = grouped[:, :, :, first:last].reshape(B * G, -1, h)
            shaped = bias[..., first:last, :seen].expand(B, G, H // G, -1, -1)
            scores = shaped.clone(memory_format=torch.contiguous_format).view(B * G, -1, seen)
            weight = scores.baddbmm_(rows, keys[:, :seen].mT, alpha=h**-0.5).softmax(-1)
            y[:, :, :, first:last] = (weight @ values[:, :seen]).view(B, G, -1, last - first, h)
            if any(ctx.needs_input_grad):
                weights.append(weight)
        ctx.save_for_backward(q, k, v, *weights)
        return y.view(q.shape)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Return dQ = dS·K, dK = dSᵀQ, dV = PᵀdY; P the weights, D = dY·Vᵀ, dS = P·(D - Σ P·D)."""
        q, k, v, *weights = ctx.saved_tensors
        B, H, S, h = q.shape
        G, n = k.shape[1:3]
        grouped, upper = (t.reshape(B, G, H // G, S, h) for t in (q, upstream[0]))
        keys, values = k.reshape(B * G, n, h), v.reshape(B * G, n, h)
        dq, dk, dv = torch.empty_like(grouped), torch.zeros_like(keys), torch.zeros_like(values)
        for i, weight in enumerate(weights):
            first, last = i * _SLICE, min((i + 1) * _SLICE, S)
            seen = n - S + last
            rows, dy = (t[:, :, :, first:last].reshape(B * G, -1, h) for t in (grouped, upper))
            ds = dy @ values[:, :seen].mT
            dv[:, :seen].baddbmm_(weight.mT, dy)
            ds = torch._softmax_backward_data(ds, weight, -1, weight.dtype)
            dq[:, :, :, first:last] = (ds @ keys[:, :seen]).view(B, G, -1, last - first, h)
            dk[:, :seen].baddbmm_(ds.mT, rows)
        dq, dk = dq.mul_(h**-0.5), dk.mul_(h**-0.5)
        return dq.view(q.shape), dk.view(k.shape), dv.view(v.shape), None
