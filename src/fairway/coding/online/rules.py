"""How a network learns from a span: SGD, dynamic evaluation, adapters that belong to lanes.

A rule takes gradients and makes new weights, with operations whose bits depend on the machine and
on nothing else. Legend: L lanes, S tokens of a lane, n inputs and m outputs of a matrix, r rank.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fairway.config.schema import Adapt, Dynamic, Lora, Sgd
from fairway.distributed import Process
from fairway.model.gpt import GPT
from fairway.model.linear import adapted
from fairway.model.loss import softcapped_cross_entropy
from fairway.model.parameters import kind_of

Tensors = dict[str, Tensor]

_SLICE = 1 << 16  # weights that are updated at a time: they stay in a CPU's cache


class Rule(Protocol):
    """What learns, and how."""

    def start(self, lanes: int) -> None:
        """A chunk begins, with so many lanes."""

    def keep(self, lanes: int) -> None:
        """From now on only the first `lanes` lanes exist."""

    def applied(self) -> AbstractContextManager[None]:
        """Inside, the network computes with what was learned."""

    def loss(self, hidden: Tensor, coded: Tensor, counted: Tensor, count: int) -> Tensor:
        """What to minimise. hidden [L, S, d]; coded int64[L, S]; counted bool[L, S].

        `count` tokens are learned from in all processes together.
        """

    def share(self, world: Process) -> None:
        """Add up what the processes' lanes ask for."""

    def fresh(self, coded: Tensor, within: Tensor) -> Tensor:
        """Begin anew where a document does; which of `within` [L, S] may be learned from."""

    def step(self, progress: float) -> None:
        """Update from the gradients, and clear them; progress of the text in [0, 1]."""

    def tensors(self) -> Tensors:
        """All that was learned, by name: views, to be saved or filled."""


