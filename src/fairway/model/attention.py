"""Causal attention with grouped key/value heads, normalised queries and keys, and rotary positions.

q ← ρ·RoPE(RMS(W_q x)), k ← RoPE(RMS(W_k x)); scores q·k/√h over the last W positions of the
token's own document.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from fairway.model.cache import Cache, document_starts
from fairway.model.norm import rms_norm
from fairway.model.product import product
from fairway.recipe import Model

_SLICE = 64  # queries at once on a CPU: their scores stay in its cache
_LONGEST_SLICED = 1024  # tokens; the weights that the backward pass needs grow with the square


@dataclass
class Span:
    """What the tokens of one call may attend to, and their rotary tables; shared by all layers."""

    cos: Tensor  # [S, h/2]
    sin: Tensor
    mask: Tensor | None  # bool[B, 1, S, n], True where a query may look; None: plain causal
    cache: Cache | None
    bias: Tensor | None = None  # the same for training on a CPU: [·, S, n], 0 or -∞, to be added

    @staticmethod
    def of(
        tokens: Tensor, shape: Model, bos_id: int, dtype: torch.dtype, cache: Cache | None
    ) -> Span:
        new = tokens.shape[1]
        first = cache.position if cache else 0
        positions = torch.arange(first, first + new, device=tokens.device)
        cos, sin = rotary(positions, shape.head_dim, shape.rope_base, dtype)
        if cache is None:
            keys, before = positions, None
        else:
            keys, before = cache.key_positions(new), cache.document_start
        reach = keys <= positions[:, None]
        if cache is not None:
            reach = reach & (keys > positions[:, None] - shape.window)
        mask = reach[None, None]
        if shape.document_aware:
            starts = document_starts(tokens, bos_id, positions, before)
            mask = mask & (keys >= starts[:, None, :, None])
        sliced = cache is None and tokens.device.type == "cpu" and torch.is_grad_enabled()
        bias = None
        if sliced and new <= _LONGEST_SLICED:
            bias = torch.zeros(mask[:, 0].shape, dtype=dtype).masked_fill_(~mask[:, 0], -math.inf)
        causal = cache is None and not shape.document_aware
        return Span(cos, sin, None if causal else mask, cache, bias)


def rotary(positions: Tensor, width: int, base: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin of p·base^(-2j/width), [S, width/2]; angles in float64 (A9-13)."""
    j = torch.arange(width // 2, device=positions.device, dtype=torch.float64)
    angle = positions[:, None].double() * torch.exp(j * (-2 * math.log(base) / width))
    return angle.cos().to(dtype), angle.sin().to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """(a, b) ↦ (a·cos + b·sin, b·cos - a·sin) on the halves of the last dimension."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos + b * sin, b * cos - a * sin], -1)


class Attention(nn.Module):
    def __init__(self, shape: Model) -> None:
        super().__init__()
        d, kv = shape.dim, shape.num_kv_heads * shape.head_dim
        self.heads, self.kv_heads, self.width = shape.num_heads, shape.num_kv_heads, shape.head_dim
        self.q = nn.Parameter(torch.empty(d, d))
        self.k = nn.Parameter(torch.empty(kv, d))
        self.v = nn.Parameter(torch.empty(kv, d))
        self.o = nn.Parameter(torch.empty(d, d))
        self.q_gain = nn.Parameter(torch.full((shape.num_heads,), shape.qk_gain))

    def forward(self, x: Tensor, span: Span, layer: int) -> Tensor:
        """[B, S, d] → [B, S, d]."""
        y = product(x, self.q, self.k, self.v).view(*x.shape[:2], -1, self.width).transpose(1, 2)
        q, k, v = y.split([self.heads, self.kv_heads, self.kv_heads], 1)
        q = rotate(rms_norm(q), span.cos, span.sin) * self.q_gain.to(x.dtype)[:, None, None]
        k = rotate(rms_norm(k), span.cos, span.sin)
        if span.cache is not None:
            k, v = span.cache.extend(layer, k, v)
        if span.bias is not None:
            y = _SlicedAttention.apply(q, k, v, span.bias)  # type: ignore[no-untyped-call]
        else:
            y = attend(q, k, v, span.mask)
        return product(y.transpose(1, 2).reshape(x.shape), self.o)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q·kᵀ/√h + mask)·v; q [B, H, S, h], k and v [B, G, n, h], H a multiple of G."""
    group = q.shape[1] // k.shape[1]
    if q.shape[2] == 1 and mask is not None:  # one token: the group's heads are the rows
        B, G, _, h = k.shape
        rows = q.reshape(B, G, group, h) * h**-0.5
        scores = (rows @ k.transpose(2, 3)).masked_fill(~mask, float("-inf"))
        y: Tensor = scores.softmax(-1) @ v
        return y.reshape(B, G * group, 1, h)
    if group > 1:
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    return scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)


class _SlicedAttention(torch.autograd.Function):
    """The same with a bias [B or 1, S, S], for training on a CPU: a slice of queries at a time.

    A slice sees only the keys up to its end, so nearly half of the work falls away, and the heads
    of a group are the rows of one product. At h = 64 and S = 512 it takes 0.6 times as long as the
    library's (docs/LOG.md).
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        B, H, S, h = q.shape
        G = k.shape[1]
        grouped = q.view(B, G, H // G, S, h)
        keys, values = k.reshape(B * G, S, h), v.reshape(B * G, S, h)
        y, weights = torch.empty_like(grouped), []
        for first in range(0, S, _SLICE):
            last = min(first + _SLICE, S)
            rows = grouped[:, :, :, first:last].reshape(B * G, -1, h)
            scores = (rows * h**-0.5) @ keys[:, :last].mT
            shaped = scores.view(B, G, H // G, last - first, last)
            shaped += bias[:, None, None, first:last, :last]
            weight = scores.softmax(-1)
            y[:, :, :, first:last] = (weight @ values[:, :last]).view(B, G, -1, last - first, h)
            weights.append(weight)
        ctx.save_for_backward(q, k, v, *weights)
        return y.view(q.shape)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """With P the weights and D = dY·Vᵀ: dV = PᵀdY, dS = P·(D - Σ P·D), dQ = dS·K, dK = dSᵀQ."""
        q, k, v, *weights = ctx.saved_tensors
        B, H, S, h = q.shape
        G = k.shape[1]
        grouped, upper = (t.reshape(B, G, H // G, S, h) for t in (q, upstream[0]))
        keys, values = k.reshape(B * G, S, h), v.reshape(B * G, S, h)
        dq, dk, dv = torch.empty_like(grouped), torch.zeros_like(keys), torch.zeros_like(values)
        for i, weight in enumerate(weights):
            first, last = i * _SLICE, min((i + 1) * _SLICE, S)
            rows, dy = (t[:, :, :, first:last].reshape(B * G, -1, h) for t in (grouped, upper))
            ds = dy @ values[:, :last].mT
            dv[:, :last].baddbmm_(weight.mT, dy)
            ds = torch._softmax_backward_data(ds, weight, -1, weight.dtype)
            dq[:, :, :, first:last] = (ds @ keys[:, :last]).view(B, G, -1, last - first, h)
            dk[:, :last].baddbmm_(ds.mT, rows)
        dq, dk = dq.mul_(h**-0.5), dk.mul_(h**-0.5)
        return dq.view(q.shape), dk.view(k.shape), dv.view(v.shape), None
