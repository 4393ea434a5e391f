"""Exact predictions: the same bits on every machine, so that encoding need not run in lockstep.

A lane's predictions depend on its own tokens alone. So an encoder, who knows all of them, computes
many tokens of one lane at a time; a decoder computes one token of many lanes at a time; both get
the same integers. Threads share lanes, and no bit depends on how.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from queue import Queue
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from fairway.exact.network import Network
from fairway.exact.operands import Operands
from fairway.predict.lanes import Layout
from fairway.predict.predictor import Intervals, Longs, Predictor

T = TypeVar("T")

BLOCK = 256  # tokens of a lane at a time
_LANES_PER_THREAD = 4  # fewer are not worth a thread's while


@dataclass(frozen=True)
class ExactEngine:
    """Integers: every way to compute them gives the same bits."""

    operands: Operands
    workers: int = 1  # threads

    def predictor(self, lanes: int) -> Predictor:
        return ExactPredictor(self.operands, lanes, self.workers)

    def intervals(self, tokens: NDArray[np.uint16], layout: Layout) -> Iterator[Intervals]:
        return lane_intervals(self.operands, tokens, layout, self.workers)


class ExactPredictor:
    """A Predictor whose lanes are shared by `workers` threads."""

    def __init__(self, operands: Operands, lanes: int, workers: int) -> None:
        count = max(1, min(workers, lanes // _LANES_PER_THREAD))
        edges = [lanes * i // count for i in range(count + 1)]
        self._first = edges[:-1]
        self._parts = [Network(operands, last - first, 1) for first, last in pairwise(edges)]
        self._pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,))
        self._table = np.empty((lanes, operands.vocab_size + 1), np.int64)

    def step(self, tokens: Longs) -> Longs:
        def one(first: int, part: Network) -> None:
            mine = tokens[first : first + part.lanes]
            if len(mine) < part.lanes:
                part.keep(len(mine))
            if len(mine):
                part.forward(mine[:, None]).cumulative(self._table[first : first + len(mine)])

        for _ in self._pool.map(one, self._first, self._parts):
            pass
        return self._table[: len(tokens)]


def lane_intervals(
    operands: Operands, tokens: NDArray[np.uint16], layout: Layout, workers: int
) -> Iterator[Intervals]:
    """Of all that the lanes of `layout` code of tokens uint16[N], in any order."""

    def lane(i: int) -> Iterator[Intervals]:
        first, length = int(layout.first[i]), int(layout.length[i])
        fed = np.empty(length, np.int64)
        fed[:1], fed[1:] = operands.bos_id, tokens[first : first + length - 1]
        network = Network(operands, 1, min(BLOCK, max(length, 1)))
        for done in range(0, length, BLOCK):
            block = slice(done, min(done + BLOCK, length))
            positions = np.arange(first + block.start, first + block.stop)
            head = network.forward(fed[None, block])
            yield Intervals(positions, *head.intervals(tokens[positions].astype(np.int64)))

    return _side_by_side(lane, range(layout.lanes), workers)


def window_intervals(
    operands: Operands,
    tokens: NDArray[np.uint16],
    windows: Iterable[tuple[int, int, int]],
    workers: int,
) -> Iterator[Intervals]:
    """The same for windows (start, first, end) that each start anew: score/windows.py."""

    def one(window: tuple[int, int, int]) -> Iterator[Intervals]:
        start, first, end = window
        head = Network(operands, 1, end - start).forward(tokens[None, start:end].astype(np.int64))
        positions = np.arange(first + 1, end + 1)
        symbols = tokens[positions].astype(np.int64)
        yield Intervals(positions, *head.intervals(symbols, first - start))

    return _side_by_side(one, windows, workers)


def _side_by_side(
    work: Callable[[T], Iterator[Intervals]], items: Iterable[T], workers: int
) -> Iterator[Intervals]:
    """All that work(item) yields for all items, as soon as it is there.

    Threads stay at most a few results ahead of whoever takes them, and end when he does.
    """
    results: Queue[Intervals | BaseException | None] = Queue(4 * workers)
    waiting, lock, stop = iter(items), threading.Lock(), threading.Event()

    def run() -> None:
        torch.set_num_threads(1)  # the setting belongs to a thread
        try:
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
