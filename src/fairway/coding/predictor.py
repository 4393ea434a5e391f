"""Integer frequencies for the next token of every lane, from tokens that were coded before.

A `Predictor` is all that the coder knows of a model. Those here compute in floating point: encoder
and decoder must call them with the same lanes, on the same kind of machine, with the same threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fairway.coding.lanes import Layout
from fairway.coding.match_model import MatchStepper
from fairway.config.schema import NO_MEMORY, Memory
from fairway.errors import BadInput
from fairway.formats.range_coder import TOTAL, TOTAL_BITS
from fairway.io import limits
from fairway.kernels import njit
from fairway.model.gpt import GPT
from fairway.model.kv_cache import Cache

Longs = NDArray[np.int64]
States = NDArray[np.float32]


class Predictor(Protocol):
    """What codes a text: for `lanes` lanes in lockstep, one token per lane and step."""

    def step(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Take the last token of each lane, int64[n]; return cumulative frequencies of the next.

        int64[n, V+1], each row rising strictly from 0 to 2^30; valid until the next call. n never
        rises: a lane that is left out has ended.
        """
        ...

    def observe(self, tokens: NDArray[np.int64]) -> None:
        """What was coded at this step, int64[n]; only from here on it may be learned from."""
        ...


class Stateful(Predictor, Protocol):
    """A Predictor that shows what led to its last tables: the head's input, at any scale."""

    @property
    def states(self) -> States:
        """float32[n or more, d]."""
        ...


class Intervals(NamedTuple):
    """Where the coder's tables begin and end some of a text's tokens."""

    positions: Longs  # [k], which tokens
    starts: Longs  # [k]
    stops: Longs  # [k]
    states: States | None = None  # [k, d], as a Stateful's

    @property
    def lengths(self) -> NDArray[np.float64]:
        """Bits of each token's code, log2(2^30 / (stop - start))."""
        found: NDArray[np.float64] = TOTAL_BITS - np.log2(self.stops - self.starts)
        return found

    def at(self, where: Longs) -> Intervals:
        """Some of them, by their indices."""
        return Intervals(self.positions[where], self.starts[where], self.stops[where])


class Engine(Protocol):
    """A network that codes texts, in one kind of arithmetic."""

    @property
    def learns(self) -> bool:
        """Whether what it has coded changes what it predicts of texts after it."""
        ...

    def predictor(self, layout: Layout) -> Predictor:
        """For lockstep: what a decoder does, and an encoder who has no other way."""
        ...

    def intervals(self, tokens: NDArray[np.uint16], layout: Layout) -> Iterator[Intervals] | None:
        """Of all that is coded of tokens uint16[N], in any order; None: only lockstep gives it."""
        ...


def remembering(
    inner: Stateful, memory: Memory, vocab_size: int, bos_id: int, layout: Layout
) -> Predictor:
    """`inner`, mixed with what its documents said before if there is any `memory`."""
    return MatchStepper(inner, memory, vocab_size, bos_id, layout) if any(memory) else inner


@dataclass(frozen=True)
class FloatEngine:
    """Floating point: the bits depend on how many lanes advance together, and on the machine."""

    learns: ClassVar[bool] = False
    model: GPT
    memory: Memory = NO_MEMORY

    def predictor(self, layout: Layout) -> Predictor:
        inner, model = FloatPredictor(self.model, layout.lanes), self.model
        return remembering(inner, self.memory, model.vocab_size, model.bos_id, layout)

    def intervals(self, tokens: NDArray[np.uint16], layout: Layout) -> None:
        return None


class FloatPredictor:
    """The network one token at a time, with a rolling key/value cache of up to a window."""

    def __init__(self, model: GPT, lanes: int) -> None:
        self._model = model
        self._device, shape = model.embed.tokens.device, model.shape
        heads = len(shape.passes) * lanes * shape.num_kv_heads
        needed = heads * shape.window * shape.head_dim * 2 * model.dtype.itemsize
        needed += lanes * (model.vocab_size + 1) * 16
        if model.file_bytes:
            what = f"the artifact's network with {lanes} lanes side by side"
            limits.check_memory(what, needed, model.file_bytes)
        self._cache = Cache(model.shape, lanes, model.dtype, self._device)
        self._lanes = lanes
        self._table = np.empty((lanes, model.vocab_size + 1), np.int64)
        self._hidden = torch.empty(0)

    def follow(self, cache: Cache) -> None:
        """Go on as `cache` would, with as many lanes."""
        self._cache.copy_(cache)
        self._lanes = len(cache.document_start)

    @torch.inference_mode()
    def logits(self, tokens: NDArray[np.int64]) -> Tensor:
        """float32[n, V] on the model's device, after tokens int64[n]."""
        if len(tokens) < self._lanes:
            self._lanes = len(tokens)
            self._cache.shrink_batch(self._lanes)
        column = torch.from_numpy(tokens).to(self._device)[:, None]
        self._hidden = self._model.hidden(column, self._cache)
        return self._model.head(self._hidden)[:, 0]

    @property
    def states(self) -> States:
        return self._hidden[:, 0].float().cpu().numpy()

    def step(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        probabilities = self.logits(tokens).softmax(-1).cpu().numpy()
        table = self._table[: len(tokens)]
        if not fill_cumulative(probabilities, table):
            raise BadInput("the artifact's network gives no finite logits: it cannot code a text")
        return table

    def observe(self, tokens: NDArray[np.int64]) -> None:
        return


@njit(cache=True, nogil=True)
def fill_cumulative(probabilities, table):  # type: ignore[no-untyped-def]
    """table[i, s] = floor(P_s · (2^30 - V)) + s, P the running sum of row i over its total.

    probabilities: float32[n, V], not negative; table: int64[n, V+1]. The sums are float64 in a
    fixed order and cannot fall, so that every frequency is at least 1: no symbol is impossible.
    Returns False when a row is not finite.
    """
    n, V = probabilities.shape
    for i in range(n):
        row, out = probabilities[i], table[i]
        total = 0.0
        for s in range(V):
            total += row[s]
        if not total > 0:
            return False
        scale = (TOTAL - V) / total
        running = 0.0
        for s in range(V):
            out[s] = np.int64(running * scale) + s
            running += row[s]
        out[V] = TOTAL
    return True
