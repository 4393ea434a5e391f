"""The whole network on one screen: pull request 264 of Parameter Golf, made document-aware.

Legend: B rows, S tokens of a row, V vocabulary, d width, H heads, G key/value heads, h head width,
W window. Parameters are fp32; activations have the dtype that the caller's World names.
RMS(x) = x / sqrt(mean(x²) + EPS), without weight.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fairway.config.schema import Model
from fairway.model.attention import Attention, Span
from fairway.model.embed import Embedding
from fairway.model.kv_cache import Cache
from fairway.model.linear import product
from fairway.model.loss import softcapped_cross_entropy
from fairway.model.mlp import MLP
from fairway.model.norm import rms_norm


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
        self.attn_scale = nn.Parameter(torch.ones(shape.dim))
        self.mlp_scale = nn.Parameter(torch.ones(shape.dim))
        mix = torch.ones(2, shape.dim)
        mix[1].zero_()  # torch.stack on the device "meta" would import for a second
        self.mix = nn.Parameter(mix)

    def forward(self, x: Tensor, x0: Tensor, span: Span, index: int, last: int = 0) -> Tensor:
        """[B, S, d] → [B, last, d]; a `last` of 0 stands for all S."""
        mix = self.mix.to(x.dtype)
        x = torch.addcmul(mix[0] * x, mix[1], x0)
        u = self.normed(x)
        y = self.attn(u, span, index, last)
        x = torch.addcmul(x[:, -last:], self.attn_scale.to(x.dtype), y)
        u = u[:, -last:] if self.parallel else self.normed(x)
        return torch.addcmul(x, self.mlp_scale.to(x.dtype), self.mlp(u))

    def normed(self, x: Tensor) -> Tensor:
        return rms_norm(x) if self.scale == 1 else rms_norm(x) * self.scale


class GPT(nn.Module):
    """Token ids int64[B, S] → logits float32[B, S, V], softcapped: c·tanh(z/c)."""

    def __init__(self, shape: Model, vocab_size: int, bos_id: int) -> None:
        super().__init__()
        self.shape, self.vocab_size, self.bos_id = shape, vocab_size, bos_id
        self.dtype = torch.float32  # of activations; World.dtype
        self.file_bytes = 0  # of the artifact that it was read from
        self.repeating = True  # False: every layer is passed once, as early in training
        self.embed = Embedding(shape, vocab_size, bos_id)
        self.blocks = nn.ModuleList(Block(shape, layer) for layer in range(shape.num_layers))
        self.skips = nn.Parameter(torch.ones(len(shape.passes) // 2, shape.dim))

    def hidden(self, tokens: Tensor, cache: Cache | None = None, last: int = 0) -> Tensor:
        """Final normed activations [B, S, d]. With a cache, `tokens` continue what it has seen.

        last: only those of so many last positions, [B, last, d]; the last layer skips the others.
        """
        span = Span.of(tokens, self.shape, self.bos_id, self.dtype, cache)
        x = rms_norm(self.embed(tokens, self.dtype, cache))
        x = x0 = self.embed.smear(x, tokens, cache)
        passes = self.shape.passes if self.repeating else range(self.shape.num_layers)
        encoders = len(passes) // 2  # these push their output, the others pop it
        stack: list[Tensor] = []
        for i, layer in enumerate(passes):
            if i >= encoders and stack:
                x = torch.addcmul(x, self.skips[i - encoders].to(x.dtype), stack.pop())
            wanted = last if i + 1 == len(passes) and last < tokens.shape[1] else 0
            x = self.blocks[layer](x, x0, span, i, wanted)
            if i < encoders:
                stack.append(x)
        if cache is not None:
            cache.advance(tokens, self.bos_id)
        return rms_norm(x)

    def head(self, x: Tensor) -> Tensor:
        """Activations [..., d] → logits float32[..., V]."""
        z = product(x, self.embed.tokens).float()
        return self.shape.softcap * torch.tanh(z / self.shape.softcap)

    def logits(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:
        return self.head(self.hidden(tokens, cache))

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy in nats over all positions; targets int64[B, S]."""
        x = self.hidden(tokens)
        return softcapped_cross_entropy(x, self.embed.tokens, targets, self.shape.softcap)


def build(shape: Model, vocab_size: int, bos_id: int, seed: int) -> GPT:
    """An initialised model (REFERENCE A3), the same on every machine for a seed.

    Raises RuntimeError when a parameter has no rule: every parameter has exactly one owner.
    """
    model = GPT(shape, vocab_size, bos_id)
    random = torch.Generator().manual_seed(seed)
    output_scale = 1 / math.sqrt(2 * shape.num_layers)
    with torch.no_grad():
        for name, p in model.named_parameters():
            leaf = name.rsplit(".", 1)[-1]
            if leaf == "tokens":
                p.normal_(0, shape.embed_std, generator=random)
            elif leaf in ("q", "k", "v", "up"):
                nn.init.orthogonal_(p, generator=random)
            elif leaf == "bigram_proj":  # zero here and in the table would never move (A9-5)
                nn.init.orthogonal_(p, gain=output_scale, generator=random)
            elif leaf in ("o", "down"):
                if shape.output_init == "scaled":
                    nn.init.orthogonal_(p, gain=output_scale, generator=random)
                else:
                    p.zero_()
            elif leaf == "bigram_table":
                p.zero_()
            elif leaf not in SET_BY_CONSTRUCTOR:
                raise RuntimeError(f"no initialisation for {name}")
    return model


SET_BY_CONSTRUCTOR = {
    "bigram_scale", "smear_gate", "smear_strength", "gate",
    "q_gain", "attn_scale", "mlp_scale", "mix", "skips",
}  # fmt: skip


def skeleton(shape: Model, vocab_size: int, bos_id: int) -> dict[str, tuple[int, ...]]:
    """Name and shape of every parameter, in order, without taking memory."""
    with torch.device("meta"):
        model = GPT(shape, vocab_size, bos_id)
    return {name: tuple(p.shape) for name, p in model.named_parameters()}


def flops_per_token(shape: Model, vocab_size: int) -> float:
    """F = 6·N + 6·L·W·d, forward and backward (REFERENCE C): N parameters in matrix products.

    L counts passes, and N the parameters of a layer as often as it is passed.
    """
    elsewhere = SET_BY_CONSTRUCTOR | {"bigram_table"}
    products = 0
    for name, size in skeleton(shape, vocab_size, bos_id=0).items():
        if name.rsplit(".", 1)[-1] not in elsewhere:
            uses = shape.passes.count(int(name.split(".")[1])) if name.startswith("blocks.") else 1
            products += math.prod(size) * uses
    return 6 * products + 6 * len(shape.passes) * shape.window * shape.dim
