"""Low-rank adapters of every lane alone: y = Wx + B(Ax), with A [r, n] and B [m, r].

B = 0 where a document begins. A starts uniform in ±1/√n, equal for all lanes, and keeps what it
learned. After pull request 77 of openai/parameter-golf; Hu et al., LoRA (2021). A lane learns from
its own tokens alone, so every number of lanes predicts from left to right.

Legend: L lanes, S tokens of a lane in an update block, n inputs and m outputs of a matrix, r rank.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fairway.coding.model import Tensors
from fairway.coding.online.rule import RmsUpdate
from fairway.config.schema import Lora
from fairway.distributed import Process
from fairway.model.gpt import GPT
from fairway.model.linear import adapted
from fairway.model.parameters import kind_of


class LoraRule:
    """Adapters that belong to lanes; settings are the recipe's [adapt.lora]."""

    code: ClassVar[int] = 2
    layout: ClassVar[str] = "<IIffffI"
    lanes_share_weights: ClassVar[bool] = False
    takes_long_blocks: ClassVar[bool] = False
    epochs = 1
    rows = 0

    def __init__(self, network: GPT, settings: Lora) -> None:
        self._network, self._settings = network, settings
        for p in network.parameters():
            p.requires_grad_(False)
        named = network.named_parameters()
        self._adapted = [p for name, p in named if kind_of(name).adapters]
        self.start(1)

    def start(self, lanes: int) -> None:
        random, device = torch.Generator().manual_seed(0), self._adapted[0].device
        rank = self._settings.rank
        self._inner, self._outer = [], []  # all A, all B
        for p in self._adapted:
            m, n = p.shape
            a = (torch.rand(rank, n, generator=random) * 2 - 1) / math.sqrt(n)
            self._inner.append(a.to(device).repeat(lanes, 1, 1).requires_grad_())
            self._outer.append(torch.zeros(lanes, m, rank, device=device).requires_grad_())
        self._update = RmsUpdate(self._settings, [t.detach() for t in self._all])
        self._starting = torch.zeros(lanes, dtype=torch.bool, device=device)

    @property
    def _all(self) -> list[Tensor]:
        return self._inner + self._outer

    def shrink_batch(self, lanes: int) -> None:
        self._inner, self._outer = (
            [t.detach()[:lanes].requires_grad_() for t in ts] for ts in (self._inner, self._outer)
        )
        self._update.shrink_batch(lanes)
        self._starting = self._starting[:lanes]

    def applied(self) -> AbstractContextManager[None]:
        pairs = zip(self._adapted, self._inner, self._outer, strict=True)
        return adapted({id(p): (a, b) for p, a, b in pairs})

    def all_reduce(self, process: Process) -> None:
        return

    def loss(self, hidden: Tensor, coded: Tensor, counted: Tensor, count: int) -> Tensor:
        """Return the sum of every lane's mean nats: no lane changes the gradient of another."""
        nats = cross_entropy(self._network.head(hidden).mT, coded, reduction="none")
        return ((nats * counted).sum(1) / counted.sum(1).clamp(min=1)).sum()

    def begin_documents(self, coded: Tensor, within: Tensor) -> Tensor:
        if not self._settings.reset:
            return within
        places = torch.arange(coded.shape[1], device=coded.device)
        last = torch.where((coded == self._network.bos_id) & within, places, -1).amax(1)
        self._starting = last >= 0
        return within & (places > last[:, None])

    @torch.no_grad()
    def step(self, progress: float) -> None:
        if self._settings.reset:
            for b in self._outer:
                b[self._starting] = 0
        self._update(
            self._all, [torch.zeros_like(t) if t.grad is None else t.grad for t in self._all]
        )
        for t in self._all:
            t.grad = None

    def tensors(self) -> Tensors:
        return {}  # lanes begin with their chunk
