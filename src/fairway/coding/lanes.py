"""Cut a text into chunks and lanes: pure functions that encoder and decoder share.

    text     | document A | B | document C          | D | document E     | F     |
    chunks   | chunk 0                              | chunk 1                    |
    lanes    lane 0: [ A ....... ][ B .. ]          lane 0: [ D .. ][ F .... ]
             lane 1: [ C ................... ]      lane 1: [ E ............ ]

    steps             0   1   2   3   4   5  ...    all lanes of a chunk advance one token per step
    lane 1 (longest)  C0  C1  C2  C3  C4  C5 ...    its window: the last W tokens of its document
    lane 0            A0  A1  A2  B0  B1  -         a lane that has ended drops out
                     |<--- block --->|              some steps of some lanes: one forward pass

A chunk is a run of whole documents with one stream of the range coder. A lane is a contiguous run
of a chunk's tokens. The longest lane sets the number of steps. Each lane is fed a BOS first. A lane
that starts at a document does not code that document's BOS. A lane that starts inside a document
codes all of its tokens and lost the context before it; only very long documents are cut so.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from fairway.formats.coded_tokens import Starts, most_lanes

_SEARCHED_TOKENS = 1 << 18  # tokens that are searched for documents at a time
LONGEST_DOCUMENT = 8192  # tokens; a longer document may be cut, which costs context at the cut

Longs = NDArray[np.int64]
Tokens = NDArray[np.uint16]


class Block(NamedTuple):
    """Some steps of some lanes: [L, S] each."""

    positions: Longs  # of the tokens that are coded
    fed: Longs  # the tokens before them; a BOS where a lane begins
    within: NDArray[np.bool_]  # False where a lane has ended: the other entries mean nothing there
    coded: int  # tokens that all lanes of the layout code at these steps


class Layout:
    """Lane i codes tokens first[i] .. first[i] + length[i] - 1; lanes are sorted by length.

    The longest lanes come first, so the active lanes of any step are a prefix of all lanes.
    With `boundaries`, a lane codes the BOS that follows it too, because `score` charges every
    token. Without it, the starts in a proof's header pay for these tokens.
    """

    def __init__(self, tokens: int, starts: Starts, boundaries: bool = False) -> None:
        first = starts.positions + ~starts.inside
        following = first if boundaries else starts.positions
        length = np.append(following[1:], tokens) - first
        order = np.argsort(-length, kind="stable")
        self.starts, self.first = starts, first[order]
        self.length: Longs = length[order]
        self.lanes = len(order)
        self.steps = int(self.length[0])
        self._negated = (-self.length).tolist()

    def active(self, step: int) -> int:
        """Return how many lanes code a token at `step`."""
        return bisect_left(self._negated, -step)

    def positions(self, step: int) -> Longs:
        """Return the positions of the tokens that are coded at `step`, one per active lane."""
        return self.first[: self.active(step)] + step

    def blocks(
        self, tokens: Tokens, bos_id: int, size: int, lanes: slice = slice(None)
    ) -> Iterator[Block]:
        """Yield `size` steps after `size` steps of those of `lanes` that are active at the first.

        tokens: uint16[N], all tokens of the chunk. When all of `lanes` have ended and others have
        not, blocks without lanes follow.
        """
        for first in range(0, self.steps, size):
            starts, lengths = (a[: self.active(first)][lanes] for a in (self.first, self.length))
            offset = np.arange(first, min(first + size, int(lengths.max(initial=first))))
            positions = np.minimum(starts[:, None] + offset, len(tokens) - 1)
            fed = np.where(offset == 0, bos_id, tokens[positions - 1]).astype(np.int64)
            coded = int((self.length.clip(first, first + size) - first).sum())
            yield Block(positions, fed, offset < lengths[:, None], coded)

    def order(self) -> Longs:
        """Return the positions of all tokens that are coded, in coding order."""
        lane = np.repeat(np.arange(self.lanes), self.length)
        step = np.arange(len(lane)) - np.repeat(np.cumsum(self.length) - self.length, self.length)
        by_step: Longs = (self.first[lane] + step)[np.argsort(step, kind="stable")]
        return by_step


class Division(NamedTuple):
    """How a text is cut: into chunks, and each chunk into lanes."""

    lanes: int  # the most of a chunk
    tokens: int  # about the number of a chunk


class Chunk(NamedTuple):
    """A chunk to be scored: its layout charges the BOS of every lane and the one that follows."""

    start: int  # its position in the text
    tokens: Tokens
    layout: Layout


def chunks(tokens: Tokens, bos_id: int, division: Division) -> Iterator[Chunk]:
    """Yield the chunks of a text, uint16[N], as a proof has them."""
    documents = documents_of(tokens, bos_id)
    for start, end in pairwise([0, *chunk_ends(documents, len(tokens), division.tokens)]):
        inside = documents[(documents >= start) & (documents < end)] - start
        chunk = tokens[start : end + 1]
        starts = lane_starts(end - start, inside, division.lanes)
        yield Chunk(start, chunk, Layout(len(chunk), starts, boundaries=True))


def documents_of(tokens: Tokens, bos_id: int) -> Longs:
    """Return the positions of the BOS tokens of tokens [N], which may lie on disk: int64[D]."""
    slices = range(0, len(tokens), _SEARCHED_TOKENS)
    found = [np.flatnonzero(tokens[i : i + _SEARCHED_TOKENS] == bos_id) + i for i in slices]
    return np.concatenate([np.zeros(0, np.int64), *found])


def ids_at(tokens: Tokens, where: Longs | slice, device: torch.device) -> torch.Tensor:
    """Return some of tokens [N], which may lie on disk, as int64 on a device."""
    return torch.from_numpy(tokens[where].astype(np.int64)).to(device)


def chunk_ends(documents: Longs, tokens: int, limit: int) -> list[int]:
    """Return where a text is cut: at documents, into chunks of about equal length up to `limit`.

    documents: int64[D], positions of the BOS tokens, the first 0.
    """
    count = -(-tokens // limit)
    wanted = np.arange(1, count) * tokens // count
    nearest = np.minimum(np.searchsorted(documents, wanted), len(documents) - 1)
    cuts = sorted({int(cut) for cut in documents[nearest]} - {0})
    return [*cuts, tokens]


def lane_starts(tokens: int, documents: Longs, lanes: int) -> Starts:
    """Return the fewest starts whose longest lane is as short as `lanes` of them can make it.

    documents: int64[D], positions of BOS tokens, documents[0] = 0. Lanes start at documents. A
    document of more than LONGEST_DOCUMENT tokens may also be cut, into equal parts of at most that.
    A decoder takes as many steps as the longest lane has tokens. Beside one very long document,
    more lanes would cost bytes and save no time.
    """
    lanes = min(lanes, most_lanes(tokens))
    places, inside = _candidates(tokens, documents)
    longest = int(np.diff(np.append(places, tokens)).max())
    low, high = max(-(-tokens // lanes), longest), tokens
    while low < high:  # bisect for the smallest target that needs no more than `lanes`
        middle = (low + high) // 2
        if len(_greedy(places, tokens, middle)) <= lanes:
            high = middle
        else:
            low = middle + 1
    chosen = _greedy(places, tokens, high)
    return Starts(places[chosen], inside[chosen])


def _candidates(tokens: int, documents: Longs) -> tuple[Longs, NDArray[np.bool_]]:
    """Return the positions where a lane may start, and which of them are inside a document."""
    ends = np.append(documents[1:], tokens)
    cuts = [
        np.arange(1, count) * (end - start) // count + start
        for start, end in zip(documents, ends, strict=True)
        if (count := -(-(end - start) // LONGEST_DOCUMENT)) > 1
    ]
    inner = np.concatenate([np.zeros(0, np.int64), *cuts])
    places = np.concatenate([documents, inner])
    order = np.argsort(places)
    return places[order], order >= len(documents)


def _greedy(places: Longs, tokens: int, target: int) -> list[int]:
    """Return the indices of the fewest starts whose lanes have at most `target` tokens."""
    chosen = [0]
    while tokens - places[chosen[-1]] > target:
        chosen.append(int(np.searchsorted(places, places[chosen[-1]] + target, "right")) - 1)
    return chosen
