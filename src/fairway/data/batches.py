"""Cut tokens into training batches, a pure function of (seed, step) for any number of ranks.

Legend: B rows of the global batch, T tokens of a window. The shards form one sequence of tokens;
a window may hold several documents, with BOS tokens between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from fairway.errors import BadInput

Shard = npt.NDArray[np.uint16]
Rows = npt.NDArray[np.int64]

_STRETCHES = 8  # of a batch in the challenge's order: one per GPU of its machine


class Batches:
    """The rows of every step: T inputs and the token after them; targets are one token later.

    shuffled: an epoch cuts the tokens at stride T, from an offset of its own, and visits every
    window once, in an order of its own. sequential: the challenge's strict order;
    a batch is 8 spans (1 where B is no multiple of 8) of B·T/8 + 1 consecutive tokens; the pair
    from one span to the next is never trained; after the last token comes the first.
    """

    def __init__(
        self,
        tokens: Sequence[Shard],
        window: int,
        rows: int,
        order: Literal["shuffled", "sequential"],
        seed: int,
    ) -> None:
        """Take the shards, uint16[n] each. Raises BadInput when they do not fill two windows."""
        self._shards = [shard for shard in tokens if shard.size]
        self._starts = np.cumsum([0, *(shard.size for shard in self._shards)], dtype=np.int64)
        self._total = int(self._starts[-1])
        self._window, self._rows, self._order, self._seed = window, rows, order, seed
        # The offset of an epoch takes up to T - 1 tokens, and the last target one more.
        self.windows = (self._total - window) // window
        if self.windows < 1:
            raise BadInput(
                f"the train split has {self._total} tokens and a window takes {window}: give it "
                f"at least {2 * window} tokens, or make model.window smaller"
            )
        self._epoch = lru_cache(maxsize=2)(self._draw_epoch)

    def batch(self, step: int, rank: int = 0, size: int = 1) -> Shard:
        """Return uint16[B / size, T + 1]: the rank's rows of the step's global batch.

        `size` must divide B.
        """
        if self._rows % size:
            raise BadInput(f"a batch of {self._rows} rows cannot be shared by {size} ranks")
        share = self._rows // size
        starts = self._starts_of(step)[rank * share : (rank + 1) * share]
        return np.stack([self._take(int(start), self._window + 1) for start in starts])

    def _starts_of(self, step: int) -> Rows:
        """Return where each row of the global batch begins in the sequence, int64[B]."""
        rows = np.arange(self._rows, dtype=np.int64)
        if self._order == "sequential":
            stretches = _STRETCHES if self._rows % _STRETCHES == 0 else 1
            stretch, row = np.divmod(rows, self._rows // stretches)
            stretch_tokens = self._rows // stretches * self._window + 1
            return np.asarray((step * stretches + stretch) * stretch_tokens + row * self._window)
        epochs, places = np.divmod(step * self._rows + rows, self.windows)
        return np.array(
            [
                self._window_start(e, p)
                for e, p in zip(epochs.tolist(), places.tolist(), strict=True)
            ]
        )

    def _window_start(self, epoch: int, index: int) -> int:
        offset, order = self._epoch(epoch)
        return offset + int(order[index]) * self._window

    def _draw_epoch(self, epoch: int) -> tuple[int, Rows]:
        generator = np.random.Generator(np.random.Philox([self._seed, epoch]))
        return int(generator.integers(self._window)), generator.permutation(self.windows)

    def _take(self, start: int, count: int) -> Shard:
        """Return uint16[count] consecutive tokens, across shards; the first follows the last."""
        parts = []
        while count:
            start %= self._total
            shard = int(np.searchsorted(self._starts, start, side="right")) - 1
            begin = start - int(self._starts[shard])
            part = self._shards[shard][begin : begin + count]
            parts.append(part)
            start += part.size
            count -= part.size
        return np.concatenate(parts)
