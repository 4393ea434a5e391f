"""Averages of the weights over the steps, in fp32: what is packed is the average."""

from __future__ import annotations

import torch
from torch import Tensor

from fairway.config.schema import Train


class Average:
    """EMA or SWA of the weights.

    EMA: ē ← ē + (1-λ)(w-ē), λ = min(decay, (1+t)/(10+t)). SWA: the mean of snapshots that are taken
    while the learning rate is under half of its peak (pull request 264 of the challenge).
    """

    def __init__(self, weights: list[Tensor], recipe: Train) -> None:
        self.recipe = recipe
        self.weights = weights
        self.count = 0
        self.mean = [w.detach().clone() for w in weights] if recipe.average != "none" else []

    @torch.no_grad()
    def update(self, step: int, lr_scale: float) -> None:
        """Count the weights after step number `step` (the first is 1), taken at this lr_scale."""
        if self.recipe.average == "ema":
            self.count += 1
            decay = min(self.recipe.ema_decay, (1 + self.count) / (10 + self.count))
            torch._foreach_lerp_(self.mean, self.weights, 1 - decay)
        elif self.recipe.average == "swa" and lr_scale < 0.5 and step % self.recipe.swa_every == 0:
            self.count += 1
            torch._foreach_lerp_(self.mean, self.weights, 1 / self.count)

    @torch.no_grad()
    def apply(self) -> None:
        """Put the average in place of the weights."""
        if self.count:
            torch._foreach_copy_(self.weights, self.mean)
