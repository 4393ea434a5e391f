"""Mix the document memory into the network's predictions: a neural cache, then n-grams.

A network forgets the tokens that left its window, and a small network copies badly. Counts and
comparisons do neither. Let h be the tokens of the document so far and q the network's prediction.
First the neural cache (Grave, Joulin and Usunier 2017): the state v that led to q, the head's input
at unit length, is compared with the states v_j that led to the last tokens of h. The tokens of
similar states become more likely:

    q'(w) = (1 - λ_0) · q(w) + λ_0 · Σ_{j: h_j = w} 2^(32 v·v_j) / Σ_j 2^(32 v·v_j)

Then n-grams (Kuhn and De Mori 1990), from short to long. n_k counts how often the last k tokens of
h stood in h before, and c_k(w) how often w came next:

    q_k(w) = (1 - λ_k) · q_{k-1}(w) + λ_k · c_k(w) / n_k      k = 1 ... K, q_{k-1} where n_k = 0

λ_0 depends on the similarity of the best match and on the number of near matches; λ_k depends on
min(n_k, 8) and on the number of different tokens that came next. They start from the values that
were best on training text, and follow each lane's text by expectation-maximisation (Jelinek and
Mercer 1980). Everything is computed in integers and single roundings of float64, so every machine
gets the same bits. Counts and states end with their document; λ continues through a lane.

`MatchModel` mixes the costs of known tokens, `MatchStepper` the tables of a stepper. Both compute
the same integers. mixed_model.py attaches them to a CodingModel.

Legend: L lanes, V vocabulary, d width, K the longest n-gram, C the states in the cache.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from fairway.coding.lanes import Layout, Longs, Tokens
from fairway.coding.model import Floats, Intervals, States, StateStepper, TokenCosts
from fairway.config.schema import Memory
from fairway.floating_point import ieee
from fairway.formats.range_coder import TOTAL, TOTAL_BITS
from fairway.kernels import njit

Units = NDArray[np.int16]
REACH = 1 << 14  # the last tokens of a document that are searched for n-grams
_BITS = 20  # λ counts units of 2^-20
_RATE = 7  # λ moves by 2^-7 of its error
_LEAST, _MOST = 1 << 8, (1 << _BITS) - (1 << 14)
_STATE_BITS = 20  # of a state's largest value
_UNIT = 1 << 10  # the length of a state; products are at most its square
_PER_POWER = 64  # entries of _WEIGHTS that halve a weight


def _weights() -> NDArray[np.int64]:
    """Return rint(2^(16 - j/64)) for j < 1024, by six integer roots.

    They are of 2^(64 · (17 - j/64)) = (2·x)^64.
    """
    found = []
    for j in range(16 * _PER_POWER):
        double = 1 << 17 * _PER_POWER - j
        for _ in range(_PER_POWER.bit_length() - 1):
            double = math.isqrt(double)
        found.append(double + 1 >> 1)
    return np.array(found, np.int64)


_WEIGHTS = _weights()
# λ in 1/1000. Row 0 is the cache's: by the best cosine from 1/2 on in steps of 1/16, and for each
# by the sum of all weights (under 2 times the largest, under 4 times, more). The other rows belong
# to the n-grams of each length: by n_k = 1 ... 8 or more, and for each by the number of different
# next tokens (one, two, more).
_START = (
    (0, 3, 5, 4, 6, 6, 6, 6, 11, 16, 8, 21,
     30, 17, 35, 91, 50, 63, 155, 90, 98, 190, 134, 178),
    (17, 0, 0, 141, 7, 0, 270, 59, 3, 382, 90, 11,
     388, 159, 7, 378, 161, 22, 338, 186, 8, 642, 431, 27),
    (82, 0, 0, 345, 35, 0, 633, 145, 38, 697, 336, 51,
     664, 455, 51, 650, 261, 76, 526, 264, 45, 893, 700, 85),
    (124, 0, 0, 349, 53, 0, 535, 127, 16, 488, 177, 24,
     419, 240, 38, 364, 150, 62, 297, 150, 51, 427, 172, 90),
    (195, 0, 0, 440, 51, 0, 390, 136, 24, 310, 127, 54,
     265, 165, 51, 201, 152, 40, 160, 116, 80, 198, 152, 21),
)  # fmt: skip


class MatchModel:
    """The mixture for tokens that are all known, lane by lane, each lane from its start on."""

    def __init__(
        self, memory: Memory, vocab_size: int, bos_id: int, tokens: Tokens, layout: Layout
    ) -> None:
        self._tokens, self._bos, self._vocab_size = tokens, bos_id, vocab_size
        # An empty lane begins where the next one does, and must not hide it.
        by_position = np.lexsort((layout.length, layout.first))
        self._first, self._length = layout.first[by_position], layout.length[by_position]
        self._next, self._begin = self._first.copy(), self._first.copy()
        self._shares = _start(memory, layout)
        self._rings: dict[int, Units] = {}  # of lanes that have begun and not ended
        self._weights, self._near = np.zeros(memory.neural_cache, np.int32), np.zeros(2, np.int64)

    def mix(self, network: TokenCosts) -> TokenCosts:
        """Return the costs under the mixture, given those under the network."""
        positions, states = network.positions, network.states
        if network.intervals is None:
            nats = self._mixed_nats(positions, network.nats, states)
            return network._replace(nats=nats, states=None)
        symbols = self._tokens[positions].astype(np.int64)
        first, last = network.intervals
        rest, below, own = self._mixed(positions, last - first, states)
        starts = symbols + ((first - symbols) * rest >> TOTAL_BITS) + below
        after = symbols + 1
        stops = after + ((last - after) * rest >> TOTAL_BITS) + below + own
        stops[last == TOTAL] = TOTAL
        mixed = TokenCosts.of(positions, Intervals(starts, stops))
        return mixed._replace(is_resumable=network.is_resumable)

    def _mixed_nats(self, positions: Longs, nats: Floats, states: States | None) -> Floats:
        p = np.exp(-nats)
        rest, _, own = self._mixed(positions, (p * TOTAL).astype(np.int64).clip(1), states)
        mixed: Floats = -np.log((own + rest * p) / (TOTAL - self._vocab_size))
        return mixed

    def _mixed(
        self, positions: Longs, masses: Longs, states: States | None
    ) -> tuple[Longs, Longs, Longs]:
        """Return three int64[k]: shares of the network, of all lower tokens, and of the token.

        masses: int64[k], the token's frequency under the network. The last two are the memory's.
        """
        rest, below, own = np.empty((3, len(positions)), np.int64)
        lanes = np.searchsorted(self._first, positions, "right") - 1
        cuts = np.flatnonzero((np.diff(positions) != 1) | (np.diff(lanes) != 0)) + 1
        edges = [0, *cuts.tolist(), len(positions)]
        C = len(self._weights)
        units = _units(states, C, len(positions))
        for a, b in pairwise(edges):
            if a == b:
                continue
            lane, first = int(lanes[a]), int(positions[a])
            if self._next[lane] != first:
                raise AssertionError(f"token {first} comes before {self._next[lane]} of its lane")
            start = max(int(self._begin[lane]), first - REACH)
            past = np.ascontiguousarray(self._tokens[start : first + b - a])
            begin = max(int(self._begin[lane]) - start, 0)
            ring = self._rings.pop(lane, None)
            if ring is None:
                ring = np.zeros((min(C, int(self._length[lane])), units.shape[1]), np.int16)
            begin = _run(
                past, begin, first - start, start, masses[a:b], self._bos, self._vocab_size,
                units[a:b], ring, self._weights, self._near, self._shares[lane],
                rest[a:b], below[a:b], own[a:b],
            )  # fmt: skip
            self._begin[lane], self._next[lane] = start + begin, first + b - a
            if self._next[lane] < self._first[lane] + self._length[lane]:
                self._rings[lane] = ring
        return rest, below, own


class MatchStepper:
    """A Stepper that mixes the tables of another one."""

    def __init__(
        self, inner: StateStepper, memory: Memory, vocab_size: int, bos_id: int, layout: Layout
    ) -> None:
        self._inner, self._bos = inner, bos_id
        lanes, stops = layout.lanes, np.cumsum(layout.length)
        self._past = np.zeros(int(stops[-1]), np.uint16)  # of all lanes, one after another
        self._begin, self._end = stops - layout.length, stops - layout.length
        self._shares = _start(memory, layout)
        size = min(memory.neural_cache, layout.steps)
        self._ring = np.zeros((lanes, size, 0), np.int16)  # [L, size, d]; place p is at p mod size
        self._weights = np.zeros((lanes, size), np.int32)  # of the last comparison
        self._near = np.zeros((lanes, 2), np.int64)  # the weights' sum; the bucket of λ
        self._units = self._ring[0]
        self._table = np.empty((lanes, vocab_size + 1), np.int64)
        self._network = self._table

    def step(self, tokens: Longs) -> Longs:
        self._network = self._inner.step(tokens)
        _take(tokens, self._bos, self._past, self._begin, self._end)
        lanes, size, width = self._ring.shape
        states = self._inner.states[: len(tokens)] if size else None
        self._units, table = _units(states, size, len(tokens)), self._table[: len(tokens)]
        if width != self._units.shape[1]:
            self._ring = np.zeros((lanes, size, self._units.shape[1]), np.int16)
        _mix(*self._known(), self._shares, table)
        return table

    def memory_parts(self, tokens: Longs) -> Longs:
        added, V = np.zeros((len(tokens), 2), np.int64), self._table.shape[1] - 1
        for lane, token in enumerate(tokens):
            begin, at, scratch = self._begin[lane], self._end[lane], _scratch(self._shares[lane], V)
            near = min(at - begin, len(self._ring[lane]))
            matches = _matches(self._past, max(begin, at - REACH), at, scratch)
            weights, shares = self._weights[lane], self._shares[lane]
            _divide(near, weights, self._near[lane], shares, TOTAL - V, scratch)
            after, lengths, parts = scratch[0][:matches], scratch[1][:matches], scratch[-1]
            added[lane, 0] = parts[lengths[after == token]].sum()
            same = self._past[at - near : at] == token
            added[lane, 1] = (weights[:near][same] * parts[0] >> 16).sum()
        return added

    def observe(self, tokens: Longs) -> None:
        _observe(tokens, *self._known(), self._shares)
        self._inner.observe(tokens)

    def _known(self) -> tuple[NDArray[np.generic], ...]:
        """Return the arguments that mixing and learning of one step share."""
        past = self._past, self._begin, self._end
        return self._network, *past, self._units, self._ring, self._weights, self._near


@ieee()
def _units(states: States | None, cache: int, rows: int) -> Units:
    """Return states [n, d] scaled to the length _UNIT: int16[n, d]; [rows, 0] without a cache.

    States are rounded to _STATE_BITS bits, so their sum of squares is exact in float64.
    """
    if not cache:
        return np.zeros((rows, 0), np.int16)
    assert states is not None
    _, exponents = np.frexp(np.abs(states).max(-1, keepdims=True))
    wide = np.rint(np.ldexp(states.astype(np.float64), _STATE_BITS - exponents))
    length = np.sqrt((wide * wide).sum(-1, keepdims=True))
    units: Units = np.rint(wide * _UNIT / np.maximum(length, 1)).astype(np.int16)
    return units


def _start(memory: Memory, layout: Layout) -> Longs:
    """Return the first λ of every lane: int64[L, K + 1, 24]."""
    shares = np.array(_START[: memory.ngram + 1], np.int64) * (1 << _BITS) // 1000
    return np.repeat(shares[None], layout.lanes, 0)


@njit(cache=True, nogil=True)
def _run(  # type: ignore[no-untyped-def]
    past, begin, first, offset, masses, bos, V, units, ring, weights, found, shares,
    rest, below, own,
):  # fmt: skip
    """Mix and learn past[first:], known tokens of one lane; return where their document begins.

    offset: the position of past[0] in the text.
    """
    scratch = _scratch(shares, V)
    after, lengths, parts = scratch[0], scratch[1], scratch[-1]
    for i in range(len(masses)):
        at = first + i
        token = past[at]
        near = _compare(begin, at, offset, units[i], ring, weights, found)
        matches = _matches(past, max(begin, at - REACH), at, scratch)
        rest[i] = _divide(near, weights, found, shares, TOTAL - V, scratch)
        below[i] = own[i] = 0
        for m in range(matches):
            if after[m] <= token:
                if after[m] < token:
                    below[i] += parts[lengths[m]]
                else:
                    own[i] += parts[lengths[m]]
        for m in range(near):
            before = past[at - near + m]
            if before <= token:
                if before < token:
                    below[i] += weights[m] * parts[0] >> 16
                else:
                    own[i] += weights[m] * parts[0] >> 16
        _learn(past, at, near, matches, token, masses[i], weights, found, shares, scratch)
        _hold(offset + at, units[i], ring)
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
def _mix(  # type: ignore[no-untyped-def]
    network, past, begin, end, units, ring, weights, found, shares, table
):
    """Fill table [n, V + 1] with the mixture's tables."""
    V = table.shape[1] - 1
    scratch = _scratch(shares[0], V)
    after, lengths, parts = scratch[0], scratch[1], scratch[-1]
    counted = np.zeros(V, np.int64)
    for lane in range(len(table)):
        at, heavy = end[lane], weights[lane]
        near = _compare(begin[lane], at, 0, units[lane], ring[lane], heavy, found[lane])
        matches = _matches(past, max(begin[lane], at - REACH), at, scratch)
        rest = _divide(near, heavy, found[lane], shares[lane], TOTAL - V, scratch)
        for m in range(matches):
            counted[after[m]] += parts[lengths[m]]
        for m in range(near):
            counted[past[at - near + m]] += heavy[m] * parts[0] >> 16
        row, out, below = network[lane], table[lane], np.int64(0)
        for s in range(V):
            out[s] = s + ((row[s] - s) * rest >> TOTAL_BITS) + below
            below += counted[s]
        out[V] = TOTAL
        for m in range(matches):
            counted[after[m]] = 0
        for m in range(near):
            counted[past[at - near + m]] = 0


