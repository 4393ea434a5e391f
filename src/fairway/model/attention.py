"""Causal attention with grouped key/value heads, normalised queries and keys, and rotary positions.

q ← ρ·RoPE(RMS(W_q x)), k ← RoPE(RMS(W_k x)); scores q·k/√h over the last W positions of the
token's own document. Its switches: partial rotary positions, value embeddings, exclusive
attention, gates (docs/techniques.md).
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
        cos, sin = rotary(positions, shape, dtype)
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


def rotary(positions: Tensor, shape: Model, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin of p·base^(-2j/r), [S, h/2], r the rotary dimensions; angles in float64 (A9-13).

    Pairs from r/2 on stand still: partial rotary positions (REFERENCE 18), up to the order of a
    head's dimensions, which learned weights do not mind.
    """
    r = shape.rotary_dims or shape.head_dim
    j = torch.arange(shape.head_dim // 2, device=positions.device, dtype=torch.float64)
    turn = torch.exp(j * (-2 * math.log(shape.rope_base) / r)).where(j < r // 2, 0.0)
    angle = positions[:, None].double() * turn
    return angle.cos().to(dtype), angle.sin().to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """(a, b) ↦ (a·cos + b·sin, b·cos - a·sin) on the halves of the last dimension."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos + b * sin, b * cos - a * sin], -1)


class Attention(nn.Module):
    def __init__(self, shape: Model, layer: int) -> None:
        super().__init__()
        d, kv = shape.dim, shape.num_kv_heads * shape.head_dim
        self.heads, self.kv_heads, self.width = shape.num_heads, shape.num_kv_heads, shape.head_dim
        self.q = nn.Parameter(torch.empty(d, d))
        self.k = nn.Parameter(torch.empty(kv, d))
        self.v = nn.Parameter(torch.empty(kv, d))
        self.o = nn.Parameter(torch.empty(d, d))
        self.q_gain = nn.Parameter(torch.full((shape.num_heads,), shape.qk_gain))
        self.exclusive = shape.is_among_last(layer, shape.exclusive_layers)
        self.channels = shape.gate_channels
        if self.channels:
            self.gate = nn.Parameter(torch.zeros(shape.num_heads, self.channels))
        self.adds_values = bool(shape.value_dim) and shape.is_among_last(layer, shape.value_layers)
        if self.adds_values:
            self.value_scale = nn.Parameter(torch.tensor(0.1))

    def forward(self, x: Tensor, span: Span, index: int, values: Tensor | None) -> Tensor:
        """[B, S, d] → [B, S, d], as pass `index`; values [B, S, G·h]: value embeddings."""
        y = product(x, self.q, self.k, self.v).view(*x.shape[:2], -1, self.width).transpose(1, 2)
        q, k, v = y.split([self.heads, self.kv_heads, self.kv_heads], 1)
        q = rotate(rms_norm(q), span.cos, span.sin) * self.q_gain.to(x.dtype)[:, None, None]
        k = rotate(rms_norm(k), span.cos, span.sin)
        if self.adds_values and values is not None:
            added = values.view(*x.shape[:2], -1, self.width).transpose(1, 2)
            v = v + self.value_scale.to(x.dtype) * added
        own = v
        if span.cache is not None:
            k, v = span.cache.extend(index, k, v)
        if span.bias is not None:
            y = _SlicedAttention.apply(q, k, v, span.bias)  # type: ignore[no-untyped-call]
        else:
            y = attend(q, k, v, span.mask)
        if self.exclusive:
            y = exclude(y, own)
        y = y.transpose(1, 2)
        if self.channels:
            gate = torch.sigmoid(0.5 * product(x[..., : self.channels], self.gate))
            y = y * gate[..., None]
        return product(y.reshape(x.shape), self.o)


def exclude(y: Tensor, own: Tensor) -> Tensor:
    """XSA, y - (y·v̂)v̂: y [B, H, S, h] without its part along own [B, G, S, h] (REFERENCE 17)."""
    grouped = y.unflatten(1, (own.shape[1], -1))
    direction = torch.nn.functional.normalize(own, dim=-1, eps=1e-20)[:, :, None]
    along = (grouped * direction).sum(-1, keepdim=True)
    return torch.addcmul(grouped, along, direction, value=-1).flatten(1, 2)


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
