"""Threads that share work: lanes of one chunk, or chunks of one text.

Compiled kernels and matrix products release Python's lock, so threads compute side by side. Each
thread uses one core: a step is too short to be shared, and cores that wait for each other at every
operation stand still when one of them is taken away.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from queue import Queue
from typing import TypeVar

import torch

from fairway import floating_point
from fairway.errors import Interrupted

T = TypeVar("T")
R = TypeVar("R")
Progress = Callable[[int, float], None]  # told the tokens that are done and their bits; may raise


def begin_thread() -> None:
    """Give this thread one core and IEEE-754 arithmetic; both settings belong to a thread."""
    torch.set_num_threads(1)
    floating_point.set_ieee()


def side_by_side(
    work: Callable[[T], Iterator[R]],
    items: Iterable[T],
    workers: int,
    stop: threading.Event | None = None,
) -> Iterator[R]:
    """Yield all that work(item) yields for all items, as soon as it is there.

    The threads stay at most a few results ahead of the consumer. When the consumer stops or a
    thread fails, `stop` is set and all threads end.
    """
    results: Queue[R | BaseException | None] = Queue(4 * workers)
    waiting, lock, stop = iter(items), threading.Lock(), stop or threading.Event()

    def run() -> None:
        try:
            begin_thread()
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
        while running:  # release threads that wait for room in the queue
            running -= results.get() is None


def each_chunk(
    work: Callable[[int, Progress], R], chunks: Iterable[int], workers: int, report: Progress
) -> Iterator[tuple[int, R]]:
    """Yield (chunk, work(chunk, progress)) for all chunks, as they are finished.

    `report` is told the sums of the progress of all chunks. An exception of `report` ends all work.
    """
    stop = threading.Event()
    reached: dict[int, tuple[int, float]] = {}

    def one(chunk: int) -> Iterator[tuple[int, R]]:
        def progress(tokens: int, bits: float) -> None:
            if stop.is_set():
                raise Interrupted("another chunk has failed")
            reached[chunk] = tokens, bits
            entries = list(reached.values())
            report(sum(t for t, _ in entries), sum(b for _, b in entries))

        yield chunk, work(chunk, progress)

    return side_by_side(one, chunks, workers, stop)


def in_order(finished: Iterable[tuple[int, R]]) -> list[R]:
    """Return the results of all chunks, sorted by chunk."""
    return [result for _, result in sorted(finished, key=lambda entry: entry[0])]
