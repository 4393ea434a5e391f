"""One row for each kind of parameter: all that other files ask about a parameter stands here.

A kind is the last word of a parameter's name: `blocks.3.attn.q` is of the kind `q`. A parameter
whose kind has no row makes the network fail when it is built.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Literal, NamedTuple

from fairway.config.schema import Model
from fairway.formats.tensors import Part, TensorSpec
from fairway.formats.weight_streams import VECTOR_KIND

if TYPE_CHECKING:  # torch is imported where it draws: `fairway inspect` reads this table without
    from torch import Generator, Tensor, nn

Initialise = Callable[["Tensor", Model, "Generator"], object]
"""Fill a parameter in place; what is drawn comes from the generator."""

Size = tuple[int, ...] | None
"""None: a network of this shape has no such parameter."""


class Kind(NamedTuple):
    """What is true of all parameters of a kind."""

    place: str  # of the module that has it; {} stands for the layer
    size: Callable[[Model, int], Size]  # from the network's shape and the size of the vocabulary
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
    from torch.nn.init import orthogonal_

    orthogonal_(p, generator=random)


def _scaled(p: Tensor, shape: Model, random: Generator) -> None:
    from torch.nn.init import orthogonal_

    orthogonal_(p, gain=1 / math.sqrt(2 * shape.num_layers), generator=random)


def _output(p: Tensor, shape: Model, random: Generator) -> None:
    _scaled(p, shape, random) if shape.output_init == "scaled" else p.zero_()


def _query_gain(p: Tensor, shape: Model, random: Generator) -> None:
    p.fill_(shape.qk_gain)


def _mix(p: Tensor, shape: Model, random: Generator) -> None:
    """Take all of a block's input, and nothing of the embedding."""
    p[0].fill_(1.0)
    p[1].zero_()


_zeros, _ones = _constant(0.0), _constant(1.0)


def _width(shape: Model, vocab_size: int) -> Size:
    return (shape.dim,)


def _square(shape: Model, vocab_size: int) -> Size:
    return (shape.dim, shape.dim)


def _key_value(shape: Model, vocab_size: int) -> Size:
    return (shape.num_kv_heads * shape.head_dim, shape.dim)


def _bigram_table(shape: Model, vocab_size: int) -> Size:
    return (shape.bigram_rows, shape.bigram_dim) if shape.bigram_rows else None


def _bigram_proj(shape: Model, vocab_size: int) -> Size:
    return (shape.dim, shape.bigram_dim) if shape.bigram_rows else None


def _gate(shape: Model, vocab_size: int) -> Size:
    return (shape.num_heads, shape.gate_channels) if shape.gate_channels else None


def _vector(place: str, size: Callable[[Model, int], Size], initialise: Initialise) -> Kind:
    return Kind(place, size, initialise, "scalars", "small", VECTOR_KIND)


NETWORK, EMBED, BLOCK = "", "embed.", "blocks.{}."
ATTENTION, MLP = BLOCK + "attn.", BLOCK + "mlp."

# In the order of artifacts: first what there is once, then layer after layer.
KINDS = {
    "skips": _vector(NETWORK, lambda m, v: (len(m.passes) // 2, m.dim), _ones),
    "tokens": Kind(EMBED, lambda m, v: (v, m.dim), _embedding, "embeddings", "embedding", 6, True),
    "bigram_table": Kind(EMBED, _bigram_table, _zeros, "embeddings", "bigram", 7),
    # Not zero as in the starting system: beside a table of zeros it would never move.
    "bigram_proj": Kind(EMBED, _bigram_proj, _scaled, "muon", "bigram", 8),
    "bigram_scale": _vector(EMBED, lambda m, v: () if m.bigram_rows else None, _constant(0.05)),
    "smear_gate": _vector(EMBED, lambda m, v: (m.dim,) if m.smear else None, _zeros),
    "attn_scale": _vector(BLOCK, _width, _ones),
    "mlp_scale": _vector(BLOCK, _width, _ones),
    "mix": _vector(BLOCK, lambda m, v: (2, m.dim), _mix),
    "q": Kind(ATTENTION, _square, _orthogonal, "muon", "attention", 0, adapters=True),
    "k": Kind(ATTENTION, _key_value, _orthogonal, "muon", "attention", 1, adapters=True),
    "v": Kind(ATTENTION, _key_value, _orthogonal, "muon", "attention", 2, adapters=True),
    "o": Kind(ATTENTION, _square, _output, "muon", "attention", 3, adapters=True),
    "q_gain": _vector(ATTENTION, lambda m, v: (m.num_heads,), _query_gain),
    "gate": Kind(ATTENTION, _gate, _zeros, "scalars", "attention", 9),
    "up": Kind(MLP, lambda m, v: (m.mlp_hidden, m.dim), _orthogonal, "muon", "mlp", 4, True),
    "down": Kind(MLP, lambda m, v: (m.dim, m.mlp_hidden), _output, "muon", "mlp", 5, True),
}


def tensors_of(shape: Model, vocab_size: int) -> list[TensorSpec]:
    """Return name, shape, part and coder kind of every parameter, in the order of artifacts."""
    return [
        TensorSpec(kind.place.format(layer) + name, size, kind.part, kind.coder_kind)
        for layer in (None, *range(shape.num_layers))
        for name, kind in KINDS.items()
        if ("{}" in kind.place) == (layer is not None)
        and (size := kind.size(shape, vocab_size)) is not None
    ]


def check_parameters(found: Iterable[tuple[str, Tensor]], shape: Model, vocab_size: int) -> None:
    """Raise RuntimeError where a network has other parameters than the table says."""
    sizes = {name: tuple(p.shape) for name, p in found}
    expected = {tensor.name: tensor.shape for tensor in tensors_of(shape, vocab_size)}
    for name in [*sizes, *expected]:
        if sizes.get(name) != expected.get(name):
            raise RuntimeError(
                f"the parameter {name} has the shape {sizes.get(name)}, and its row in "
                f"fairway.model.parameters says {expected.get(name)}"
            )


def kind_of(name: str) -> Kind:
    """Return the row of a parameter. Raises RuntimeError when its kind has none."""
    kind = KINDS.get(name.rsplit(".", 1)[-1])
    if kind is None:
        raise RuntimeError(f"the parameter {name} has no row in fairway.model.parameters")
    return kind


def is_matrix(name: str) -> bool:
    """Return whether a parameter is quantized as a matrix; others are stored as vectors."""
    return kind_of(name).part != "small"


def initialise(model: nn.Module, shape: Model, seed: int) -> None:
    """Fill all parameters in order, the same on every machine for a seed."""
    import torch

    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            kind_of(name).initialise(p, shape, random)
