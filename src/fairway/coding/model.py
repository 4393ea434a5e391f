"""The one protocol of everything that predicts a text: `CodingModel`.

    artifact ──session.open_model──▶ CodingModel ──token_costs──▶ score      (all tokens are known)
                                                 ──stepper──────▶ decoder    (one token per lane)

Float (float_model.py), exact (exact_model.py) and learning models (online/learning_model.py) are
CodingModels. `mixed_model.py` wraps any of them with the document memory. Everything above, such as
`score`, `prove`, `compress` and the Python interface, knows this protocol and nothing below it.

Legend: k tokens, n lanes of a step, V vocabulary, d width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import log
from typing import ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fairway.coding.lanes import Layout, Longs, Tokens
from fairway.distributed import ALONE, Process
from fairway.formats.range_coder import TOTAL_BITS

Floats = NDArray[np.float64]
States = NDArray[np.float32]
Tensors = dict[str, Tensor]


class Window(NamedTuple):
    """A model sees tokens[start:end] and is charged for tokens[first + 1 : end + 1]."""

    start: int
    first: int
    end: int


class Intervals(NamedTuple):
    """The coder's intervals of some tokens, in units of 2^-30."""

    starts: Longs  # [k]
    stops: Longs  # [k]

    @property
    def bits(self) -> Floats:
        """Return the length of each token's code, log2(2^30 / (stop - start)): float64[k]."""
        lengths: Floats = TOTAL_BITS - np.log2(self.stops - self.starts)
        return lengths

    def at(self, indices: Longs) -> Intervals:
        """Return the intervals of the tokens with these indices."""
        return Intervals(self.starts[indices], self.stops[indices])


class TokenCosts(NamedTuple):
    """What some tokens of a text cost."""

    positions: Longs  # [k], where the tokens are in the text
    nats: Floats  # [k]
    intervals: Intervals | None = None  # from models with `has_intervals`
    states: States | None = None  # [k, d]: the head's input, at any scale, if it was asked for
    is_resumable: bool = False  # a snapshot that is taken now continues after these tokens

    @staticmethod
    def of(positions: Longs, intervals: Intervals, states: States | None = None) -> TokenCosts:
        """Return the costs that follow from intervals."""
        return TokenCosts(positions, intervals.bits * log(2), intervals, states)


class Stepper(Protocol):
    """Predicts one token of every lane at a time: all that a decoder needs."""

    def step(self, tokens: Longs) -> Longs:
        """Feed the last token of each lane, int64[n]; return the tables of the next, int64[n, V+1].

        Each row holds cumulative frequencies: it rises strictly from 0 to 2^30. The array is valid
        until the next call. n never rises: a lane that is left out has ended.
        """
        ...

    def memory_parts(self, tokens: Longs) -> Longs:
        """Return what the document memory added to the frequencies of tokens int64[n]: int64[n, 2].

        Column 0 is what n-grams added, column 1 what the neural cache added. It is asked for
        between `step` and `observe`.
        """
        ...

    def observe(self, tokens: Longs) -> None:
        """Tell which tokens were coded at this step, int64[n]. Models learn from nothing else."""
        ...


class StateStepper(Stepper, Protocol):
    """A Stepper that shows the states that led to its last tables."""

    @property
    def states(self) -> States:
        """Return the head's input, at any scale: float32[n or more, d]."""
        ...


class CodingModel(Protocol):
    """Assigns a code length to every token of a text, given the tokens before it."""

    @property
    def bos_id(self) -> int:
        """Return the token that begins every document."""
        ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def window(self) -> int:
        """Return how many tokens the network's attention reaches back."""
        ...

    @property
    def learns(self) -> bool:
        """Return whether coded tokens change later predictions, also those of later chunks."""
        ...

    @property
    def process(self) -> Process:
        """Return the processes that share the lanes out: `token_costs` gives each its own share."""
        ...

    @property
    def has_intervals(self) -> bool:
        """Return whether `token_costs` gives the very intervals that a stepper codes with."""
        ...

    def token_costs(
        self, tokens: Tokens, layout: Layout, with_states: bool = False
    ) -> Iterator[TokenCosts]:
        """Yield the costs of all tokens that the lanes of `layout` code, each exactly once.

        tokens: uint16[N], one chunk. The costs of one lane come in the order of its tokens.
        """
        ...

    def window_costs(self, tokens: Tokens, windows: Iterable[Window]) -> Iterator[TokenCosts]:
        """Yield the costs of all tokens that the windows score; each window begins without past.

        tokens: uint16[N], the whole text. Raises BadInput.
        """
        ...

    def stepper(self, layout: Layout) -> Stepper:
        """Return a stepper for the lanes of one chunk. Raises BadInput."""
        ...

    def check_memory(self, layout: Layout, extra_bytes: int = 0) -> None:
        """Raise BadInput if a stepper and `extra_bytes` exceed what the artifact may ask for."""
        ...

    def snapshot(self) -> Tensors:
        """Return a copy of everything that was learned so far: {} where nothing is."""
        ...

    def restore(self, tensors: Tensors) -> None:
        """Continue as the model did of which `snapshot` returned these tensors."""
        ...


class FixedModel:
    """What models that do not learn have in common: nothing to keep, and no lanes to share out."""

    learns: ClassVar[bool] = False
    process: ClassVar[Process] = ALONE

    def snapshot(self) -> Tensors:
        return {}

    def restore(self, tensors: Tensors) -> None:
        return


class NetworkModel(CodingModel, Protocol):
    """A CodingModel that shows the states of its network, for the document memory."""

    def stepper(self, layout: Layout) -> StateStepper: ...
