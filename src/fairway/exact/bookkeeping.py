"""Keep track of positions and documents, and hand out frequencies: what CPU and GPU share.

Legend: L lanes, S tokens per lane and block, N = L·S rows, V vocabulary, d width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fairway.exact.fixed_point import TURN_BITS
from fairway.exact.operands import Floats, Operands

Longs = NDArray[np.int64]

# BigramHash: (36313·t_i XOR 27191·t_{i-1}) mod (rows - 1), pull request 264 of parameter-golf.
_HASH, _PREVIOUS_HASH = 36313, 27191


@dataclass(frozen=True)
class Block:
    """The next int64[L, S] tokens of the lanes, and where they stand."""

    tokens: Longs
    positions: Longs  # [S]
    starts: Longs  # [L, S]: the first position that each token may attend to
    document_first: NDArray[np.bool_]  # [L, S]: no smear, as the previous token is another's
    bigram_rows: Longs  # [L, S]: rows of the bigram table; zeros without one

    def angles(self, turns: NDArray[np.uint64]) -> Longs:
        """Return the tabled angle of every token and pair of a head: int64[N, h/2]."""
        relative = (self.positions - self.starts).reshape(-1, 1).astype(np.uint64)
        nearest = relative * turns + np.uint64(1 << 63 - TURN_BITS)
        return (nearest >> np.uint64(64 - TURN_BITS)).astype(np.int64)


class Bookkeeping:
    """The position, the document start and the last token of `lanes` lanes."""

    def __init__(self, operands: Operands, lanes: int) -> None:
        self.lanes, self.position = lanes, 0
        self._aware, self._bos_id = operands.shape.document_aware, operands.bos_id
        self._bigram_rows = operands.shape.bigram_rows
        self._document_start = np.zeros(lanes, np.int64)
        self._last_token = np.full(lanes, -1, np.int64)

    def shrink_batch(self, lanes: int) -> None:
        """Keep the first `lanes` lanes only."""
        self.lanes = lanes
        self._document_start = self._document_start[:lanes]
        self._last_token = self._last_token[:lanes]

    def advance(self, tokens: Longs) -> Block:
        """Take int64[L, S] as the next tokens."""
        positions = np.arange(self.position, self.position + tokens.shape[1])
        previous = np.concatenate([self._last_token[:, None], tokens[:, :-1]], 1)
        starts, no_previous = np.zeros(tokens.shape, np.int64), previous < 0
        document_first = np.zeros_like(no_previous)
        if self._aware:
            starts = np.where(tokens == self._bos_id, positions, -1)
            starts[:, 0] = np.maximum(starts[:, 0], self._document_start)
            starts = np.maximum.accumulate(starts, 1)
            no_previous |= tokens == self._bos_id
            document_first = no_previous
        rows, last = np.zeros(tokens.shape, np.int64), self._bigram_rows - 1
        if last > 0:
            mixed = np.bitwise_xor(_HASH * tokens, _PREVIOUS_HASH * np.maximum(previous, 0))
            rows = np.where(no_previous, last, mixed % last)
        self.position += tokens.shape[1]
        self._document_start = starts[:, -1].copy()
        self._last_token = tokens[:, -1].astype(np.int64)
        return Block(tokens, positions, starts, document_first, rows)


class Head(ABC):
    """The output of a network's last layer for N rows, and its tokens' frequencies."""

    def __init__(self, operands: Operands, rows: int, rows_at_a_time: int) -> None:
        self._vocab_size, self._linear = operands.vocab_size, operands.head
        self._rows, self._rows_at_a_time = rows, rows_at_a_time

    @abstractmethod
    def _codes_on_cpu(self) -> Floats:
        """Return the integers that the head's matrix is multiplied with, float32[N, d]."""

    @abstractmethod
    def _fill(self, first: int, last: int, out: Longs) -> None:
        """Set out to the cumulative frequencies of the rows first .. last - 1."""

    @abstractmethod
    def _bounds(self, first: int, last: int, symbols: Longs) -> tuple[Longs, Longs]:
        """Return where the tables of the rows first .. last - 1 begin and end the symbols."""

    @property
    def states(self) -> Floats:
        """The final hidden states at any scale, float32[N, d]; 0 where a column's scale is 0."""
        codes, columns = self._codes_on_cpu(), self._linear.columns
        return np.divide(codes, columns, out=np.zeros_like(codes), where=columns > 0)

    def cumulative(self, out: Longs) -> None:
        """Set out, int64[N, V+1], to the coder's tables."""
        for first, last in self._spans(self._rows):
            self._fill(first, last, out[first:last])

    def intervals(self, symbols: Longs, row: int = 0) -> tuple[Longs, Longs]:
        """Return where the tables from `row` on begin and end symbols int64[k]: two int64[k].

        Raises IndexError for a symbol that is not in the vocabulary.
        """
        if len(symbols) and not 0 <= symbols.min() <= symbols.max() < self._vocab_size:
            raise IndexError("a symbol is not in the vocabulary")  # compiled code would not notice
        bounds = np.empty((2, len(symbols)), np.int64)
        for first, last in self._spans(len(symbols)):
            bounds[:, first:last] = self._bounds(row + first, row + last, symbols[first:last])
        return bounds[0], bounds[1]

    def _spans(self, rows: int) -> Iterator[tuple[int, int]]:
        for first in range(0, rows, self._rows_at_a_time):
            yield first, min(first + self._rows_at_a_time, rows)
