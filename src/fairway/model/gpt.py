"""The whole network on one screen: pull request 264 of Parameter Golf, made document-aware.

Legend: B rows, S tokens of a row, V vocabulary, d width, H heads, G key/value heads, h head width,
W window. Parameters are fp32; activations have the dtype `GPT.dtype`.
RMS(x) = x / sqrt(mean(x²) + EPS), without weight.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fairway.config.schema import Model
from fairway.model.attention import Attention, AttentionContext
from fairway.model.embed import Embedding
from fairway.model.kv_cache import Cache
from fairway.model.linear import linear
from fairway.model.loss import Sample, softcapped_cross_entropy
from fairway.model.mlp import MLP
from fairway.model.norm import rms_norm
from fairway.model.parameters import check_parameters, initialise


class Block(nn.Module):
    """x ← m₀x + m₁x0;  x ← x + α·Attn(RMS(x));  x ← x + β·MLP(RMS(x)).

    layer_scale: both inputs over √(layer + 1). In parallel: both read the same x.
    """

    def __init__(self, shape: Model, layer: int) -> None:
        super().__init__()
        self.attn = Attention(shape, layer)
        self.scale = 1 / math.sqrt(layer + 1) if shape.layer_scale else 1.0
        self.parallel = shape.is_among_last(layer, shape.parallel_layers)
        self.mlp = MLP(shape)
        self.attn_scale = nn.Parameter(torch.empty(shape.dim))
        self.mlp_scale = nn.Parameter(torch.empty(shape.dim))
        self.mix = nn.Parameter(torch.empty(2, shape.dim))

    def forward(
        self, x: Tensor, x0: Tensor, context: AttentionContext, index: int, last: int = 0
    ) -> Tensor:
        """Map [B, S, d] to [B, last, d]; a `last` of 0 stands for all S."""
        mix = self.mix.to(x.dtype)
        x = torch.addcmul(mix[0] * x, mix[1], x0)
        u = self.normed(x)
        y = self.attn(u, context, index, last)
        x = torch.addcmul(x[:, -last:], self.attn_scale.to(x.dtype), y)
        u = u[:, -last:] if self.parallel else self.normed(x)
        return torch.addcmul(x, self.mlp_scale.to(x.dtype), self.mlp(u))

    def normed(self, x: Tensor) -> Tensor:
        """Return the input of attention or MLP."""
        return rms_norm(x) if self.scale == 1 else rms_norm(x) * self.scale


class GPT(nn.Module):
    """Token ids int64[B, S] → logits float32[B, S, V], softcapped: c·tanh(z/c)."""

    def __init__(self, shape: Model, vocab_size: int, bos_id: int) -> None:
        super().__init__()
        self.shape, self.vocab_size, self.bos_id = shape, vocab_size, bos_id
        self.dtype = torch.float32  # of activations
        self.file_bytes = 0  # of the artifact that it was read from
        self.repeating = True  # False: every layer is passed once, as early in training
        self.embed = Embedding(shape, vocab_size, bos_id)
        self.blocks = nn.ModuleList(Block(shape, layer) for layer in range(shape.num_layers))
        self.skips = nn.Parameter(torch.empty(len(shape.passes) // 2, shape.dim))
        check_parameters(self.named_parameters(), shape, vocab_size)

    def hidden(self, tokens: Tensor, cache: Cache | None = None, last: int = 0) -> Tensor:
        """Return the final normed activations [B, S, d]; `tokens` continue what the cache has seen.

        last: return the last positions alone, [B, last, d]; the last layer skips the others.
        """
        context = AttentionContext.of(tokens, self.shape, self.bos_id, self.dtype, cache)
        x = rms_norm(self.embed(tokens, self.dtype, cache))
        x = x0 = self.embed.smear(x, tokens, cache)
        passes = self.shape.passes if self.repeating else range(self.shape.num_layers)
        encoders = len(passes) // 2  # these push their output, the others pop it
        stack: list[Tensor] = []
        for i, layer in enumerate(passes):
            if i >= encoders and stack:
                x = torch.addcmul(x, self.skips[i - encoders].to(x.dtype), stack.pop())
            wanted = last if i + 1 == len(passes) and last < tokens.shape[1] else 0
            x = self.blocks[layer](x, x0, context, i, wanted)
            if i < encoders:
                stack.append(x)
        if cache is not None:
            cache.advance(tokens, self.bos_id)
        return rms_norm(x)

    def head(self, x: Tensor) -> Tensor:
        """Map activations [..., d] to logits float32[..., V]."""
        z = linear(x, self.embed.tokens).float()
        return self.shape.softcap * torch.tanh(z / self.shape.softcap)

    def logits(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:
        """Return logits float32[B, S, V] of tokens int64[B, S]."""
        return self.head(self.hidden(tokens, cache))

    def loss(self, tokens: Tensor, targets: Tensor, sample: Sample | None = None) -> Tensor:
        """Return the mean cross-entropy in nats over all positions; targets int64[B, S].

        With a sample of the vocabulary it is an estimate, and targets are places in the sample.
        """
        x = self.hidden(tokens)
        return softcapped_cross_entropy(x, self.embed.tokens, targets, self.shape.softcap, sample)


def build(shape: Model, vocab_size: int, bos_id: int, seed: int) -> GPT:
    """Return an initialised model, the same on every machine for a seed."""
    model = GPT(shape, vocab_size, bos_id)
    initialise(model, shape, seed)
    return model
