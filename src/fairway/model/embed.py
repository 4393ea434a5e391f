"""Token embedding, BigramHash and SmearGate: the input of layer 0."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fairway.config.schema import Model
from fairway.model.kv_cache import Cache
from fairway.model.linear import linear, lookup


class Embedding(nn.Module):
    """tokens[t_i] + s · bigram_table[hash(t_i, t_{i-1})] · bigram_projᵀ, and the smear gate."""

    def __init__(self, shape: Model, vocab_size: int, bos_id: int) -> None:
        super().__init__()
        self.document_aware, self.bos_id = shape.document_aware, bos_id
        self.tokens = nn.Parameter(torch.empty(vocab_size, shape.dim))
        self.bigram_rows = shape.bigram_rows
        if shape.bigram_rows:
            self.bigram_table = nn.Parameter(torch.empty(shape.bigram_rows, shape.bigram_dim))
            self.bigram_proj = nn.Parameter(torch.empty(shape.dim, shape.bigram_dim))
            self.bigram_scale = nn.Parameter(torch.empty(()))
        self.has_smear = shape.smear
        if shape.smear:
            self.smear_gate = nn.Parameter(torch.empty(shape.dim))

    def forward(self, tokens: Tensor, dtype: torch.dtype, cache: Cache | None) -> Tensor:
        """Map tokens int64[B, S] to [B, S, d]."""
        x = lookup(tokens, self.tokens, dtype)
        if not self.bigram_rows:
            return x
        rows = self.bigram_hash(tokens, cache)
        b = linear(lookup(rows, self.bigram_table, dtype), self.bigram_proj)
        return x + self.bigram_scale.to(dtype) * b

    def bigram_hash(self, tokens: Tensor, cache: Cache | None) -> Tensor:
        """Return (36313·t_i XOR 27191·t_{i-1}) mod (rows - 1); the last row where no t_{i-1} is."""
        last = self.bigram_rows - 1
        if last == 0:
            return torch.zeros_like(tokens)
        before = previous(tokens, cache.last_token if cache else None)
        row = torch.bitwise_xor(36313 * tokens, 27191 * before.clamp(min=0)) % last
        return torch.where(self._alone(tokens, before), last, row)

    def smear(self, x: Tensor, tokens: Tensor, cache: Cache | None) -> Tensor:
        """Return (1-g)·x_i + g·x_{i-1}, g = σ(γ); x_{i-1} is 0 where there is none.

        A token without a predecessor in its document keeps its own embedding instead, unless the
        model ignores documents, as the original does.
        """
        if not self.has_smear:
            return x
        before = previous(tokens, cache.last_token if cache else None)
        first = torch.zeros_like(x[:, :1]) if cache is None else cache.smear_state(x)
        shifted = torch.cat([first, x[:, :-1]], 1)
        if cache is not None:
            cache.last_embedding = x[:, -1:].detach()
        if self.document_aware:
            shifted = torch.where(self._alone(tokens, before)[..., None], x, shifted)
        return torch.lerp(x, shifted, torch.sigmoid(self.smear_gate).to(x.dtype))

    def _alone(self, tokens: Tensor, before: Tensor) -> Tensor:
        """Return where a token has no predecessor: bool[B, S]."""
        alone = before < 0
        return alone | (tokens == self.bos_id) if self.document_aware else alone


def previous(tokens: Tensor, last: Tensor | None) -> Tensor:
    """Return the token before each one: int64[B, S], -1 if unknown; `last` int64[B] is before."""
    first = torch.full_like(tokens[:, :1], -1) if last is None else last[:, None]
    return torch.cat([first, tokens[:, :-1]], 1)