@njit(cache=True, nogil=True)
def _observe(  # type: ignore[no-untyped-def]
    tokens, network, past, begin, end, units, ring, weights, found, shares
):
    scratch = _scratch(shares[0], network.shape[1] - 1)
    for lane in range(len(tokens)):
        at, token = end[lane], tokens[lane]
        near = min(at - begin[lane], ring.shape[1])
        matches = _matches(past, max(begin[lane], at - REACH), at, scratch)
        mass = network[lane, token + 1] - network[lane, token]
        _learn(
            past, at, near, matches, token, mass, weights[lane], found[lane], shares[lane], scratch
        )
        _hold(at, units[lane], ring[lane])


@njit(cache=True, nogil=True)
def _scratch(shares, V):  # type: ignore[no-untyped-def]
    """Return arrays: next token and length of every match; the longest match of every token (0
    between calls); for every length (0: the cache) matches, different next tokens, λ's bucket,
    hits, parts."""
    K = len(shares) - 1
    return (
        np.empty(REACH, np.int64), np.empty(REACH, np.int64), np.zeros(V, np.int64),
        np.zeros(K + 2, np.int64), np.zeros(K + 2, np.int64), np.zeros(K + 2, np.int64),
        np.zeros(K + 2, np.int64), np.zeros(K + 2, np.int64),
    )  # fmt: skip


