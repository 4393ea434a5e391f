"""One row for each kind of parameter: all that other files ask about a parameter stands here.

A kind is the last word of a parameter's name: `blocks.3.attn.q` is of the kind `q`. A parameter
whose kind has no row makes the network fail when it is built.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Generator, Tensor, nn

from fairway.config.schema import Model
from fairway.formats.tensors import Part
from fairway.formats.weight_streams import VECTOR_KIND

Initialise = Callable[[Tensor, Model, Generator], object]
"""Fill a parameter in place; what is drawn comes from the generator."""


class Kind(NamedTuple):
    """What is true of all parameters of a kind."""

    initialise: Initialise
    optimizer: Literal["muon", "embeddings", "scalars"]  # train/optim.py
    part: Part  # of the artifact that holds it; vectors, gains and mixes are "small"
    coder_kind: int  # whose statistics its codes share (formats/context_mixing.py)
    adapters: bool = False  # whether low-rank adapters may stand beside it (`--adapt lora`)


def _constant(value: float) -> Initialise:
    return lambda p, shape, random: p.fill_(value)


def _embedding(p: Tensor, shape: Model, random: Generator) -> None:
    p.normal_(0, shape.embed_std, generator=random)


def _orthogonal(p: Tensor, shape: Model, random: Generator) -> None:
    nn.init.orthogonal_(p, generator=random)


def _scaled(p: Tensor, shape: Model, random: Generator) -> None:
    nn.init.orthogonal_(p, gain=1 / math.sqrt(2 * shape.num_layers), generator=random)


def _output(p: Tensor, shape: Model, random: Generator) -> None:
    _scaled(p, shape, random) if shape.output_init == "scaled" else p.zero_()


def _query_gain(p: Tensor, shape: Model, random: Generator) -> None:
    p.fill_(shape.qk_gain)


def _mix(p: Tensor, shape: Model, random: Generator) -> None:
    """All of a block's input, and nothing of the embedding."""
    p[0].fill_(1.0)
    p[1].zero_()


_zeros, _ones = _constant(0.0), _constant(1.0)

KINDS = {
    "tokens": Kind(_embedding, "embeddings", "embedding", 6, adapters=True),
    "q": Kind(_orthogonal, "muon", "attention", 0, adapters=True),
    "k": Kind(_orthogonal, "muon", "attention", 1, adapters=True),
    "v": Kind(_orthogonal, "muon", "attention", 2, adapters=True),
    "o": Kind(_output, "muon", "attention", 3, adapters=True),
    "gate": Kind(_zeros, "scalars", "attention", 9),
    "up": Kind(_orthogonal, "muon", "mlp", 4, adapters=True),
    "down": Kind(_output, "muon", "mlp", 5, adapters=True),
    "bigram_table": Kind(_zeros, "embeddings", "bigram", 7),
    # Not zero as in the starting system: beside a table of zeros it would never move.
    "bigram_proj": Kind(_scaled, "muon", "bigram", 8),
    "bigram_scale": Kind(_constant(0.05), "scalars", "small", VECTOR_KIND),
    "smear_gate": Kind(_zeros, "scalars", "small", VECTOR_KIND),
    "q_gain": Kind(_query_gain, "scalars", "small", VECTOR_KIND),
    "attn_scale": Kind(_ones, "scalars", "small", VECTOR_KIND),
    "mlp_scale": Kind(_ones, "scalars", "small", VECTOR_KIND),
    "mix": Kind(_mix, "scalars", "small", VECTOR_KIND),
    "skips": Kind(_ones, "scalars", "small", VECTOR_KIND),
}


def kind_of(name: str) -> Kind:
    """Return the row of a parameter. Raises RuntimeError when its kind has none."""
    kind = KINDS.get(name.rsplit(".", 1)[-1])
    if kind is None:
        raise RuntimeError(f"the parameter {name} has no row in fairway.model.parameters")
    return kind


def is_matrix(name: str) -> bool:
    """Return whether a parameter is quantized as a matrix; others are stored as vectors."""
    return kind_of(name).part != "small"


@torch.no_grad()
def initialise(model: nn.Module, shape: Model, seed: int) -> None:
    """Fill all parameters in order, the same on every machine for a seed."""
    random = Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        kind_of(name).initialise(p, shape, random)
