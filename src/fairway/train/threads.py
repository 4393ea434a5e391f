"""Train with one thread while other programs use the processor.

The threads of a step meet at many barriers, and spin there. Where another program holds a core,
all of them wait for the thread that it displaced: a step of two threads beside four busy processes
took 22 times as long as alone (bench/busy.py), where 3 would be fair. One thread waits for nobody.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Generator
from pathlib import Path

import torch

_BUSY = 0.3  # cores that others use; from here on one thread is tried
_CORES = Path("/proc/stat")
_IN_USE = 1, 2, 3, 6, 7, 8  # columns: user, nice, system, interrupts (2), the hypervisor's


class Threads:
    """Sets how many threads torch uses for the next step: one, or all of them."""

    def __init__(self, most: int, prepare: Callable[[], object]) -> None:
        """Begin with `most`; with one there is nothing to choose.

        prepare: called before one thread is tried; the compiler has work to do the first time.
        """
        self._most, self._prepare = most, prepare
        self._choice = self._choose()
        next(self._choice)

    def step_took(self, seconds: float) -> None:
        """Take how long the last step was, and set the threads of the next one."""
        self._choice.send(seconds)

    def close(self) -> None:
        """Set `most` again."""
        if self._most > 1:
            torch.set_num_threads(self._most)

    def _choose(self) -> Generator[None, float, None]:
        together, others = math.inf, _glance() if self._most > 1 else 0.0
        while self._most > 1:
            if others < _BUSY:
                together, others = yield from self._watch(2.0)
                continue
            torch.set_num_threads(1)
            self._prepare()
            alone, others = yield from self._watch(0.0)
            if together == math.inf:
                torch.set_num_threads(self._most)
                together, others = yield from self._watch(0.0, alone)
            if alone < together:
                torch.set_num_threads(1)
                while others >= _BUSY:
                    _, others = yield from self._watch(5.0)
                torch.set_num_threads(self._most)
            else:
                torch.set_num_threads(self._most)
                together, others = yield from self._watch(60.0)
        while True:
            yield

    def _watch(
        self, least_s: float, limit: float = math.inf
    ) -> Generator[None, float, tuple[float, float]]:
        """Return the mean seconds of three steps or more, and the cores that others used.

        A step that takes more than `limit` is the last.
        """
        began, used = time.monotonic(), _used_by_others()
        steps, spent, seconds = 0, 0.0, 0.0
        while (steps < 3 or spent < least_s) and seconds <= limit:
            seconds = yield
            spent += seconds
            steps += 1
        return spent / steps, (_used_by_others() - used) / (time.monotonic() - began)


def _glance() -> float:
    """Return the cores that others use during a fifth of a second."""
    used = _used_by_others()
    time.sleep(0.2)
    return (_used_by_others() - used) / 0.2


def _used_by_others() -> float:
    """Return the seconds that others used this process's cores since the machine started.

    0 where the machine does not say.
    """
    try:
        lines = [line.split() for line in _CORES.read_text("ascii").splitlines()]
        own = {f"cpu{core}" for core in os.sched_getaffinity(0)}
        jiffies = sum(int(row[i]) for row in lines if row[0] in own for i in _IN_USE)
        return jiffies / os.sysconf("SC_CLK_TCK") - time.process_time()
    except (OSError, AttributeError, ValueError, IndexError):
        return 0.0