@njit(cache=True, nogil=True)
def _hold(position, unit, ring):  # type: ignore[no-untyped-def]
    for i in range(len(unit) if len(ring) else 0):  # compiles faster than to assign the row
        ring[position % len(ring), i] = unit[i]


@njit(cache=True, nogil=True)
def _compare(begin, at, offset, unit, ring, weights, found):  # type: ignore[no-untyped-def]
    """Weigh the last states by their similarity to `unit`; return how many there are."""
    C = len(ring)
    near = min(at - begin, C)
    if not near:
        return 0
    for m in range(near):
        state, dot = ring[(offset + at - near + m) % C], np.int32(0)
        for i in range(len(unit)):
            dot += np.int32(unit[i]) * np.int32(state[i])
        weights[m] = dot
    best, total = weights[0], np.int64(0)
    for m in range(1, near):
        best = max(best, weights[m])
    for m in range(near):
        step = best - weights[m] >> 9
        weights[m] = _WEIGHTS[step] if step < len(_WEIGHTS) else 0
        total += weights[m]
    found[0] = total
    found[1] = 3 * min(max((best >> 16) - 8, 0), 7) + min(total >> 17, 2)
    return near


@njit(cache=True, nogil=True)
def _matches(past, begin, at, scratch):  # type: ignore[no-untyped-def]
    """Find where the tokens before `at` stood earlier, and what came next; return the count."""
    after, lengths, longest, counts, kinds, buckets, _, _ = scratch
    K, found = len(counts) - 2, 0
    counts[:] = 0
    kinds[:] = 0
    for j in range(begin, at - 1):
        if past[j] == past[at - 1]:
            same = 1
            while same < K and same <= j - begin and past[j - same] == past[at - 1 - same]:
                same += 1
            token = past[j + 1]
            after[found], lengths[found] = token, same
            counts[same] += 1
            longest[token] = max(longest[token], same)
            found += 1
    for m in range(found):
        kinds[longest[after[m]]] += longest[after[m]] > 0
        longest[after[m]] = 0
    for k in range(K, 0, -1):
        counts[k] += counts[k + 1]
        kinds[k] += kinds[k + 1]
        buckets[k] = 3 * min(counts[k], 8) + min(kinds[k], 3) - 4
    return found


