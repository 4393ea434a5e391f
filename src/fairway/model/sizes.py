"""Shapes, artifact parts and cost of a network's parameters, without taking memory for them."""

from __future__ import annotations

import math

import torch

from fairway.config.schema import Model
from fairway.formats.tensors import TensorSpec
from fairway.model.gpt import GPT
from fairway.model.parameters import kind_of


def tensors_of(shape: Model, vocab_size: int, bos_id: int) -> list[TensorSpec]:
    """Return name, shape, part and coder kind of every parameter, in order, without memory."""
    with torch.device("meta"):
        model = GPT(shape, vocab_size, bos_id)
    return [
        TensorSpec(name, tuple(p.shape), kind_of(name).part, kind_of(name).coder_kind)
        for name, p in model.named_parameters()
    ]


def flops_per_token(shape: Model, vocab_size: int) -> float:
    """Return F = 6·N + 6·L·W·d, forward and backward: N parameters in matrix products.

    L counts passes, and N the parameters of a layer as often as it is passed (Chowdhery and others
    2022, appendix B). Products with a few columns only, of gates, are left out.
    """
    weights = 0
    for name, size, *_ in tensors_of(shape, vocab_size, bos_id=0):
        if kind_of(name).optimizer == "muon" or name == "embed.tokens":  # these are the logits'
            uses = shape.passes.count(int(name.split(".")[1])) if name.startswith("blocks.") else 1
            weights += math.prod(size) * uses
    return 6 * weights + 6 * len(shape.passes) * shape.window * shape.dim
