"""The cost of a network in multiplications."""

from __future__ import annotations

import math

from fairway.config.schema import Model
from fairway.model.parameters import kind_of, tensors_of


def flops_per_token(shape: Model, vocab_size: int) -> float:
    """Return F = 6·N + 6·L·W·d, forward and backward: N parameters in matrix products.

    L counts passes, and N the parameters of a layer as often as it is passed (Chowdhery and others
    2022, appendix B). Products with a few columns only, of gates, are left out.
    """
    weights = 0
    for name, size, *_ in tensors_of(shape, vocab_size):
        if kind_of(name).optimizer == "muon" or name == "embed.tokens":  # these are the logits'
            uses = shape.passes.count(int(name.split(".")[1])) if name.startswith("blocks.") else 1
            weights += math.prod(size) * uses
    return 6 * weights + 6 * len(shape.passes) * shape.window * shape.dim
