"""Do probabilities sum to one? Bets that win in the long run only where they sum to more.

At places of our choice we put a token v that we draw ourselves, by probabilities q that are fixed
before the text is scored. A valid scorer's p was fixed before it saw v, so X = p(v) / q(v) is
Σ p on average, one at most, whatever comes before in the coding order. Wealth that stakes a part λ
of itself on every X, Π (1 + λ (X - 1)), is then no larger than 1 on average, in whatever order that
is, and exceeds 1 / α with probability α at most, ever (Ville 1939; Waudby-Smith and Ramdas 2023).
No distribution is assumed and nothing is approximate. The text, the places and q may be any: they
decide how soon a bet is won.
"""

from __future__ import annotations

from math import inf, log, sqrt

import numpy as np

from fairway.audit.scorer import Floats, Tokens

WON = log(1e6)  # log wealth that a valid scorer lets grow in one audit of a million
TOLERANCE = 1e-4  # of a sum of probabilities: rounding
# What is bet on: anywhere, suspicious places, one token over and over, a process's first call.
TEXT, SUSPICIOUS, REPEATED, FIRST = range(4)
_STAKES = np.array([0.9, *0.5 ** np.arange(1, 13)])  # λ; wealth is divided among them
_KEPT = (0.02, 0.5)  # bounds of q's probability of the real token
_LEAST = 0.05  # of the rest, for each other part of q
_Z = 2.33  # a normal variable is above -_Z with probability 0.99
_ENOUGH = 30_000  # ratios tell the spread


class Proposal:
    """q: the token that stands there as often as was expected; else what follows the token before
    it elsewhere, what is frequent, or any token. Never a boundary.

    How much of each is learned from the scorer's earlier answers.
    """

    def __init__(
        self, known: Tokens, vocab: int, bos: int | None, random: np.random.Generator
    ) -> None:
        """Learn pairs and counts from `known` int64[M], which has every token of later texts."""
        self._vocab, self._random = vocab, random
        self._bos = -1 if bos is None else bos
        self._any = np.delete(np.arange(vocab), [] if bos is None else [bos])
        self._common = known[known != self._bos]
        self._counts = np.bincount(self._common, minlength=vocab)
        pairs = (known[:-1] * vocab + known[1:])[known[1:] != self._bos]
        itself = np.unique(self._common) * (vocab + 1)  # so that none is followed by nothing
        self._pairs = np.sort(np.concatenate([pairs, itself]))
        self._mass = np.full(3, 100.0)  # that each part of q would have explained

    def scattered(self, tokens: Tokens, gap: int) -> Tokens:
        """Choose random places, 2 to `gap` apart, so that the token before each is not drawn."""
        steps = self._random.integers(2, gap + 1, len(tokens) // 2 + 1)
        steps[0] = self._random.integers(1, gap + 1)
        places = np.cumsum(steps)
        places = places[places < len(tokens)]
        inner: Tokens = places[tokens[places] != self._bos]
        return inner

    def draw(self, tokens: Tokens, places: Tokens, expected: Floats) -> tuple[Tokens, Floats]:
        """Draw tokens int64[n] for places[n] of tokens[N]; return them and their q, float64[n].

        expected float64[n]: about the probability of the token that stands there now.
        """
        n, kept, row = len(places), np.clip(expected, *_KEPT), tokens[places - 1] * self._vocab
        first, last = np.searchsorted(self._pairs, [row, row + self._vocab])
        share = _LEAST + (1 - 3 * _LEAST) * self._mass / self._mass.sum()
        drawn = np.choose(
            self._random.choice(3, n, p=share),
            [
                self._pairs[self._random.integers(first, last)] % self._vocab,
                self._random.choice(self._common, n),
                self._random.choice(self._any, n),
            ],
        )
        drawn = np.where(self._random.random(n) < kept, tokens[places], drawn)
        low, high = np.searchsorted(self._pairs, [row + drawn, row + drawn + 1])
        self._parts = (1 - kept) * [
            share[0] * (high - low) / (last - first),
            share[1] * self._counts[drawn] / len(self._common),
            np.full(n, share[2] / len(self._any)),
        ]
        self._q = kept * (drawn == tokens[places]) + self._parts.sum(0)
        return drawn, self._q

    def learn(self, ratios: Floats) -> None:
        """Move q towards p, after the last draw: a step of expectation maximisation."""
        self._mass += self._parts @ (ratios / self._q)


class Bets:
    """Wealth in logs, a quarter of it for each kind of bet."""

    def __init__(self) -> None:
        self._wealth = np.zeros((4, len(_STAKES)))
        self._ratios: list[list[Floats]] = [[], [], [], []]

    def bet(self, kind: int, ratios: Floats) -> None:
        """Bet on ratios float64[n], the X of places of one text."""
        self._ratios[kind].append(ratios)
        gains = [np.log1p(stake * (ratios / (1 + TOLERANCE) - 1)).sum() for stake in _STAKES]
        self._wealth[kind] += gains

    @property
    def log_wealth(self) -> float:
        """Return the logarithm of the mean wealth of all bets."""
        return float(np.logaddexp.reduce(self._wealth, axis=None)) - log(self._wealth.size)

    @property
    def best(self) -> int:
        """Return the kind of bet that paid most."""
        return int(np.argmax(self._wealth.max(1)))

    def draws(self, kind: int) -> int:
        """Return the number of tokens drawn for a kind of bet."""
        return sum(map(len, self._ratios[kind]))

    def mean(self, kind: int) -> tuple[float, float]:
        """Return the mean sum of probabilities and its standard error."""
        x = np.concatenate(self._ratios[kind])
        return float(x.mean()), float(x.std()) / sqrt(len(x))

    def excess(self, kind: int) -> float:
        """Return the excess over one that would have been found with probability about 0.99.

        The ratios are assumed to spread as they did, times one plus the excess. inf: none is found.
        """
        x = np.concatenate([*self._ratios[kind], np.empty(0)])
        draws, x = len(x), x[:: len(x) // _ENOUGH + 1]
        if not x.any():
            return inf
        x = x / x.mean()
        low, high = -6.0, 6.0  # logs of the excess
        if not _found(x, draws, np.exp(high)):
            return inf
        while high - low > 0.02:
            middle = (low + high) / 2
            low, high = (low, middle) if _found(x, draws, np.exp(middle)) else (middle, high)
        return float(np.exp(high))


def _found(x: Floats, draws: int, excess: float) -> bool:
    """Say whether `draws` ratios like x (mean 1), raised by `excess`, almost surely win."""
    for stake in _STAKES:
        gains = np.log1p(stake * (x * (1 + excess) / (1 + TOLERANCE) - 1))
        least = draws * gains.mean() - _Z * sqrt(draws) * gains.std()
        if least > WON + log(4 * len(_STAKES)):
            return True
    return False
