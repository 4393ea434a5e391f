"""Four clocks: compile, train, score, pause. Only `train` counts against the training budget."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

Part = Literal["compile", "train", "score", "pause"]


class Clock:
    """Wall seconds per part."""

    def __init__(self, spent: dict[str, float] | None = None) -> None:
        self.spent: dict[str, float] = {"compile": 0.0, "train": 0.0, "score": 0.0, "pause": 0.0}
        self.spent.update(spent or {})
        self._part: Part = "pause"
        self._since = time.perf_counter()

    def start(self, part: Part) -> None:
        """Charge the time since the last call to the part that ran, and go on with `part`."""
        now = time.perf_counter()
        self.spent[self._part] += now - self._since
        self._part, self._since = part, now

    @contextmanager
    def during(self, part: Part) -> Iterator[None]:
        """Charge the time inside to `part`, and the time after to the part before."""
        before = self._part
        self.start(part)
        try:
            yield
        finally:
            self.start(before)

    def read(self, part: Part) -> float:
        """Return the seconds charged to `part` so far, the running one included."""
        running = time.perf_counter() - self._since if part == self._part else 0.0
        return self.spent[part] + running
