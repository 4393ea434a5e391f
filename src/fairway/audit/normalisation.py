"""Test that the probabilities of all tokens that could stand at a position sum to one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import cycle
from math import log

import numpy as np

from fairway.audit import Charges, betting, power
from fairway.audit.audit_text import slices
from fairway.audit.experiment import TOLERANCE, Audit, changed, evidence_of, finding
from fairway.audit.scorer import Floats, Tokens
from fairway.pipeline.command_results import AuditFinding, Evidence

_OWN = 8  # tokens of a piece that are changed to see whether distributions look at them
_CHEAP, _SUSPECTS = 64, 8  # the cheapest tokens that are suspects; suspects of a kind in one call
_DRAWS = 1_000_000  # the most tokens to draw in the text
# The largest gap between drawn tokens, by turns: small for many bets, large for a real past; 0
# stands for a text of one token.
_GAPS = (0, 2, 2, 15)
_REPEATED = 4096  # the longest text of one token
_WHERE = (  # by kind of bet
    "in the text",
    "at suspicious places of it",
    "in one token over and over",
    "in the first call of a process",
)
_FIRST_SHARE = 0.25  # of the time for bets, for bets that need a process each
_CONTEXT = 64  # tokens before a position that is summed over: few, to be fast


def normalised(
    audit: Audit, base: Charges, suspects: list[int], until: float, most: int
) -> AuditFinding:
    """Test that exp(-charge) sums to one over the vocabulary, by whole sums and by bets.

    A whole sum sees the smallest excess at one position; bets see all positions (betting.py).
    """
    sums: list[tuple[int, float]] = []  # (position, sum)
    began = time.monotonic()
    while len(sums) < most and (one_sum := whole_sum(audit, began + (until - began) / 4)):
        sums.append(one_sum)
        if one_sum[1] > 1 + betting.TOLERANCE:
            t, total = one_sum
            summary = f"the probabilities of all that could stand at token {t:,} sum to {total:.4f}"
            evidence = evidence_of([t], 1.0, total)
            return finding("normalised", True, summary, "a sum over all tokens, exact", evidence)
    return _wagered(audit, base, suspects, until, sums)


def whole_sum(audit: Audit, until: float) -> tuple[int, float] | None:
    """Return (a random position, the sum of exp(-charge) there); None if there is no time.

    The text ends with that position, or goes on if the scorer does not charge its last token.
    """
    tokens, vocab = audit.text.tokens, audit.text.vocab_size
    t = int(audit.random.integers(1, len(tokens)))
    first = max(0, t - _CONTEXT)
    before = tokens[first:t] if not first else np.append(tokens[:1], tokens[first:t])
    for suffix in (tokens[:0], tokens[t + 1 : t + 1 + _CONTEXT]):
        context = np.concatenate([before, tokens[t : t + 1], suffix])
        began = time.monotonic()
        if not charged_probabilities(audit.score(context))[len(before)]:
            continue
        if began + vocab * (time.monotonic() - began) > until:
            return None
        total = 0.0
        for token in audit.random.permutation(vocab).tolist():
            context[len(before)] = token
            total += float(charged_probabilities(audit.score(context))[len(before)])
            if total > 1 + betting.TOLERANCE:
                break
            if time.monotonic() > until:
                return None
        return t, total
    return None


def charged_probabilities(charges: Charges) -> Floats:
    """Return exp(-charge), float64[N]; 0 where the scorer says that it did not charge."""
    times = np.ones(len(charges.nats)) if charges.times_charged is None else charges.times_charged
    nats = np.where(times > 0, charges.nats / np.maximum(times, 1), np.inf)
    return np.exp(-np.maximum(nats, -50.0))


def _wagered(
    audit: Audit, base: Charges, suspects: list[int], until: float, sums: list[tuple[int, float]]
) -> AuditFinding:
    """Bet against the scorer until a bet is won, or time or draws are over.

    Bets in the whole text test positions far from its beginning. Bets on one token over and over
    test where a scorer that learns differs most from one that did not. Suspicious positions are
    `suspects`, cheap ones, and those that paid most so far.
    """
    random, tokens, bos = audit.random, audit.text.tokens, audit.text.bos_id
    places = np.flatnonzero((tokens != bos) & (np.arange(len(tokens)) > 0))
    if not places.size:
        return finding("normalised", None, "there is nothing to test but boundaries", "none")
    known = tokens if audit.known is None else audit.known
    proposal = betting.Proposal(known, audit.text.vocab_size, bos, random)
    bets, expected = betting.Bets(), np.exp(-base.nats)
    suspects = np.intersect1d(suspects, places)[:_SUSPECTS].tolist()
    cheap = places[np.argsort(base.nats[places])][:_CHEAP]
    paid = np.zeros((2, len(tokens)))  # the largest ratios: in the text, in one token
    slowest = [0.0, 0.0]  # seconds of a call on one token, on the text
    started, spent, slowest_first = time.monotonic(), 0.0, 0.0  # on first calls
    for gap in cycle(_GAPS):
        began = time.monotonic()
        if spent + slowest_first <= _FIRST_SHARE * (began - started):
            _bet_in_first_call(audit, proposal, bets, expected, paid[0])
            took = time.monotonic() - began
            spent, slowest_first = spent + took, max(slowest_first, took)
            if bets.log_wealth > betting.WON:
                break
            began = time.monotonic()
        late = began + slowest[bool(gap)] > until
        if bets.draws(betting.TEXT) and (late or bets.draws(betting.TEXT) >= _DRAWS):
            break
        if gap:
            best = np.argsort(-paid[0])[:_SUSPECTS]
            some = random.permutation(cheap)[:_SUSPECTS].tolist()
            looked_at = np.array([*suspects, *some, *best[paid[0, best] > 0].tolist()], np.int64)
            text, anywhere = tokens, proposal.scattered(tokens, gap)
            drawn = np.union1d(anywhere, looked_at)
            likely = expected[drawn]
        else:
            text = np.where(tokens == bos, tokens, random.choice(tokens[places]))[:_REPEATED]
            drawn = proposal.scattered(text, 2)
            likely = np.full(len(drawn), 0.5)
        new = text.copy()
        new[drawn], q = proposal.draw(text, drawn, likely)
        ratios = charged_probabilities(audit.score(new))[drawn] / q
        proposal.learn(ratios)
        seen = paid[0 if gap else 1]
        seen[drawn] = np.maximum(seen[drawn], ratios)
        if gap:
            bets.bet(betting.TEXT, ratios[np.isin(drawn, anywhere)])
            bets.bet(betting.SUSPICIOUS, ratios[np.isin(drawn, looked_at)])
        else:
            bets.bet(betting.REPEATED, ratios)
        slowest[bool(gap)] = max(slowest[bool(gap)], time.monotonic() - began)
        if bets.log_wealth > betting.WON:
            break
    return _bets_finding(bets, sums, paid, audit.text.vocab_size)


def _bet_in_first_call(
    audit: Audit,
    proposal: betting.Proposal,
    bets: betting.Bets,
    expected: Floats,
    paid: Floats,
) -> None:
    """Bet in the first call of a process, and keep the largest ratios in paid float64[N]."""
    tokens = audit.text.tokens
    drawn = proposal.scattered(tokens, _GAPS[-1])
    new = tokens.copy()
    new[drawn], q = proposal.draw(tokens, drawn, expected[drawn])
    ratios = charged_probabilities(audit.score_first(new))[drawn] / q
    bets.bet(betting.FIRST, ratios)
    paid[drawn] = np.maximum(paid[drawn], ratios)


def _bets_finding(
    bets: betting.Bets, sums: list[tuple[int, float]], paid: Floats, vocab: int
) -> AuditFinding:
    """Sum up the bets. paid: the largest ratios in the text and in one token, float64[2, N]."""
    if bets.log_wealth > betting.WON:
        kind = bets.best
        mean, error = bets.mean(kind)
        summary = (
            f"the probabilities of what could stand {_WHERE[kind]} sum to {mean:.3g} ± {error:.2g} "
            "on average, by tokens drawn for it: a valid scorer looks like that with probability "
            f"below 1e-{min(int(bets.log_wealth / log(10)), 300)}"
        )
        paid = paid[int(kind == betting.REPEATED)]
        evidence = evidence_of(np.argsort(-paid)[:4], 1.0, paid)
        strength = f"{bets.draws(kind):,} tokens drawn there"
        return finding("normalised", True, summary, strength, evidence)
    mean, error = bets.mean(betting.TEXT)
    told = (betting.TEXT, betting.REPEATED, betting.FIRST)
    strength = "; ".join(_excess(bets, kind) for kind in told)
    summary = (
        "no sign of probabilities that sum to more than one; their mean sum in the text is "
        f"{mean:.4f} ± {error:.4f}, without boundaries"
    )
    if sums:
        strength += (
            f"; {len(sums)} sums over all {vocab:,} tokens: with probability 0.99 a fault at "
            f"{power.percent(power.share(len(sums)))} of positions"
        )
        if (lowest := min(total for _, total in sums)) < 1 - 1e-3:
            summary += f"; one is {lowest:.4f} with them, which only wastes bits"
    return finding("normalised", False, summary, strength)


def _excess(bets: betting.Bets, kind: int) -> str:
    """Say how large a mean excess would have been found."""
    drawn, excess = f"{bets.draws(kind):,} tokens drawn {_WHERE[kind]}", bets.excess(kind)
    if not np.isfinite(excess):
        return f"{drawn}, too few to find anything"
    return f"{drawn}: with probability about 0.99 sums {power.percent(excess)} too large on average"


def distributions(audit: Audit, length: int, until: float, most: int) -> AuditFinding:
    """Test offered rows: they sum to one, charge the token, and do not look at it."""
    seen = own = 0
    strength = "none"
    for piece in slices(audit.text, length, most, audit.random):
        if seen and time.monotonic() > until:
            break
        base, rows = audit.score(piece), audit.rows(piece)
        seen, own = seen + len(piece), own + (0 if audit.declared else _OWN)
        strength = (
            f"{seen:,} rows ({power.percent(power.share(seen))} of positions, scattered, "
            f"with probability 0.99); own token and later ones changed at {own} "
            f"({power.percent(power.share(own))})"
        )
        for condition, summary, evidence in _row_faults(audit, piece, base, rows):
            what = f"the distribution of token {evidence[0].position} of a piece {summary}"
            return finding(condition, True, what, strength, evidence)
    return finding("normalised", False, "every distribution sums to one", strength)


def _row_faults(
    audit: Audit, piece: Tokens, base: Charges, rows: Floats
) -> Iterator[tuple[str, str, list[Evidence]]]:
    """Yield (condition, what is wrong, evidence) of rows float64[N, V] of piece int64[N].

    After the sums and charges, a token and what follows it are changed _OWN times: no row up to
    its own may move, unless another order is declared.
    """
    own = rows[np.arange(len(piece)), piece]
    sums, charged = rows.sum(1), -np.log(np.maximum(own, np.finfo(np.float64).tiny))
    for apart, most, before, after, words in (
        (sums - 1, betting.TOLERANCE, 1.0, sums, "sums to"),
        (charged - base.nats, audit.tolerance, charged, base.nats, "is charged otherwise:"),
    ):
        wrong = np.flatnonzero(np.abs(apart[1:]) > most) + 1
        if wrong.size:
            yield (
                "normalised",
                f"{words} {after[wrong[0]]:.4f}",
                evidence_of(wrong[:1], before, after),
            )
    for _ in range(0 if audit.declared else _OWN):
        k = int(audit.random.integers(1, len(piece)))
        again = audit.rows(changed(audit, piece, np.arange(k, len(piece)), "uniform"))[: k + 1]
        moved = np.abs(again - rows[: k + 1])
        if moved.max() > TOLERANCE:
            t, v = (int(i) for i in np.unravel_index(int(np.argmax(moved)), moved.shape))
            evidence = evidence_of([t], rows[t, v], again[t, v], k)
            yield "normalised" if t == k else "causal", f"moved with tokens from {k} on", evidence
