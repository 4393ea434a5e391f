"""MLP(u) = W_down · relu(W_up u)²."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fairway.model.product import product
from fairway.recipe import Model


class _ReluSquared(torch.autograd.Function):
    """z ↦ relu(z)²; keeps relu(z) alone, which is also half of its derivative."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        r = z.relu()
        ctx.save_for_backward(r)
        return r.square()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:
        (r,) = ctx.saved_tensors
        grad: Tensor = (upstream[0] * r).mul_(2)
        return grad


class MLP(nn.Module):
    def __init__(self, shape: Model) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.empty(shape.mlp_hidden, shape.dim))
        self.down = nn.Parameter(torch.empty(shape.dim, shape.mlp_hidden))

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = _ReluSquared.apply(product(x, self.up))  # type: ignore[no-untyped-call]
        return product(hidden, self.down)