@njit(cache=True, nogil=True)
def _divide(near, weights, found, shares, room, scratch):  # type: ignore[no-untyped-def]
    """Share the mass `room` out to matches and states; return what is left for the network."""
    _, _, _, counts, _, buckets, _, parts = scratch
    rest = room
    for k in range(len(shares) - 1, 0, -1):
        parts[k] = 0
        if counts[k]:
            parts[k] = (rest * shares[k, buckets[k]] >> _BITS) // counts[k]
            rest -= parts[k] * counts[k]
    for k in range(2, len(shares)):
        parts[k] += parts[k - 1]
    parts[0] = 0
    if near:
        parts[0] = ((rest * shares[0, found[1]] >> _BITS) << 16) // found[0]
        for m in range(near):
            rest -= weights[m] * parts[0] >> 16
    return rest


@njit(cache=True, nogil=True)
def _learn(  # type: ignore[no-untyped-def]
    past, at, near, matches, token, mass, weights, found, shares, scratch
):
    """Move every λ_k towards the probability that the token came from memory k.

    The step shrinks by the probability that a longer match explained the token.
    """
    after, lengths, _, counts, _, buckets, hits, _ = scratch
    K, one = len(shares) - 1, np.int64(1 << _BITS)
    hits[:] = 0
    for m in range(matches):
        hits[lengths[m]] += after[m] == token
    for k in range(K, 0, -1):
        hits[k] += hits[k + 1]
    for m in range(near):
        if past[at - near + m] == token:
            hits[0] += weights[m]
    counts[0], buckets[0] = (found[0], found[1]) if near else (0, 0)
    for k in range(K + 1):  # from here on, hits[k] is the probability that it was memory k
        if counts[k]:
            share = shares[k, buckets[k]]
            recalled = share * (TOTAL * hits[k] // counts[k]) >> _BITS
            mass = max(recalled + (mass * (one - share) >> _BITS), 1)
            hits[k] = (recalled << _BITS) // mass
    asked = one
    for k in range(K, -1, -1):
        if counts[k]:
            share = shares[k, buckets[k]]
            share += asked * (hits[k] - share) >> _BITS + _RATE
            shares[k, buckets[k]] = min(max(share, _LEAST), _MOST)
            asked = asked * (one - hits[k]) >> _BITS
