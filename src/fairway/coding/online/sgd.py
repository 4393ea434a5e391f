"""SGD with momentum on the whole network, score first: m ← μm + g;  θ ← θ - η·m.

Pull request 264 of openai/parameter-golf trains so at test time. It alone learns from update
blocks longer than the window: as rows of a window, each without past, for some epochs.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch

from fairway.coding.model import Tensors
from fairway.coding.online.rule import WholeNetwork, slices
from fairway.config.schema import Sgd
from fairway.model.gpt import GPT


class SgdRule(WholeNetwork):
    """Stochastic gradient descent; settings are the recipe's [adapt.sgd]."""

    code: ClassVar[int] = 0
    layout: ClassVar[str] = "<IIIfffI"
    takes_long_blocks: ClassVar[bool] = True

    def __init__(self, network: GPT, settings: Sgd) -> None:
        super().__init__(network)
        self._settings = settings
        self.epochs, self.rows = settings.epochs, settings.rows
        self._momentum = torch.zeros_like(self._weights)

    @torch.no_grad()
    def step(self, progress: float) -> None:
        s, g = self._settings, self._gradients
        if s.clip:
            g.mul_((s.clip / (g.norm() + 1e-6)).clamp(max=1))
        lr = s.lr * (0.5 + 0.5 * math.cos(math.pi * progress)) if s.cosine else s.lr
        for w, g, m in slices(self._weights, self._gradients, self._momentum):
            m.mul_(s.momentum).add_(g)
            w.add_(m, alpha=-lr)
            g.zero_()

    def tensors(self) -> Tensors:
        return {"weights": self._weights, "momentum": self._momentum}
