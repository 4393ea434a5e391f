"""What followed before: the document's own n-grams, mixed into what the network predicts.

A network forgets what left its window, and a small one copies badly; counts do neither. Let h be
the tokens of the document so far, the last REACH at most. Of the last k tokens of h, n_k is how
often they stood in h before and c_k(w) how often w came next. With q_0 the network's prediction,

    q_k(w) = (1 - λ_k) · q_{k-1}(w) + λ_k · c_k(w) / n_k      k = 1 ... K, q_{k-1} where n_k = 0

as in cache models (Kuhn and De Mori 1990), but for n-grams. λ_k depends on k and on min(n_k, 8). It
starts from what was best on training text and follows each lane's text by expectation-maximisation
(Jelinek and Mercer 1980). All of it is integers: a step of any lane costs the same bits
everywhere, and encoder and decoder agree. Counts end with their document; λ, a few numbers, goes on
through the documents of a lane.

Legend: L lanes, V vocabulary, K = pack.recall.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numba import njit
from numpy.typing import NDArray

from fairway.predict.lanes import Layout
from fairway.rangecoder import TOTAL, TOTAL_BITS

if TYPE_CHECKING:  # its engines are mixed with what is here
    from fairway.predict.predictor import Intervals, Predictor

Longs = NDArray[np.int64]
REACH = 1 << 14  # tokens of a document that are looked through
_BITS = 20  # λ counts units of 2^-20
_RATE = 9  # λ moves by 2^-9 of what it is wrong by
_LEAST, _MOST = 1 << 8, (1 << _BITS) - (1 << 14)
# λ of each length, for contexts that were seen once, twice ... eight times or more, in 1/1000.
_START = (
    (52, 64, 64, 72, 62, 73, 73, 96),
    (115, 130, 131, 163, 161, 167, 166, 178),
    (162, 161, 206, 234, 292, 240, 245, 295),
    (216, 156, 146, 189, 227, 263, 186, 370),
)


class Recall:
    """The mixture for tokens that are all known, lane by lane, each lane from its start on."""

    def __init__(
        self, order: int, vocab_size: int, bos_id: int, tokens: NDArray[np.uint16], layout: Layout
    ) -> None:
        self._tokens, self._bos, self._room = tokens, bos_id, TOTAL - vocab_size
        by_place = np.argsort(layout.first, kind="stable")
        self._first = layout.first[by_place]
        self._next, self._begin = self._first.copy(), self._first.copy()
        self._shares = _start(order, layout.lanes)

    def intervals(self, network: Intervals) -> Intervals:
        """The mixture's intervals of the tokens whose intervals under the network these are."""
        symbols = self._tokens[network.positions].astype(np.int64)
        rest, below, own = self._mixed(network.positions, network.stops - network.starts)
        starts = symbols + ((network.starts - symbols) * rest >> TOTAL_BITS) + below
        after = symbols + 1
        stops = after + ((network.stops - after) * rest >> TOTAL_BITS) + below + own
        stops[network.stops == TOTAL] = TOTAL
        return network._replace(starts=starts, stops=stops)

    def nats(self, positions: Longs, nats: NDArray[np.float64]) -> NDArray[np.float64]:
        """The same for charges in floating point."""
        p = np.exp(-nats)
        rest, _, own = self._mixed(positions, (p * TOTAL).astype(np.int64).clip(1))
        found: NDArray[np.float64] = -np.log((own + rest * p) / (self._room))
        return found

    def _mixed(self, positions: Longs, masses: Longs) -> tuple[Longs, Longs, Longs]:
        """Of each position: the network's share, and counts' shares of lower tokens and its own."""
        rest, below, own = np.empty((3, len(positions)), np.int64)
        lanes = np.searchsorted(self._first, positions, "right") - 1
        cuts = np.flatnonzero((np.diff(positions) != 1) | (np.diff(lanes) != 0)) + 1
        edges = [0, *cuts.tolist(), len(positions)]
        for a, b in pairwise(edges):
            if a == b:
                continue
            lane, first = lanes[a], int(positions[a])
            if self._next[lane] != first:
                raise AssertionError(f"token {first} comes before {self._next[lane]} of its lane")
            start = max(int(self._begin[lane]), first - REACH)
            past = np.ascontiguousarray(self._tokens[start : first + b - a])
            begin = max(int(self._begin[lane]) - start, 0)
            out = rest[a:b], below[a:b], own[a:b]
            begin = _run(
                past, begin, first - start, masses[a:b], self._bos, self._room, self._shares[lane],
                *out,
            )  # fmt: skip
            self._begin[lane], self._next[lane] = start + begin, first + b - a
        return rest, below, own


