"""MLP(u) = W_down · relu(W_up u)²."""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from fairway.recipe import Model


class MLP(nn.Module):
    def __init__(self, shape: Model) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.empty(shape.mlp_hidden, shape.dim))
        self.down = nn.Parameter(torch.empty(shape.dim, shape.mlp_hidden))

    def forward(self, x: Tensor) -> Tensor:
        return linear(linear(x, self.up.to(x.dtype)).relu().square(), self.down.to(x.dtype))
