"""Causal attention with grouped key/value heads, normalised queries and keys, and rotary positions.

q ← ρ·RoPE(RMS(W_q x)), k ← RoPE(RMS(W_k x)); scores q·k/√h over the last W positions of the
token's own document.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from fairway.model.cache import Cache, document_starts
from fairway.model.norm import rms_norm
from fairway.model.product import product
from fairway.recipe import Model


@dataclass
class Span:
    """What the tokens of one call may attend to, and their rotary tables; shared by all layers."""

    cos: Tensor  # [S, h/2]
    sin: Tensor
    mask: Tensor | None  # bool[B, 1, S, n], True where a query may look; None: plain causal
    cache: Cache | None

    @staticmethod
    def of(
        tokens: Tensor, shape: Model, bos_id: int, dtype: torch.dtype, cache: Cache | None
    ) -> Span:
        new = tokens.shape[1]
        first = cache.position if cache else 0
        positions = torch.arange(first, first + new, device=tokens.device)
        cos, sin = rotary(positions, shape.head_dim, shape.rope_base, dtype)
        if cache is None:
            if not shape.document_aware:
                return Span(cos, sin, None, None)
            keys, before = positions, None
        else:
            keys, before = cache.key_positions(new), cache.document_start
        reach = keys <= positions[:, None]
        if cache is not None:
            reach = reach & (keys > positions[:, None] - shape.window)
        mask = reach.expand(tokens.shape[0], 1, -1, -1)
        if shape.document_aware:
            starts = document_starts(tokens, bos_id, positions, before)
            mask = mask & (keys >= starts[:, None, :, None])
        return Span(cos, sin, mask, cache)


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
