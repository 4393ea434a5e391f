"""The network in exact arithmetic, as a CodingModel: the same bits on every machine.

A lane's predictions depend on its own tokens alone. An encoder knows all tokens and computes many
tokens of one lane at a time. A decoder computes one token of many lanes at a time. Both get the
same integers. Threads share the lanes without any effect on the bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import ClassVar

import numpy as np
import torch

from fairway import floating_point
from fairway.coding.artifact import Artifact
from fairway.coding.lanes import Layout, Longs, Tokens
from fairway.coding.model import FixedModel, Intervals, States, TokenCosts, Window
from fairway.coding.workers import begin_thread, side_by_side
from fairway.exact.bookkeeping import Head
from fairway.exact.cpu import Network, check_matmuls
from fairway.exact.cuda import DeviceNetwork, DeviceOperands
from fairway.exact.operands import prepare
from fairway.io import limits

BLOCK_TOKENS = 256  # of a lane per forward pass
_DEVICE_TOKENS = 1 << 16  # per forward pass on a GPU
_LANES_PER_THREAD = 4  # fewer do not pay for a thread


class ExactModel(FixedModel):
    """An artifact's network in integers: every way to compute them gives the same bits."""

    has_intervals: ClassVar[bool] = True

    def __init__(
        self, artifact: Artifact, workers: int = 1, device: torch.device | str = "cpu"
    ) -> None:
        """Prepare the operands; `workers` threads compute on a CPU. Raises BadInput."""
        self.operands = prepare(artifact)
        self.bos_id, self.vocab_size = self.operands.bos_id, self.operands.vocab_size
        self.window, self._file_bytes = self.operands.shape.window, artifact.size_bytes
        device = torch.device(device)
        self._uploaded = None
        with floating_point.ieee(), torch.autocast("cpu", enabled=False):
            floating_point.check()
            if device.type == "cpu":
                check_matmuls(self.operands)
            else:
                self._uploaded = DeviceOperands(self.operands, device)
        self.workers = workers if self._uploaded is None else 1
        # The number of lanes of a forward pass when many tokens of each are known.
        self.together = 1 if self._uploaded is None else _DEVICE_TOKENS // BLOCK_TOKENS

    def network(self, lanes: int, block_tokens: int) -> Network | DeviceNetwork:
        """Return a network of `lanes` lanes. Raises BadInput when they need too much memory."""
        self._check_memory(lanes, block_tokens)
        if self._uploaded is None:
            return Network(self.operands, lanes, block_tokens)
        return DeviceNetwork(self._uploaded, lanes)

    def check_memory(self, layout: Layout, extra_bytes: int = 0) -> None:
        tables = layout.lanes * (self.vocab_size + 1) * 8
        self._check_memory(layout.lanes, 1, tables + extra_bytes)

    def _check_memory(self, lanes: int, block_tokens: int, extra_bytes: int = 0) -> None:
        shape = self.operands.shape
        slots = shape.window + block_tokens - 1
        keys = len(shape.passes) * lanes * shape.num_kv_heads * slots * (4 * shape.head_dim + 4)
        row = 12 * (shape.dim + shape.mlp_hidden) + 8 * min(self.vocab_size, 4096)
        limits.check_memory(
            f"the artifact's network with {lanes} lanes side by side",
            keys + lanes * block_tokens * row + extra_bytes,
            self._file_bytes,
        )

    def token_costs(
        self, tokens: Tokens, layout: Layout, with_states: bool = False
    ) -> Iterator[TokenCosts]:
        def group(start: int) -> Iterator[TokenCosts]:
            lanes = slice(start, start + self.together)
            longest, count = int(layout.length[start]), len(layout.length[lanes])
            network = self.network(count, min(BLOCK_TOKENS, max(longest, 1)))
            for block in layout.blocks(tokens, self.bos_id, BLOCK_TOKENS, lanes):
                if not len(block.fed):
                    break
                network.shrink_batch(len(block.fed))
                head = network.forward(block.fed)
                states = head.states if with_states else None
                for lane, within in enumerate(block.within):
                    positions = block.positions[lane, within]
                    symbols = tokens[positions].astype(np.int64)
                    row = lane * len(within)
                    own = None if states is None else states[row : row + len(positions)]
                    yield TokenCosts.of(positions, Intervals(*head.intervals(symbols, row)), own)

        return side_by_side(group, range(0, layout.lanes, self.together), self.workers)

    def window_costs(self, tokens: Tokens, windows: Iterable[Window]) -> Iterator[TokenCosts]:
        def one(window: Window) -> Iterator[TokenCosts]:
            start, first, end = window
            head = self.network(1, end - start).forward(tokens[None, start:end].astype(np.int64))
            positions = np.arange(first + 1, end + 1)
            symbols = tokens[positions].astype(np.int64)
            yield TokenCosts.of(positions, Intervals(*head.intervals(symbols, first - start)))

        return side_by_side(one, windows, self.workers)

    def stepper(self, layout: Layout) -> ExactStepper:
        self.check_memory(layout)
        return ExactStepper(self, layout.lanes)


class ExactStepper:
    """One token of every lane at a time; the model's threads share the lanes."""

    def __init__(self, model: ExactModel, lanes: int) -> None:
        count = max(1, min(model.workers, lanes // _LANES_PER_THREAD))
        edges = [lanes * i // count for i in range(count + 1)]
        self._first = edges[:-1]
        self._networks = [model.network(last - first, 1) for first, last in pairwise(edges)]
        self._pool = ThreadPoolExecutor(count, initializer=begin_thread)
        self._table = np.empty((lanes, model.vocab_size + 1), np.int64)
        self._heads: list[Head] = []

    def step(self, tokens: Longs) -> Longs:
        def one(first: int, network: Network | DeviceNetwork) -> Head | None:
            own = tokens[first : first + network.lanes]
            if len(own) < network.lanes:
                network.shrink_batch(len(own))
            if not len(own):
                return None
            head = network.forward(own[:, None])
            head.cumulative(self._table[first : first + len(own)])
            return head

        self._heads = list(filter(None, self._pool.map(one, self._first, self._networks)))
        return self._table[: len(tokens)]

    @property
    def states(self) -> States:
        return np.concatenate([head.states for head in self._heads])

    def memory_parts(self, tokens: Longs) -> Longs:
        return np.zeros((len(tokens), 2), np.int64)

    def observe(self, tokens: Longs) -> None:
        return
