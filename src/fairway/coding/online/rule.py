"""What every way of learning provides, and the parts that several of them share.

A rule takes gradients and makes new weights. The bits of its operations depend on the machine and
on nothing else. Legend: L lanes, S tokens of a lane in an update block, d width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from fairway.coding.model import Tensors
from fairway.config.schema import Dynamic, Lora
from fairway.distributed import Process
from fairway.model.gpt import GPT
from fairway.model.loss import softcapped_cross_entropy

_SLICE = 1 << 16  # weights that are updated at a time: they stay in a CPU's cache


class Rule(Protocol):
    """One way of learning: its policy as class attributes, and its update."""

    code: ClassVar[int]  # its number in proof headers; numbers are never reused
    layout: ClassVar[
        str
    ]  # its settings in proof headers, in the order of the recipe's keys: struct
    lanes_share_weights: ClassVar[bool]  # False: a lane learns from its own tokens alone
    takes_long_blocks: ClassVar[bool]  # True: an update block may be longer than the window

    @property
    def epochs(self) -> int:
        """Return how many passes are learned from an update block."""
        ...

    @property
    def rows(self) -> int:
        """Return how many windows one update of a long block learns from; 0: all of them."""
        ...

    def start(self, lanes: int) -> None:
        """Begin a chunk with this number of lanes."""

    def shrink_batch(self, lanes: int) -> None:
        """Keep the first `lanes` lanes; the others have ended."""

    def applied(self) -> AbstractContextManager[None]:
        """Let the network compute with everything learned inside the block."""

    def loss(self, hidden: Tensor, coded: Tensor, counted: Tensor, count: int) -> Tensor:
        """Return the loss to minimise.

        hidden [L, S, d]; coded int64[L, S]; counted bool[L, S]: the tokens to learn from. `count`
        is their number in all processes together.
        """

    def all_reduce(self, process: Process) -> None:
        """Add up the gradients of all processes' lanes."""

    def begin_documents(self, coded: Tensor, within: Tensor) -> Tensor:
        """Forget where a document begins; return which of `within` [L, S] may be learned from."""

    def step(self, progress: float) -> None:
        """Update from the gradients and clear them. progress: share of the text, in [0, 1]."""

    def tensors(self) -> Tensors:
        """Return everything that outlives a chunk, by name: views, to be saved or filled."""


class WholeNetwork:
    """All weights of a network side by side in one vector, shared by all lanes."""

    lanes_share_weights: ClassVar[bool] = True
    takes_long_blocks: ClassVar[bool] = False
    epochs = 1
    rows = 0

    def __init__(self, network: GPT) -> None:
        self._network = network
        parameters = list(network.parameters())
        self._weights = torch.cat([p.detach().reshape(-1) for p in parameters])
        self._gradients = torch.zeros_like(self._weights)
        first = 0
        for p in parameters:
            own = slice(first, first + p.numel())
            p.data = self._weights[own].view(p.shape)
            p.grad = self._gradients[own].view(p.shape)
            first += p.numel()

    def start(self, lanes: int) -> None:
        return

    def shrink_batch(self, lanes: int) -> None:
        return

    def applied(self) -> AbstractContextManager[None]:
        return nullcontext()

    def loss(self, hidden: Tensor, coded: Tensor, counted: Tensor, count: int) -> Tensor:
        """Return this process's part of the mean nats per token."""
        head, cap = self._network.embed.tokens, self._network.shape.softcap
        mean = softcapped_cross_entropy(hidden[counted], head, coded[counted], cap)
        return mean * (int(counted.sum()) / count)

    def all_reduce(self, process: Process) -> None:
        process.all_reduce_(self._gradients)

    def begin_documents(self, coded: Tensor, within: Tensor) -> Tensor:
        return within


class RmsUpdate:
    """θ ← θ - η·g/(√v̂ + ε) + δ(θ₀ - θ) on some tensors; `squares` is v, `start` is θ₀."""

    def __init__(self, settings: Dynamic | Lora, weights: list[Tensor]) -> None:
        self._settings = settings
        self.start = [w.clone() for w in weights]
        self.squares = [torch.zeros_like(w) for w in weights]
        self.steps = torch.zeros((), dtype=torch.int64)

    def shrink_batch(self, lanes: int) -> None:
        """Keep the first `lanes` of tensors whose first dimension counts lanes."""
        self.start = [t[:lanes] for t in self.start]
        self.squares = [t[:lanes] for t in self.squares]

    def __call__(self, weights: list[Tensor], gradients: list[Tensor]) -> None:
        s = self._settings
        self.steps += 1
        unbias = 1 / (1 - s.beta ** int(self.steps))
        for tensors in zip(weights, gradients, self.squares, self.start, strict=True):
            for w, g, v, w0 in slices(*tensors):
                v.mul_(s.beta).addcmul_(g, g, value=1 - s.beta)
                w.addcdiv_(g, (v * unbias).sqrt_().add_(s.eps), value=-s.lr)
                w.lerp_(w0, s.decay)


def slices(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield the same few weights of several tensors of one shape, slice after slice: views."""
    return zip(*(t.view(-1).split(_SLICE) for t in tensors), strict=True)