def _slices(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same few weights of tensors of one shape, again and again: views."""
    return zip(*(t.view(-1).split(_SLICE) for t in tensors), strict=True)


class _WholeNetwork:
    """All weights of a network, shared by all lanes, side by side in one vector."""

    def __init__(self, model: GPT) -> None:
        self._model = model
        parameters = list(model.parameters())
        self._weights = torch.cat([p.detach().reshape(-1) for p in parameters])
        self._gradients = torch.zeros_like(self._weights)
        place = 0
        for p in parameters:
            here = slice(place, place + p.numel())
            p.data = self._weights[here].view(p.shape)
            p.grad = self._gradients[here].view(p.shape)
            place += p.numel()

    def start(self, lanes: int) -> None:
        return

    def keep(self, lanes: int) -> None:
        return

    def applied(self) -> AbstractContextManager[None]:
        return nullcontext()

    def loss(self, hidden: Tensor, coded: Tensor, counted: Tensor, count: int) -> Tensor:
        """This process's part of the mean nats."""
        head, cap = self._model.embed.tokens, self._model.shape.softcap
        mean = softcapped_cross_entropy(hidden[counted], head, coded[counted], cap)
        return mean * (int(counted.sum()) / count)

    def share(self, world: Process) -> None:
        world.all_reduce_(self._gradients)

    def fresh(self, coded: Tensor, within: Tensor) -> Tensor:
        return within


class SgdRule(_WholeNetwork):
    """m ← μm + g;  θ ← θ - η·m."""

    def __init__(self, model: GPT, settings: Sgd) -> None:
        super().__init__(model)
        self._settings = settings
        self._momentum = torch.zeros_like(self._weights)

    @torch.no_grad()
    def step(self, progress: float) -> None:
        s, g = self._settings, self._gradients
        if s.clip:
            g.mul_((s.clip / (g.norm() + 1e-6)).clamp(max=1))
        lr = s.lr * (0.5 + 0.5 * math.cos(math.pi * progress)) if s.cosine else s.lr
        for w, g, m in _slices(self._weights, self._gradients, self._momentum):
            m.mul_(s.momentum).add_(g)
            w.add_(m, alpha=-lr)
            g.zero_()

    def tensors(self) -> Tensors:
        return {"weights": self._weights, "momentum": self._momentum}


class DynamicRule(_WholeNetwork):
    """θ ← θ - η·g/(√v̂ + ε) + δ(θ₀ - θ); v the running mean of g², v̂ free of its start at 0.

    After Krause, Kahembwe, Murray and Renals, Dynamic Evaluation (2018, 2019), whose v comes from
    the training text; here it comes from the text itself, and costs no bytes.
    """

    def __init__(self, model: GPT, settings: Dynamic) -> None:
        super().__init__(model)
        self._update = _RmsUpdate(settings, [self._weights])

    @torch.no_grad()
    def step(self, progress: float) -> None:
        self._update([self._weights], [self._gradients])
        self._gradients.zero_()

    def tensors(self) -> Tensors:
        learned = self._update
        return {
            "weights": self._weights, "squares": learned.squares[0], "steps": learned.steps
        }  # fmt: skip


class _RmsUpdate:
    """The dynamic rule on some tensors; `squares` is v, `start` is θ₀."""

    def __init__(self, settings: Dynamic | Lora, weights: list[Tensor]) -> None:
        self._settings = settings
        self.start = [w.clone() for w in weights]
        self.squares = [torch.zeros_like(w) for w in weights]
        self.steps = torch.zeros((), dtype=torch.int64)

    def keep(self, lanes: int) -> None:
        """Of tensors with a first dimension of lanes, only so many are left."""
        self.start = [t[:lanes] for t in self.start]
        self.squares = [t[:lanes] for t in self.squares]

    def __call__(self, weights: list[Tensor], gradients: list[Tensor]) -> None:
        s = self._settings
        self.steps += 1
        unbias = 1 / (1 - s.beta ** int(self.steps))
        for tensors in zip(weights, gradients, self.squares, self.start, strict=True):
            for w, g, v, w0 in _slices(*tensors):
                v.mul_(s.beta).addcmul_(g, g, value=1 - s.beta)
                w.addcdiv_(g, (v * unbias).sqrt_().add_(s.eps), value=-s.lr)
                w.lerp_(w0, s.decay)


class LoraRule:
    """y = Wx + B(Ax) with A [r, n], B [m, r] for every lane alone; B = 0 where a document begins.

    A begins uniform in ±1/√n, the same for all lanes (REFERENCE B2-3), and stays warm.
    """

    def __init__(self, model: GPT, settings: Lora) -> None:
        self._model, self._settings = model, settings
        for p in model.parameters():
            p.requires_grad_(False)
        named = model.named_parameters()
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
        self._update = _RmsUpdate(self._settings, [t.detach() for t in self._all])
        self._starting = torch.zeros(lanes, dtype=torch.bool, device=device)

    @property
    def _all(self) -> list[Tensor]:
        return self._inner + self._outer

    def keep(self, lanes: int) -> None:
        self._inner, self._outer = (
            [t.detach()[:lanes].requires_grad_() for t in ts] for ts in (self._inner, self._outer)
        )
        self._update.keep(lanes)
        self._starting = self._starting[:lanes]

    def applied(self) -> AbstractContextManager[None]:
        pairs = zip(self._adapted, self._inner, self._outer, strict=True)
        return adapted({id(p): (a, b) for p, a, b in pairs})

    def share(self, world: Process) -> None:
        return

    def loss(self, hidden: Tensor, coded: Tensor, counted: Tensor, count: int) -> Tensor:
        """The sum of every lane's mean nats: what one lane does is nothing to the others."""
        nats = cross_entropy(self._model.head(hidden).mT, coded, reduction="none")
        return ((nats * counted).sum(1) / counted.sum(1).clamp(min=1)).sum()

    def fresh(self, coded: Tensor, within: Tensor) -> Tensor:
        if not self._settings.reset:
            return within
        places = torch.arange(coded.shape[1], device=coded.device)
        last = torch.where((coded == self._model.bos_id) & within, places, -1).amax(1)
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


def rule_of(model: GPT, how: Adapt) -> Rule:
    """The rule of a method, on this network."""
    if how.method == "sgd":
        return SgdRule(model, how.sgd)
    if how.method == "dynamic":
        return DynamicRule(model, how.dynamic)
    return LoraRule(model, how.lora)
