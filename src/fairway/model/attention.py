"""Causal attention with grouped key/value heads, normalised queries and keys, rotary positions.

q ← ρ·RoPE(RMS(W_q x)), k ← RoPE(RMS(W_k x)); scores q·k/√h over the last W positions of the
token's own document. docs/techniques.md describes the switches: partial rotary positions,
exclusive attention, gates.

Legend: B rows, S tokens of a row, d width, H heads, G key/value heads, h head width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fairway.config.schema import Model
from fairway.model.attention_backends import Attend, for_windows, library
from fairway.model.kv_cache import Cache, document_starts
from fairway.model.linear import linear
from fairway.model.norm import rms_norm
from fairway.model.operators import opaque_op


@dataclass
class AttentionContext:
    """What the tokens of one call may attend to, and their rotary tables; for all layers."""

    cos: Tensor  # [S, h/2]
    sin: Tensor
    attend: Attend
    cache: Cache | None

    @staticmethod
    def of(
        tokens: Tensor, shape: Model, bos_id: int, dtype: torch.dtype, cache: Cache | None
    ) -> AttentionContext:
        """Prepare a call on tokens int64[B, S], which continue what the cache has seen."""
        new = tokens.shape[1]
        first = cache.position if cache else 0
        positions = torch.arange(first, first + new, device=tokens.device)
        cos, sin = rotary(positions, shape, dtype)
        if cache is None:
            keys, before = positions, None
        else:
            keys, before = cache.key_positions(new), cache.document_start
        mask = keys <= positions[:, None]
        if cache is not None:
            mask = mask & (keys > positions[:, None] - shape.window)
        mask, starts = mask[None, None], None
        if shape.document_aware:
            starts = document_starts(tokens, bos_id, positions, before)
            mask = mask & (keys >= starts[:, None, :, None])
        attend = for_windows(mask, starts, dtype) if cache is None else library(mask)
        return AttentionContext(cos, sin, attend, cache)

    def normalised_and_rotated(self, x: Tensor) -> Tensor:
        """Normalise and rotate queries or keys [B, n, S, h] of the last S positions."""
        S = x.shape[2]
        return rotate(rms_norm(x), self.cos[-S:], self.sin[-S:])


def rotary(positions: Tensor, shape: Model, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return cos and sin of p·base^(-2j/r), [S, h/2], r the rotary dimensions; angles in float64.

    Pairs j ≥ r/2 do not turn: partial rotary positions (pull request 315 of the challenge), but
    for the order of a head's dimensions, which does not matter to learned weights.
    """
    r = shape.rotary_dims or shape.head_dim
    j = torch.arange(shape.head_dim // 2, device=positions.device, dtype=torch.float64)
    turn = torch.exp(j * (-2 * math.log(shape.rope_base) / r)).where(j < r // 2, 0.0)
    angle = positions[:, None].double() * turn
    return opaque_op(angle.cos().to(dtype)), opaque_op(angle.sin().to(dtype))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Map the two halves (a, b) of the last dimension to (a·cos + b·sin, b·cos - a·sin)."""
    a, b = x.chunk(2, -1)
    if torch.is_grad_enabled():
        return torch.cat([a * cos + b * sin, b * cos - a * sin], -1)
    y = x.new_empty(x.shape)  # saves a pass over memory
    first, second = y.chunk(2, -1)
    torch.mul(a, cos, out=first).addcmul_(b, sin)
    torch.mul(b, cos, out=second).addcmul_(a, sin, value=-1)
    return y


class Attention(nn.Module):
    """Attention of one layer, with its four projections and the gain of its queries."""

    def __init__(self, shape: Model, layer: int) -> None:
        super().__init__()
        d, kv = shape.dim, shape.num_kv_heads * shape.head_dim
        self.heads, self.kv_heads, self.width = shape.num_heads, shape.num_kv_heads, shape.head_dim
        self.q = nn.Parameter(torch.empty(d, d))
        self.k = nn.Parameter(torch.empty(kv, d))
        self.v = nn.Parameter(torch.empty(kv, d))
        self.o = nn.Parameter(torch.empty(d, d))
        self.q_gain = nn.Parameter(torch.empty(shape.num_heads))
        self.exclusive = shape.is_among_last(layer, shape.exclusive_layers)
        self.channels = shape.gate_channels
        if self.channels:
            self.gate = nn.Parameter(torch.empty(shape.num_heads, self.channels))

    def forward(self, x: Tensor, context: AttentionContext, index: int, last: int = 0) -> Tensor:
        """Map [B, S, d] to [B, S, d] in pass `index`; with `last`, only so many last positions."""
        if last:
            q = context.normalised_and_rotated(self.by_heads(linear(x[:, -last:], self.q)))
            k, v = self.by_heads(linear(x, self.k, self.v)).chunk(2, 1)
            k, x = context.normalised_and_rotated(k), x[:, -last:]
        else:
            y = self.by_heads(linear(x, self.q, self.k, self.v))
            qk, v = y.split([self.heads + self.kv_heads, self.kv_heads], 1)
            q, k = context.normalised_and_rotated(qk).split([self.heads, self.kv_heads], 1)
        q, own = q * self.q_gain.to(x.dtype)[:, None, None], v[:, :, -last:]
        if context.cache is not None:
            k, v = context.cache.extend(index, k, v)
        y = context.attend(q, k, v)
        if self.exclusive:
            y = exclude(y, own)
        y = y.transpose(1, 2)
        if self.channels:
            gate = torch.sigmoid(0.5 * linear(x[..., : self.channels], self.gate))
            y = y * gate[..., None]
        return linear(y.reshape(x.shape), self.o)

    def by_heads(self, y: Tensor) -> Tensor:
        """Return y [B, S, n·h] as [B, n, S, h]."""
        return y.view(*y.shape[:2], -1, self.width).transpose(1, 2)


def exclude(y: Tensor, own: Tensor) -> Tensor:
    """Return y [B, H, S, h] without its part along own [B, G, S, h]: y - (y·v̂)v̂.

    Exclusive attention, XSA: pull request 265 of the challenge.
    """
    grouped = y.unflatten(1, (own.shape[1], -1))
    direction = torch.nn.functional.normalize(own, dim=-1, eps=1e-20)[:, :, None]
    along = (grouped * direction).sum(-1, keepdim=True)
    return torch.addcmul(grouped, along, direction, value=-1).flatten(1, 2)
