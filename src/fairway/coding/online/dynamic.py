"""Dynamic evaluation of the whole network: RMS-normalised updates and a decay to the artifact.

    θ ← θ - η·g/(√v̂ + ε) + δ(θ₀ - θ)        v: running mean of g²; v̂: v without its start at 0

Krause, Kahembwe, Murray and Renals, Dynamic Evaluation of Neural Sequence Models (2018) and of
Transformer Language Models (2019). Their v comes from the training text. Here it comes from the
scored text, and costs no bytes.
"""

from __future__ import annotations

from typing import ClassVar

import torch

from fairway.coding.model import Tensors
from fairway.coding.online.rule import RmsUpdate, WholeNetwork
from fairway.config.schema import Dynamic
from fairway.model.gpt import GPT


class DynamicRule(WholeNetwork):
    """Dynamic evaluation; settings are the recipe's [adapt.dynamic]."""

    code: ClassVar[int] = 1
    layout: ClassVar[str] = "<Iffff"

    def __init__(self, network: GPT, settings: Dynamic) -> None:
        super().__init__(network)
        self._update = RmsUpdate(settings, [self._weights])

    @torch.no_grad()
    def step(self, progress: float) -> None:
        self._update([self._weights], [self._gradients])
        self._gradients.zero_()

    def tensors(self) -> Tensors:
        squares, steps = self._update.squares[0], self._update.steps
        return {"weights": self._weights, "squares": squares, "steps": steps}
