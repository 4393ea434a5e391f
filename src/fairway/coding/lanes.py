"""Lanes: which token each lane codes at each step; pure functions, known to both sides.

A text of N tokens is cut at `starts` into contiguous runs, one per lane. All lanes advance
together, one token per step, so that the number of steps is the longest run. Every lane is fed a
BOS first; one that starts at a document does not code that document's BOS, one that starts inside
a document codes all of its tokens and has lost the context before it.
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

_AT_ONCE = 1 << 18  # tokens that are searched for documents
LONGEST_DOCUMENT = 8192  # tokens; a longer document may be cut, which costs context at the cut


Longs = NDArray[np.int64]


class Block(NamedTuple):
    """Some steps of some lanes, [L, S] each."""

    where: Longs  # which tokens are coded
    fed: Longs  # the tokens before them; a BOS where a lane begins
    within: NDArray[np.bool_]  # False where a lane has ended: anything stands there


class Layout:
    """Lane i codes tokens first[i] .. first[i] + length[i] - 1; lanes are sorted by length.

    As the longest come first, the lanes that are active at a step are a prefix of them all.
    `boundaries`: a lane codes the BOS that follows it too (score charges every token); without it
    the starts in a file's header pay for those (prove).
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
        """How many lanes code a token at `step`: the first so many."""
        return bisect_left(self._negated, -step)

    def positions(self, step: int) -> Longs:
        """Which tokens are coded at `step`, one per active lane."""
        return self.first[: self.active(step)] + step

    def coded(self, first: int, last: int) -> int:
        """How many tokens are coded at steps first .. last - 1."""
        return int((self.length.clip(first, last) - first).sum())

    def block(
        self,
        tokens: NDArray[np.uint16],
        bos_id: int,
        first: int,
        last: int,
        lanes: slice = slice(None),
    ) -> Block:
        """Steps first .. last - 1 of those of `lanes` that are active at `first`."""
        starts, lengths = (a[: self.active(first)][lanes] for a in (self.first, self.length))
        offset = np.arange(first, min(last, int(lengths.max(initial=first))))
        where = np.minimum(starts[:, None] + offset, len(tokens) - 1)
        fed = np.where(offset == 0, bos_id, tokens[where - 1]).astype(np.int64)
        return Block(where, fed, offset < lengths[:, None])

    def order(self) -> Longs:
        """All tokens that are coded, in the order in which they are."""
        lane = np.repeat(np.arange(self.lanes), self.length)
        step = np.arange(len(lane)) - np.repeat(np.cumsum(self.length) - self.length, self.length)
        by_step: Longs = (self.first[lane] + step)[np.argsort(step, kind="stable")]
        return by_step


class Division(NamedTuple):
    """How a text is cut: into chunks, one after another, and each of them into lanes."""

    lanes: int  # of a chunk, at most
    tokens: int  # of a chunk, about


class Part(NamedTuple):
    """A chunk whose tokens are all charged, the BOS that follows it and those of lanes included."""

    start: int  # where it is in the text
    tokens: NDArray[np.uint16]
    layout: Layout


def parts(tokens: NDArray[np.uint16], bos_id: int, division: Division) -> Iterator[Part]:
    """The chunks of a proof of tokens uint16[N], with its lanes."""
    documents = documents_of(tokens, bos_id)
    for start, end in pairwise([0, *chunk_ends(documents, len(tokens), division.tokens)]):
        inside = documents[(documents >= start) & (documents < end)] - start
        part = tokens[start : end + 1]
        starts = lane_starts(end - start, inside, division.lanes)
        yield Part(start, part, Layout(len(part), starts, boundaries=True))


def documents_of(tokens: NDArray[np.uint16], bos_id: int) -> Longs:
    """Positions of the BOS tokens of tokens [N], which may lie on disk."""
    slices = range(0, len(tokens), _AT_ONCE)
    found = [np.flatnonzero(tokens[i : i + _AT_ONCE] == bos_id) + i for i in slices]
    return np.concatenate([np.zeros(0, np.int64), *found])


def ids_at(tokens: NDArray[np.uint16], where: Longs | slice, device: torch.device) -> torch.Tensor:
    """Some of tokens [N], which may lie on disk, as int64 on a device."""
    return torch.from_numpy(tokens[where].astype(np.int64)).to(device)


def chunk_ends(documents: Longs, tokens: int, limit: int) -> list[int]:
    """Where a text is cut into chunks: at documents, of about equal length, `limit` at most.

    documents: int64[D], positions of the BOS tokens, the first 0.
    """
    parts = -(-tokens // limit)
    wanted = np.arange(1, parts) * tokens // parts
    nearest = np.minimum(np.searchsorted(documents, wanted), len(documents) - 1)
    cuts = sorted({int(cut) for cut in documents[nearest]} - {0})
    return [*cuts, tokens]


def lane_starts(tokens: int, documents: Longs, lanes: int) -> Starts:
    """The fewest starts that make the longest run as short as `lanes` of them can.

    documents: int64[D], positions of BOS tokens, documents[0] = 0. Runs start at documents; only a
    document of more than LONGEST_DOCUMENT tokens may be cut, into equal parts of at most so many.
    A decoder takes as many steps as the longest run has tokens: beside a document that is longer
    than an equal share, more lanes would cost bytes and gain it no time.
    """
    lanes = min(lanes, most_lanes(tokens))
    places, inside = _candidates(tokens, documents)
    longest = int(np.diff(np.append(places, tokens)).max())
    low, high = max(-(-tokens // lanes), longest), tokens
    while low < high:  # the smallest target that needs no more lanes than there are
        middle = (low + high) // 2
        if len(_greedy(places, tokens, middle)) <= lanes:
            high = middle
        else:
            low = middle + 1
    chosen = _greedy(places, tokens, high)
    return Starts(places[chosen], inside[chosen])


def _candidates(tokens: int, documents: Longs) -> tuple[Longs, NDArray[np.bool_]]:
    """Positions where a lane may start, and which of them are inside a document."""
    ends = np.append(documents[1:], tokens)
    cuts = [
        np.arange(1, parts) * (end - start) // parts + start
        for start, end in zip(documents, ends, strict=True)
        if (parts := -(-(end - start) // LONGEST_DOCUMENT)) > 1
    ]
    inner = np.concatenate([np.zeros(0, np.int64), *cuts])
    places = np.concatenate([documents, inner])
    order = np.argsort(places)
    return places[order], order >= len(documents)


def _greedy(places: Longs, tokens: int, target: int) -> list[int]:
    """Indices of the fewest starts of runs of at most `target`, which no two places exceed."""
    chosen = [0]
    while tokens - places[chosen[-1]] > target:
        chosen.append(int(np.searchsorted(places, places[chosen[-1]] + target, "right")) - 1)
    return chosen