class Recalling:
    """A Predictor that mixes another's tables; one token of every lane at a time."""

    def __init__(
        self, inner: Predictor, order: int, vocab_size: int, bos_id: int, layout: Layout
    ) -> None:
        self._inner, self._bos, self._room = inner, bos_id, TOTAL - vocab_size
        lanes, stops = layout.lanes, np.cumsum(layout.length)
        self._past = np.zeros(int(stops[-1]), np.uint16)  # of all lanes, one after another
        self._begin, self._end = stops - layout.length, stops - layout.length
        self._shares = _start(order, lanes)
        self._table = np.empty((lanes, vocab_size + 1), np.int64)
        self._network = self._table

    def step(self, tokens: Longs) -> Longs:
        self._network = self._inner.step(tokens)
        _take(tokens, self._bos, self._past, self._begin, self._end)
        table = self._table[: len(tokens)]
        _mix(self._network, self._past, self._begin, self._end, self._shares, self._room, table)
        return table

    def saw(self, tokens: Longs) -> None:
        _saw(self._network, tokens, self._past, self._begin, self._end, self._shares)
        self._inner.saw(tokens)


def _start(order: int, lanes: int) -> Longs:
    """int64[L, K + 1, 8]; row 0 is the network's and not used."""
    rows = [(0,) * len(_START[0]), *_START[:order]]
    shares = np.array(rows, np.int64) * (1 << _BITS) // 1000
    return np.repeat(shares[None], lanes, 0)


@njit(cache=True, nogil=True)
def _run(past, begin, first, masses, bos, room, shares, rest, below, own):  # type: ignore[no-untyped-def]
    """Mix and learn past[first:], known tokens of one lane; where their last document begins."""
    scratch = _scratch(shares)
    for i in range(len(masses)):
        at = first + i
        token = past[at]
        found = _matches(past[max(begin, at - REACH) : at], shares, scratch)
        rest[i] = _divide(found, shares, room, scratch)
        below[i] = own[i] = 0
        after, lengths, _, units, _ = scratch
        for m in range(found):
            if after[m] < token:
                below[i] += units[lengths[m]]
            elif after[m] == token:
                own[i] += units[lengths[m]]
        _learn(found, token, masses[i], shares, scratch)
        if token == bos:
            begin = at + 1
    return begin


@njit(cache=True, nogil=True)
def _take(tokens, bos, past, begin, end):  # type: ignore[no-untyped-def]
    for lane in range(len(tokens)):
        if tokens[lane] == bos:
            begin[lane] = end[lane]
        else:
            past[end[lane]] = tokens[lane]
            end[lane] += 1


@njit(cache=True, nogil=True)
def _mix(network, past, begin, end, shares, room, table):  # type: ignore[no-untyped-def]
    """The mixture's tables [n, V + 1] of the network's."""
    scratch = _scratch(shares[0])
    V = table.shape[1] - 1
    counted = np.zeros(V, np.int64)
    for lane in range(len(table)):
        start = max(begin[lane], end[lane] - REACH)
        found = _matches(past[start : end[lane]], shares[lane], scratch)
        rest = _divide(found, shares[lane], room, scratch)
        after, lengths, _, units, _ = scratch
        for m in range(found):
            counted[after[m]] += units[lengths[m]]
        row, out, below = network[lane], table[lane], np.int64(0)
        for s in range(V):
            out[s] = s + ((row[s] - s) * rest >> TOTAL_BITS) + below
            below += counted[s]
        out[V] = TOTAL
        for m in range(found):
            counted[after[m]] = 0


