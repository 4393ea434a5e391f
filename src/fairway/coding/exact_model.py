"""Exact predictions: the same bits on every machine, so that encoding need not run in lockstep.

A lane's predictions depend on its own tokens alone. So an encoder, who knows all of them, computes
many tokens of one lane at a time; a decoder computes one token of many lanes at a time; both get
the same integers. Threads share lanes, and no bit depends on how.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from queue import Queue
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from fairway import floating_point
from fairway.coding.artifact import Artifact
from fairway.coding.lanes import Layout
from fairway.coding.match_model import MatchModel
from fairway.coding.predictor import Intervals, Longs, Predictor, States, remembering
from fairway.exact.bookkeeping import Head
from fairway.exact.cpu import Network, check_matmuls
from fairway.exact.cuda import DeviceNetwork, DeviceOperands
from fairway.exact.operands import prepare
from fairway.io import limits

T = TypeVar("T")

BLOCK = 256  # tokens of a lane at a time
_DEVICE_TOKENS = 1 << 16  # at a time, on a GPU
_LANES_PER_THREAD = 4  # fewer are not worth a thread's while


class ExactEngine:
    """Integers: every way to compute them gives the same bits. Raises BadInput."""

    learns = False

    def __init__(
        self, artifact: Artifact, workers: int = 1, device: torch.device | str = "cpu"
    ) -> None:
        """workers: threads on a CPU."""
        self.operands, self.memory = prepare(artifact), artifact.memory
        self._file_bytes = artifact.size_bytes
        place = torch.device(device)
        self._uploaded = None
        with floating_point.ieee(), torch.autocast("cpu", enabled=False):
            floating_point.check()
            if place.type == "cpu":
                check_matmuls(self.operands)
            else:
                self._uploaded = DeviceOperands(self.operands, place)
        self.workers = workers if self._uploaded is None else 1
        # How many lanes are worth computing together when many tokens of each are known.
        self.together = 1 if self._uploaded is None else _DEVICE_TOKENS // BLOCK

    def network(self, lanes: int, block: int) -> Network | DeviceNetwork:
        """Return a network of `lanes` lanes. Raises BadInput when they need too much memory."""
        self.check_memory(lanes, block)
        if self._uploaded is None:
            return Network(self.operands, lanes, block)
        return DeviceNetwork(self._uploaded, lanes)

    def check_memory(self, lanes: int, block: int, layout: Layout | None = None) -> None:
        """Raise BadInput when the lanes need more memory than the artifact may ask for."""
        p, shape = self.operands, self.operands.shape
        slots = shape.window + block - 1
        keys = len(shape.passes) * lanes * shape.num_kv_heads * slots * (4 * shape.head_dim + 4)
        rows = lanes * block * (12 * (shape.dim + shape.mlp_hidden) + 8 * min(p.vocab_size, 4096))
        tables = lanes * (p.vocab_size + 1) * 8 if layout else 0
        if layout and any(self.memory):
            tables += tables + lanes * min(self.memory.cache, layout.steps) * (2 * shape.dim + 4)
        limits.check_memory(
            f"the artifact's network with {lanes} lanes side by side",
            keys + rows + tables,
            self._file_bytes,
        )

    def predictor(self, layout: Layout) -> Predictor:
        self.check_memory(layout.lanes, 1, layout)
        inner, p = ExactPredictor(self, layout.lanes), self.operands
        return remembering(inner, self.memory, p.vocab_size, p.bos_id, layout)

    def intervals(self, tokens: NDArray[np.uint16], layout: Layout) -> Iterator[Intervals]:
        """Of all that the lanes of `layout` code of tokens uint16[N]; of a lane, in its order."""
        p, found = self.operands, self._of_network(tokens, layout)
        if not any(self.memory):
            return found
        return map(MatchModel(self.memory, p.vocab_size, p.bos_id, tokens, layout).intervals, found)

    def _of_network(self, tokens: NDArray[np.uint16], layout: Layout) -> Iterator[Intervals]:
        def group(start: int) -> Iterator[Intervals]:
            lanes = slice(start, start + self.together)
            longest = int(layout.length[start])
            count = len(layout.length[lanes])
            network = self.network(count, min(BLOCK, max(longest, 1)))
            for done in range(0, longest, BLOCK):
                block = layout.block(tokens, self.operands.bos_id, done, done + BLOCK, lanes)
                network.shrink_batch(len(block.fed))
                head = network.forward(block.fed)
                states = head.states if self.memory.cache else None
                for lane, within in enumerate(block.within):
                    positions = block.where[lane, within]
                    symbols = tokens[positions].astype(np.int64)
                    row = lane * len(within)
                    mine = None if states is None else states[row : row + len(positions)]
                    yield Intervals(positions, *head.intervals(symbols, row), mine)

        return _side_by_side(group, range(0, layout.lanes, self.together), self.workers)

    def window_intervals(
        self, tokens: NDArray[np.uint16], windows: Iterable[tuple[int, int, int]]
    ) -> Iterator[Intervals]:
        """The same for windows (start, first, end) that each start anew: predict/windows.py."""

        def one(window: tuple[int, int, int]) -> Iterator[Intervals]:
            start, first, end = window
            head = self.network(1, end - start).forward(tokens[None, start:end].astype(np.int64))
            positions = np.arange(first + 1, end + 1)
            symbols = tokens[positions].astype(np.int64)
            yield Intervals(positions, *head.intervals(symbols, first - start))

        return _side_by_side(one, windows, self.workers)


class ExactPredictor:
    """A Predictor whose lanes are shared by an engine's threads."""

    def __init__(self, engine: ExactEngine, lanes: int) -> None:
        count = max(1, min(engine.workers, lanes // _LANES_PER_THREAD))
        edges = [lanes * i // count for i in range(count + 1)]
        self._first = edges[:-1]
        self._parts = [engine.network(last - first, 1) for first, last in pairwise(edges)]
        self._pool = ThreadPoolExecutor(count, initializer=_begin_thread)
        self._table = np.empty((lanes, engine.operands.vocab_size + 1), np.int64)
        self._heads: list[Head] = []

    def step(self, tokens: Longs) -> Longs:
        def one(first: int, part: Network | DeviceNetwork) -> Head | None:
            mine = tokens[first : first + part.lanes]
            if len(mine) < part.lanes:
                part.shrink_batch(len(mine))
            if not len(mine):
                return None
            head = part.forward(mine[:, None])
            head.cumulative(self._table[first : first + len(mine)])
            return head

        self._heads = list(filter(None, self._pool.map(one, self._first, self._parts)))
        return self._table[: len(tokens)]

    @property
    def states(self) -> States:
        return np.concatenate([head.states for head in self._heads])

    def observe(self, tokens: Longs) -> None:
        return


def _begin_thread() -> None:
    """Both settings belong to a thread."""
    torch.set_num_threads(1)
    floating_point.set_ieee()


def _side_by_side(
    work: Callable[[T], Iterator[Intervals]], items: Iterable[T], workers: int
) -> Iterator[Intervals]:
    """All that work(item) yields for all items, as soon as it is there.

    Threads stay at most a few results ahead of whoever takes them, and end when he does.
    """
    results: Queue[Intervals | BaseException | None] = Queue(4 * workers)
    waiting, lock, stop = iter(items), threading.Lock(), threading.Event()

    def run() -> None:
        try:
            _begin_thread()
            while not stop.is_set():
                with lock:
                    item = next(waiting, None)
                if item is None:
                    break
                for result in work(item):
                    results.put(result)
                    if stop.is_set():
                        break
        except BaseException as error:
            results.put(error)
        results.put(None)

    threads = [threading.Thread(target=run, daemon=True) for _ in range(workers)]
    for thread in threads:
        thread.start()
    running = workers
    try:
        while running:
            result = results.get()
            if isinstance(result, BaseException):
                raise result
            if result is None:
                running -= 1
            else:
                yield result
    finally:
        stop.set()
        while running:  # let threads out that wait for room
            running -= results.get() is None
