"""The network in floating point, as a CodingModel.

The bits of a prediction depend on the machine and on the number of lanes that advance together.
So an encoder must step as the decoder will: with the same lanes, on the same kind of machine, with
one thread. `token_costs` is faster than stepping and differs from it by rounding errors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fairway.coding.lanes import Layout, Longs, Tokens, ids_at
from fairway.coding.model import FixedModel, States, TokenCosts, Window
from fairway.errors import BadInput
from fairway.formats.range_coder import TOTAL
from fairway.io import limits
from fairway.kernels import njit
from fairway.model import loss
from fairway.model.gpt import GPT
from fairway.model.kv_cache import Cache

_PASS_TOKENS = {"cpu": 4096, "cuda": 1 << 16}  # positions per forward pass
_BLOCK_TOKENS = 128  # of a lane per forward pass


class FloatModel(FixedModel):
    """A network whose weights do not change."""

    has_intervals: ClassVar[bool] = False

    def __init__(self, network: GPT) -> None:
        self.network = network
        self.bos_id, self.vocab_size = network.bos_id, network.vocab_size
        self.window = network.shape.window

    @property
    def device(self) -> torch.device:
        return self.network.embed.tokens.device

    @torch.inference_mode()
    def token_costs(
        self, tokens: Tokens, layout: Layout, with_states: bool = False
    ) -> Iterator[TokenCosts]:
        """Yield the costs of some lanes after the others; the cache carries a window of context."""
        together = _PASS_TOKENS[self.device.type] // _BLOCK_TOKENS
        size = min(_BLOCK_TOKENS, self.window)
        for first in range(0, layout.lanes, together):
            lanes = slice(first, first + together)
            cache = new_cache(self.network, len(layout.length[lanes]))
            for block in layout.blocks(tokens, self.bos_id, size, lanes):
                if not len(block.fed):
                    break
                cache.shrink_batch(len(block.fed))
                hidden = self.network.hidden(torch.from_numpy(block.fed).to(self.device), cache)
                states = hidden[torch.from_numpy(block.within).to(self.device)]
                costs = self._costs(states, block.positions[block.within], tokens)
                yield costs._replace(states=states.float().cpu().numpy()) if with_states else costs

    @torch.inference_mode()
    def window_costs(self, tokens: Tokens, windows: Iterable[Window]) -> Iterator[TokenCosts]:
        """Yield the costs of a batch of windows after the other, each of one shape."""
        at_once = max(1, _PASS_TOKENS[self.device.type] // self.window)
        by_shape = groupby(windows, lambda w: (w.end - w.start, w.end - w.first))
        for (length, scored), group in by_shape:
            while batch := list(islice(group, at_once)):
                fed = np.array([w.start for w in batch])[:, None] + np.arange(length)
                hidden = self.network.hidden(ids_at(tokens, fed, self.device), last=scored)
                yield self._costs(hidden, fed[:, length - scored :] + 1, tokens)

    def _costs(self, hidden: Tensor, positions: Longs, tokens: Tokens) -> TokenCosts:
        """Return what tokens[positions] cost, predicted from hidden [..., d]."""
        positions = positions.reshape(-1)
        rows = hidden.reshape(-1, hidden.shape[-1])
        targets = ids_at(tokens, positions, hidden.device)
        nats = loss.nats(rows, self.network.embed.tokens, targets, self.network.shape.softcap)
        return TokenCosts(positions, nats.double().cpu().numpy())

    def stepper(self, layout: Layout) -> FloatStepper:
        return FloatStepper(self.network, layout.lanes)

    def check_memory(self, layout: Layout, extra_bytes: int = 0) -> None:
        check_memory(self.network, layout.lanes, extra_bytes)


class FloatStepper:
    """One token of every lane at a time, with a rolling key/value cache of up to a window."""

    def __init__(self, network: GPT, lanes: int) -> None:
        check_memory(network, lanes)
        self._network = network
        self._cache = new_cache(network, lanes)
        self._lanes = lanes
        self._table = np.empty((lanes, network.vocab_size + 1), np.int64)
        self._hidden = torch.empty(0)

    def follow(self, cache: Cache) -> None:
        """Continue as `cache` would, with its number of lanes."""
        self._cache.copy_(cache)
        self._lanes = len(cache.document_start)

    @torch.inference_mode()
    def logits(self, tokens: Longs) -> Tensor:
        """Feed tokens int64[n]; return the next tokens' logits, float32[n, V], on the device."""
        if len(tokens) < self._lanes:
            self._lanes = len(tokens)
            self._cache.shrink_batch(self._lanes)
        column = torch.from_numpy(tokens).to(self._network.embed.tokens.device)[:, None]
        self._hidden = self._network.hidden(column, self._cache)
        return self._network.head(self._hidden)[:, 0]

    @property
    def states(self) -> States:
        return self._hidden[:, 0].float().cpu().numpy()

    def step(self, tokens: Longs) -> Longs:
        probabilities = self.logits(tokens).softmax(-1).cpu().numpy()
        table = self._table[: len(tokens)]
        if not fill_cumulative(probabilities, table):
            raise BadInput("the artifact's network gives no finite logits: it cannot code a text")
        return table

    def memory_parts(self, tokens: Longs) -> Longs:
        return np.zeros((len(tokens), 2), np.int64)

    def observe(self, tokens: Longs) -> None:
        return


def new_cache(network: GPT, lanes: int) -> Cache:
    """Return an empty key/value cache."""
    return Cache(network.shape, lanes, network.dtype, network.embed.tokens.device)


def check_memory(network: GPT, lanes: int, extra_bytes: int = 0) -> None:
    """Raise BadInput if stepping needs more memory than the network's artifact may ask for."""
    shape = network.shape
    cache = len(shape.passes) * lanes * shape.num_kv_heads * shape.window * shape.head_dim
    needed = 2 * network.dtype.itemsize * cache + lanes * (network.vocab_size + 1) * 16
    if network.file_bytes:
        what = f"the artifact's network with {lanes} lanes side by side"
        limits.check_memory(what, needed + extra_bytes, network.file_bytes)


@njit(cache=True, nogil=True)
def fill_cumulative(probabilities, table):  # type: ignore[no-untyped-def]
    """Fill table[i, s] = floor(P_s · (2^30 - V)) + s, P the running sum of row i over its total.

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
