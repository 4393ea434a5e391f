"""MLP(u) = W_down · f(W_up u), f(z) = relu(z)² or max(z, z/2)².

The second is LeakyReLU squared, pull request 493 of the challenge.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fairway.config.schema import Model
from fairway.model.linear import linear


class _ReluSquared(torch.autograd.Function):
    """relu(z)²; only relu(z) is kept, which is also half of the derivative."""

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


class _LeakySquared(torch.autograd.Function):
    """max(z, z/2)²: z² above 0 and z²/4 below, with the derivatives 2z and z/2."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        return torch.maximum(z, z * 0.5).square_()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        return upstream[0] * torch.where(z > 0, 2 * z, 0.5 * z)


_ACTIVATIONS = {"relu2": _ReluSquared, "leaky2": _LeakySquared}


class MLP(nn.Module):
    """The two matrices of a layer's MLP."""

    def __init__(self, shape: Model) -> None:
        super().__init__()
        self.activation = _ACTIVATIONS[shape.activation]
        self.up = nn.Parameter(torch.empty(shape.mlp_hidden, shape.dim))
        self.down = nn.Parameter(torch.empty(shape.dim, shape.mlp_hidden))

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., d] to [..., d]."""
        return linear(self.activated(linear(x, self.up)), self.down)

    def activated(self, z: Tensor) -> Tensor:
        """Return f(z); without gradients it overwrites z."""
        if torch.is_grad_enabled():
            hidden: Tensor = self.activation.apply(z)
            return hidden
        below = z.mul(0.5) if self.activation is _LeakySquared else 0
        return torch.clamp_min_(z, below).square_()