@njit(cache=True, nogil=True)
def _saw(network, tokens, past, begin, end, shares):  # type: ignore[no-untyped-def]
    scratch = _scratch(shares[0])
    for lane in range(len(tokens)):
        start, token = max(begin[lane], end[lane] - REACH), tokens[lane]
        found = _matches(past[start : end[lane]], shares[lane], scratch)
        _count(found, scratch)
        mass = network[lane, token + 1] - network[lane, token]
        _learn(found, token, mass, shares[lane], scratch)


@njit(cache=True, nogil=True)
def _scratch(shares):  # type: ignore[no-untyped-def]
    """After and length of every match; of every length: how many, unit, hits."""
    K = len(shares) - 1
    return (
        np.empty(REACH, np.int64), np.empty(REACH, np.int64),
        np.zeros(K + 2, np.int64), np.zeros(K + 2, np.int64), np.zeros(K + 2, np.int64),
    )  # fmt: skip


@njit(cache=True, nogil=True)
def _matches(past, shares, scratch):  # type: ignore[no-untyped-def]
    """Where the last tokens of `past` stood before: what came next, and how many were the same."""
    after, lengths, _, _, _ = scratch
    K, n, found = len(shares) - 1, len(past), 0
    for j in range(n - 1):
        if past[j] == past[n - 1]:
            same = 1
            while same < K and same <= j and past[j - same] == past[n - 1 - same]:
                same += 1
            after[found], lengths[found] = past[j + 1], same
            found += 1
    return found


@njit(cache=True, nogil=True)
def _count(found, scratch):  # type: ignore[no-untyped-def]
    """n_k of every length."""
    _, lengths, counts, _, _ = scratch
    counts[:] = 0
    for m in range(found):
        counts[lengths[m]] += 1
    for k in range(len(counts) - 2, 0, -1):
        counts[k] += counts[k + 1]


@njit(cache=True, nogil=True)
def _divide(found, shares, room, scratch):  # type: ignore[no-untyped-def]
    """The unit of a match of every length; returns what is left of `room` for the network."""
    _count(found, scratch)
    _, _, counts, units, _ = scratch
    rest = room
    for k in range(len(shares) - 1, 0, -1):
        units[k] = 0
        if counts[k]:
            units[k] = (rest * shares[k, min(counts[k], 8) - 1] >> _BITS) // counts[k]
            rest -= units[k] * counts[k]
    for k in range(2, len(shares)):
        units[k] += units[k - 1]
    return rest


@njit(cache=True, nogil=True)
def _learn(found, token, mass, shares, scratch):  # type: ignore[no-untyped-def]
    """λ_k moves to how likely q_k's token came from the counts, as far as q_k was asked at all."""
    if not found:
        return
    after, lengths, counts, _, hits = scratch
    hits[:] = 0
    for m in range(found):
        hits[lengths[m]] += after[m] == token
    K, one = len(shares) - 1, np.int64(1 << _BITS)
    for k in range(K, 0, -1):
        hits[k] += hits[k + 1]
    for k in range(1, K + 1):  # from here on `hits` is how likely it was the counts
        if counts[k]:
            share = shares[k, min(counts[k], 8) - 1]
            counted = share * (TOTAL * hits[k] // counts[k]) >> _BITS
            mass = max(counted + (mass * (one - share) >> _BITS), 1)
            hits[k] = (counted << _BITS) // mass
    asked = one
    for k in range(K, 0, -1):
        if counts[k]:
            bucket = min(counts[k], 8) - 1
            share = shares[k, bucket]
            share += asked * (hits[k] - share) >> _BITS + _RATE
            shares[k, bucket] = min(max(share, _LEAST), _MOST)
            asked = asked * (one - hits[k]) >> _BITS
