"""Experiments on a scorer that is a black box, each with a finding.

Legend: N tokens, V vocabulary, k a place in the coding order. A change is a difference in nats
between two calls, for a token that the two texts have in common together with all that comes
before it in the coding order: a valid scorer shows none, but for rounding.

Rounding. A change counts from TOLERANCE on, or from ten times what two calls on the same text
differ by. Below that it counts only if it helps: a leak makes the past cheaper when the future is
the true one, while rounding goes both ways. So the mean change per position, over blocks of 64
positions, must be above zero by 6 of its standard errors.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import cycle
from math import log, sqrt
from typing import Any

import numpy as np

from fairway.audit import betting, power
from fairway.audit.audit_text import Subject, blocks, slices
from fairway.audit.scorer import Caller, Charges, Floats, Tokens
from fairway.errors import BadInput
from fairway.pipeline.results import AuditFinding, Evidence

TOLERANCE = 1e-3  # nats; rounding in float32 stays below a tenth of it
_TOLD, _TOLD_Z = 2, 2.5  # what later boundaries may save, in what `side_bytes` pay for them
_TOTAL_TOLERANCE = 1e-5  # of totals, relative: sums in float32
_BLOCK, _Z = 64, 6.0
_STYLES = ("shuffled", "uniform", "one token", "repeated", "boundaries")
_FRESH = ", each the first call of a process"
_OWN = 8  # tokens of a piece that are changed to see whether distributions look at them
_CHEAP, _SUSPECTS = 64, 8  # so many of the cheapest tokens are suspects; of a kind in one call
_DRAWS = 1_000_000  # tokens that are drawn, and no more
_GAPS = (0, 2, 2, 15)  # between them at most, by turns: many bets or a real past; 0: one token
_REPEATED = 4096  # over and over, so many times at most
_WHERE = (  # of bets
    "in the text",
    "at suspicious places of it",
    "in one token over and over",
    "in the first call of a process",
)
_FIRST_SHARE = 0.25  # of the time for bets, for those that need a process each
_FIRST_CUTS, _EARLY = 2, 16  # at least so many; the earliest place, where the text has it
_CONTEXT = 64  # tokens before a place that is summed over: few are fast
_PARTS = 8  # of the dependency picture


@dataclass
class Audit:
    """A scorer, a text, and how much may still be asked."""

    caller: Caller
    subject: Subject
    random: np.random.Generator
    until: float  # time.monotonic()
    tokens_asked: int = 0
    calls: int = 0
    whole: Subject | None = None  # what is scored but once, where `subject` is its beginning
    known: Tokens | None = None  # all of the text, if `subject` is its beginning: never scored
    piece: int = 1024  # tokens of a short text
    repeat_noise: float = 0.0
    declared: bool = False  # an order other than left to right
    side_bytes: int = 0
    progress: Any = None
    findings: list[AuditFinding] = field(default_factory=list)

    def charges(self, tokens: Tokens) -> Charges:
        self.calls += 1
        self.tokens_asked += len(tokens)
        if self.progress:
            self.progress()
        return self.caller.charges(tokens)

    def first_charges(self, tokens: Tokens) -> Charges:
        """The charges of a process that never saw another text, as a score is computed."""
        other = self.caller.fresh()
        try:
            self.calls += 1
            self.tokens_asked += len(tokens)
            if self.progress:
                self.progress()
            return other.charges(tokens)
        finally:
            if other is not self.caller:
                other.close()

    def rows(self, tokens: Tokens) -> Floats:
        """The distributions that the scorer offers, float64[N, V]. Raises BadInput."""
        rows = self.caller.distributions(tokens)
        if rows.shape[1] <= (largest := int(tokens.max())):
            raise BadInput(
                f"scorer.distributions returned {rows.shape[1]} columns for a text with token "
                f"{largest}: it must return a column for each token of the vocabulary"
            )
        return rows

    @property
    def tolerance(self) -> float:
        return max(TOLERANCE, 10 * self.repeat_noise)

    def share_of_time(self, share: float) -> float:
        """When a part of the time that is left will be over."""
        now = time.monotonic()
        return now + share * max(0.0, self.until - now)

    def found(self, *findings: AuditFinding) -> None:
        self.findings += findings


def order_of(found: Charges) -> Tokens:
    """int64[N]: positions in the coding order."""
    return np.arange(len(found.nats)) if found.order is None else np.asarray(found.order)


def finding(
    condition: str, broken: bool | None, summary: str, evidence: list[Evidence], strength: str
) -> AuditFinding:
    """broken None: neither holds nor broken, told to the reader."""
    verdict = "noted" if broken is None else "broken" if broken else "holds"
    return AuditFinding(
        condition=condition, verdict=verdict, summary=summary, evidence=evidence, power=strength
    )


# One call ---------------------------------------------------------------------------------------


def coverage(audit: Audit, found: Charges) -> AuditFinding:
    """Each token charged exactly once, the first at most once; totals are sums of their parts."""
    nats, times, tokens = found.nats, found.times_charged, audit.subject.tokens
    strength = f"all of {len(tokens):,} tokens, exact"
    if times is not None:
        wrong = np.flatnonzero(times[1:] != 1) + 1
        if wrong.size or times[0] not in (0, 1):
            places = wrong if wrong.size else np.zeros(1, np.int64)
            summary = (
                f"{len(places):,} of {len(tokens):,} tokens are not charged exactly once: "
                f"tokens {_runs(places)}"
            )
            some = [
                Evidence(position=int(p), before=1.0, after=float(times[p])) for p in places[:8]
            ]
            return finding("coverage", True, summary, some, strength)
        charged = int(times.sum())
        if found.total_tokens is not None and found.total_tokens != charged:
            summary = f"the score counts {found.total_tokens:,} tokens, and {charged:,} are charged"
            return finding("coverage", True, summary, [], strength)
    elif found.total_tokens is not None and found.total_tokens not in (len(nats), len(nats) - 1):
        summary = f"the score counts {found.total_tokens:,} tokens of {len(nats):,}"
        return finding("coverage", True, summary, [], strength)
    if found.side_bytes and found.total_nats is None:
        summary = f"{found.side_bytes:,} side bytes are declared, and no total that pays for them"
        return finding("coverage", True, summary, [], strength)
    total = float(nats.sum()) + 8 * log(2) * found.side_bytes
    if found.total_nats is not None and (
        abs(found.total_nats - total) > _TOTAL_TOLERANCE * max(abs(total), 1.0)
    ):
        summary = f"the score's total is {found.total_nats:.6g} nats, its parts sum to {total:.6g}"
        evidence = [Evidence(position=-1, before=total, after=found.total_nats)]
        return finding("coverage", True, summary, evidence, strength)
    free = _uncharged(audit, nats)
    if free:
        summary = f"tokens {_runs(np.array(free))} cost nothing, whatever stands there"
        some = [Evidence(position=p, before=0.0, after=0.0) for p in free[:8]]
        return finding("coverage", True, summary, some, strength)
    return finding("coverage", False, "each token is charged once", [], strength)


def _uncharged(audit: Audit, nats: Floats) -> list[int]:
    """Positions that cost 0 and go on costing 0 with other tokens in them."""
    suspects = np.flatnonzero(nats == 0.0)
    suspects = suspects[suspects > 0]
    for _ in range(3):
        if not suspects.size:
            break
        tokens = audit.subject.tokens.copy()
        tokens[suspects] = others(audit, tokens[suspects])
        suspects = suspects[audit.charges(tokens).nats[suspects] == 0.0]
    return [int(p) for p in suspects]


def probabilities(found: Charges) -> AuditFinding | None:
    """No token is charged less than nothing."""
    places = np.flatnonzero(found.nats < -1e-5)
    if not places.size:
        return None
    worst = places[np.argsort(found.nats[places])][:8]
    evidence = [Evidence(position=int(p), before=0.0, after=float(found.nats[p])) for p in worst]
    summary = f"{len(places):,} tokens have a negative charge, that is a probability above one"
    return finding("normalised", True, summary, evidence, "all tokens, exact")


def byte_count(audit: Audit, found: Charges) -> AuditFinding:
    """The denominator is the length of what the tokens decode to."""
    subject = audit.subject
    strength = f"all of {len(subject.tokens):,} tokens, exact"
    if subject.loss:
        summary = f"the tokens do not restore the text: {subject.loss}"
        return finding("bytes", True, summary, [], strength)
    if subject.lengths is None:
        return finding("bytes", None, "not tested: give --tokenizer", [], "none")
    length = int(subject.lengths.sum())
    if found.bytes is not None:
        wrong = np.flatnonzero(found.bytes != subject.lengths)
        counted = int(found.bytes.sum())
        if wrong.size and not (found.times_charged is not None and counted == length):
            some = [
                Evidence(
                    position=int(p), before=float(subject.lengths[p]), after=float(found.bytes[p])
                )
                for p in wrong[:8]
            ]
            summary = (
                f"{len(wrong):,} tokens count other bytes than they write; "
                f"{counted:,} in all, the text has {length:,} ({counted / length - 1:+.2%})"
            )
            return finding("bytes", True, summary, some, strength)
    total = found.total_bytes
    if total is not None and total != length:
        summary = f"the score divides by {total:,} bytes, the text has {length:,}"
        evidence = [Evidence(position=-1, before=float(length), after=float(total))]
        return finding("bytes", True, summary, evidence, strength)
    if found.bytes is None and total is None:
        summary = f"the scorer counts no bytes; the text has {length:,} ({subject.rule})"
        return finding("bytes", None, summary, [], "none")
    return finding("bytes", False, f"{length:,} bytes: {subject.rule}", [], strength)


def _runs(places: Tokens) -> str:
    """Positions in short: 3, 5 to 9, ..."""
    cuts = np.flatnonzero(np.diff(places) != 1) + 1
    runs = [(int(r[0]), int(r[-1])) for r in np.split(places, cuts)]
    shown = [f"{a}" if a == b else f"{a} to {b}" for a, b in runs[:4]]
    return ", ".join(shown) + (f" and {len(runs) - 4} more runs" if len(runs) > 4 else "")


# Cuts: what comes later changes, what came before must not ---------------------------------------


@dataclass
class Cuts:
    """Results of all cuts of one kind. Positions are places in the coding order."""

    first: bool = False  # each in a process of its own, whose first call it is
    draws: int = 0
    length: int = 0
    largest: float = 0.0
    evidence: list[Evidence] = field(default_factory=list)
    strip: str = ""  # a picture of the worst cut
    small: list[Floats] = field(default_factory=list)  # changes below the tolerance, by position
    unmoved: list[int] = field(default_factory=list)  # positions that charge any token the same
    order_moved: str = ""
    boundary: str = ""  # what boundaries that come later change
    told: list[Floats] = field(default_factory=list)  # by how much, by distance


def others(audit: Audit, tokens: Tokens) -> Tokens:
    """int64[n]: other tokens than those of tokens[n], none of them a boundary."""
    vocab, bos = audit.subject.vocab_size, audit.subject.bos_id
    drawn = audit.random.integers(0, vocab, len(tokens))
    for _ in range(100):
        wrong = (drawn == tokens) | (drawn == (-1 if bos is None else bos))
        if not wrong.any():
            break
        drawn[wrong] = audit.random.integers(0, vocab, int(wrong.sum()))
    return drawn


def changed(audit: Audit, tokens: Tokens, later: Tokens, style: str) -> Tokens:
    """tokens with others at the positions `later`; boundaries stay, but for `boundaries`."""
    new, bos = tokens.copy(), audit.subject.bos_id
    inner = later[tokens[later] != bos] if bos is not None else later
    if not inner.size:
        return new
    if style == "boundaries" and bos is not None:
        later = later[later > 0]  # texts begin with one
        new[later] = others(audit, tokens[later])
        new[later[audit.random.random(len(later)) < 0.02]] = bos
        return new
    if style == "one token":
        inner = inner[:1]
    new[inner] = others(audit, tokens[inner])
    if style == "shuffled":  # as many of each token as before, in other places
        drawn = audit.random.permutation(tokens[inner])
        new[inner] = np.where(drawn == tokens[inner], new[inner], drawn)
    if style == "repeated":
        new[inner[1:]] = new[inner[0]]
    return new


def cut(audit: Audit, tokens: Tokens, base: Charges, k: int, style: str, result: Cuts) -> None:
    """Change what comes at place k of the order and later; compare what came before."""
    order = order_of(base)
    new = changed(audit, tokens, order[k:], style)
    again = audit.first_charges(new) if result.first else audit.charges(new)
    result.draws += 1
    moved = order_of(again)[: k + 1] != order[: k + 1]
    past = order[:k]
    change = (again.nats - base.nats)[past]
    if style == "boundaries" and audit.side_bytes:  # told, and paid for
        if not moved.any():
            result.told.append(by_distance(change))
        if moved.any() or (np.abs(change) > audit.tolerance).any():
            result.boundary = "the order depends on document boundaries that come later"
        return
    if moved.any():
        place = int(np.flatnonzero(moved)[0])
        result.order_moved = (
            f"with other tokens from place {k:,} of the order on, a decoder would have to take "
            f"another token at place {place:,}"
        )
        return
    size = np.abs(change)
    if size.size and float(size.max()) > max(result.largest, audit.tolerance):
        worst = np.argsort(-size)[:4]
        result.evidence = [
            Evidence(
                position=int(past[i]),
                before=float(base.nats[past[i]]),
                after=float(again.nats[past[i]]),
                cause=int(order[k]),
            )
            for i in worst
        ]
        result.strip = strip(size > audit.tolerance, k, len(tokens))
    result.largest = max(result.largest, float(size.max(initial=0.0)))
    if size.any():
        result.small.append(np.pad(change, (0, len(tokens) - k), constant_values=np.nan))
    if style in ("shuffled", "uniform"):
        same = (
            (again.nats == base.nats)
            & (new != tokens)
            & (base.nats < log(audit.subject.vocab_size))
        )
        result.unmoved += np.flatnonzero(same)[:4].tolist()


def strip(moved: np.ndarray[Any, Any], k: int, count: int, width: int = 64) -> str:
    """The text as one line: # what moved, · what did not, | the cut, ~ what was changed."""
    cells = []
    for first, last in blocks(count, width):
        if first <= k < last:
            cells.append("|")
        elif first >= k:
            cells.append("~")
        else:
            cells.append("#" if moved[first:last].any() else "·")
    return "".join(cells)


def helpful(changes: list[Floats]) -> tuple[float, float]:
    """Mean change per position and its z, of changes that are too small to count one by one."""
    if not changes:
        return 0.0, 0.0
    length = max(map(len, changes))
    rows = np.full((len(changes), length), np.nan)
    for row, change in zip(rows, changes, strict=True):
        row[: len(change)] = change
    known = ~np.isnan(rows).all(0)
    by_position = np.nanmean(rows[:, known], axis=0)
    means = np.array([b.mean() for b in np.array_split(by_position, max(1, known.sum() // _BLOCK))])
    if len(means) < 8 or not means.any():
        return float(by_position.mean()), 0.0
    error = float(means.std(ddof=1)) / sqrt(len(means))
    return float(means.mean()), float(means.mean()) / error if error else np.inf


def by_distance(change: Floats) -> Floats:
    """Mean change 1, 2, 3-4, 5-8 ... tokens before a cut, float64[64]; NaN: there are none."""
    found = np.full(64, np.nan)
    back = change[::-1]
    for i in range(len(back).bit_length()):
        found[i] = back[(1 << i) >> 1 : 1 << i].mean()
    return found


def told_too_much(audit: Audit, cuts: Cuts) -> str:
    """What boundaries that come later save, where that is more than `side_bytes` pay for.

    What the next boundary saves at one distance, summed over all places where one may stand, is at
    most what boundaries save there in all.
    """
    paid, rows = 8 * log(2) * audit.side_bytes, np.array(cuts.told)
    if len(rows) < 8:
        return ""
    for i, column in enumerate(rows.T):
        known = column[~np.isnan(column)]
        if len(known) < 8:
            continue
        mean, error = float(known.mean()), float(known.std(ddof=1)) / sqrt(len(known))
        saved = mean * len(audit.subject.tokens)
        if saved > _TOLD * paid and mean > _TOLD_Z * error:
            return (
                f"document boundaries that come about {(1 << i >> 1) + 1} tokens later make "
                f"charges cheaper, by {saved / log(2) / 8:,.0f} bytes in all: {audit.side_bytes} "
                "are told"
            )
    return ""


def cuts_of(audit: Audit, texts: Iterator[tuple[Tokens, Charges]], until: float, most: int) -> Cuts:
    """A cut at a random place of each text, in a style of its own, while there is time."""
    return _cuts_while(audit, texts, until, most, Cuts())


def first_cuts(audit: Audit, base: Charges, until: float, most: int) -> Cuts:
    """Cuts that each are the first call of a process; base: the first call on the unmodified text.

    A scorer that learns from the text in its first call has nothing to repeat later calls from: it
    must find the same charges again without what was changed. Every second cut is early (uniform in
    the log of its place), where most of the text changes.
    """
    texts = same_text(audit.subject.tokens, base)
    return _cuts_while(audit, texts, until, most, Cuts(first=True))


def _cuts_while(
    audit: Audit, texts: Iterator[tuple[Tokens, Charges]], until: float, most: int, result: Cuts
) -> Cuts:
    least = _FIRST_CUTS if result.first else 1
    for number, (tokens, base) in enumerate(texts):
        if result.draws >= most or (result.draws >= least and time.monotonic() > until):
            break
        if len(tokens) < 2 or result.order_moved:
            break
        k = int(audit.random.integers(1, len(tokens)))
        if result.first and number % 2 == 0:
            low = min(_EARLY, (len(tokens) + 1) // 2)
            k = int(low * (len(tokens) / low) ** audit.random.random())
        cut(audit, tokens, base, k, _STYLES[number % len(_STYLES)], result)
        result.length = max(result.length, len(tokens))
    return result


def same_text(tokens: Tokens, base: Charges) -> Iterator[tuple[Tokens, Charges]]:
    while True:
        yield tokens, base


def short_texts(audit: Audit, length: int, most: int) -> Iterator[tuple[Tokens, Charges]]:
    """Pieces of the text, each for four cuts."""
    for piece in slices(audit.subject, length, -(-most // 4), audit.random):
        base = audit.charges(piece)
        for _ in range(4):
            yield piece, base


def causal(audit: Audit, kinds: dict[str, Cuts], where: str) -> AuditFinding:
    """No charge depends on what comes later in the order. kinds: cuts of each kind, by its name."""
    strength = "; ".join(
        power.cuts(c.draws, c.length) + (_FRESH if c.first else "")
        for c in kinds.values()
        if c.draws
    )
    worst = max(kinds.values(), key=lambda c: c.largest)
    largest = worst.largest
    noise = f"; changes up to {largest:.1e} nats are put down to rounding" if largest else ""
    if largest > audit.tolerance:
        e = worst.evidence[0]
        summary = (
            f"the charge of token {e.position:,} went from {e.before:.4f} to {e.after:.4f} nats "
            f"when only tokens from {e.cause:,} on in the {where} order were changed (largest "
            f"change {largest:.3g} nats)" + (_FRESH if worst.first else "")
        )
        out = finding("causal", True, summary, worst.evidence, strength)
        return out.model_copy(update={"picture": worst.strip})
    for result in kinds.values():
        if summary := told_too_much(audit, result):
            return finding("causal", True, summary, [], strength)
    for kind, result in kinds.items():
        mean, z = helpful(result.small)
        if z > _Z:
            summary = (
                f"in the {kind}, earlier tokens get dearer by {mean:.2g} nats each when later ones "
                f"are changed: no rounding goes one way like that (z = {z:.1f})"
            )
            return finding("causal", True, summary, [], strength)
    return finding("causal", False, f"nothing earlier moved{noise}", [], strength)


# Order ------------------------------------------------------------------------------------------


def dependencies(
    audit: Audit, tokens: Tokens, base: Charges, natural: bool
) -> np.ndarray[Any, Any]:
    """bool[p, p]: entry a, b says that changing part a of the order moved a charge in part b."""
    order = np.arange(len(tokens)) if natural else order_of(base)
    parts = blocks(len(tokens), min(4 if audit.declared else _PARTS, len(tokens)))
    found = np.zeros((len(parts), len(parts)), bool)
    for a, (first, last) in enumerate(parts):
        new = tokens.copy()
        where = order[first:last]
        if audit.subject.bos_id is not None:
            where = where[tokens[where] != audit.subject.bos_id]
        new[where] = others(audit, tokens[where])
        moved = np.abs(audit.charges(new).nats - base.nats)[order] > audit.tolerance
        found[a] = [bool(moved[f:t].any()) for f, t in parts]
    return found


def coding_order(audit: Audit, base: Charges, moved: str, boundary: str) -> list[AuditFinding]:
    """Whether a decoder can run in the declared order, and whether that is left to right."""
    order = order_of(base)
    if not np.array_equal(np.sort(order), np.arange(len(order))):
        summary = "the declared order does not name every token once"
        return [finding("order", True, summary, [], "exact")]
    if moved:
        return [finding("order", True, moved + "; it does not know which", [], "random cuts")]
    piece = slices(audit.subject, audit.piece, 1, audit.random)[0] if not audit.declared else None
    tokens = audit.subject.tokens if piece is None else piece
    base = base if piece is None else audit.charges(piece)
    table = dependencies(audit, tokens, base, natural=False)
    drawn, strength = (
        picture(table),
        f"{len(table)} parts of {len(tokens):,} tokens, each changed once",
    )
    back = np.argwhere(np.tril(table, -1))
    paid = f"; {boundary}, {audit.side_bytes} bytes pay for them" if boundary else ""
    if back.size:
        circle = _circle(table)
        later, earlier = back[0] + 1
        summary = (
            f"part {later} of the text must be known before part {earlier} can be charged, and "
            + (f"parts {circle[0] + 1} and {circle[1] + 1} each need the other: no order of them "
               "can be decoded" if circle else "no order is declared in which that is so")
        )  # fmt: skip
        out = finding("order", True, summary, [], strength)
    elif not audit.declared:
        out = finding("order", False, f"left to right{paid}", [], strength)
    else:
        table = dependencies(audit, tokens, base, natural=True)
        straight = not np.tril(table, -1).any()
        kind = "left to right as well" if straight else "not left to right"
        out = finding(
            "order", False, f"the declared order is decodable, {kind}{paid}", [], strength
        )
    return [out.model_copy(update={"picture": drawn})]


def _circle(table: np.ndarray[Any, Any]) -> tuple[int, int] | None:
    """Two parts that need each other, directly or over others."""
    reach = table & ~np.eye(len(table), dtype=bool)
    for _ in range(len(table)):
        reach = reach | ((reach.astype(int) @ reach.astype(int)) > 0)
    both = np.argwhere(reach & reach.T & ~np.eye(len(table), dtype=bool))
    return (int(both[0][0]), int(both[0][1])) if both.size else None


def picture(table: np.ndarray[Any, Any]) -> str:
    """Rows: the part that was changed. Columns: # parts that moved. Below the diagonal: leaks."""
    rows = ["changed part ↓   moved parts →"]
    for a, row in enumerate(table):
        rows.append(
            f"{a + 1}  "
            + " ".join(("!" if b < a else "#") if x else "·" for b, x in enumerate(row))
        )
    return "\n".join(rows)


def documents(audit: Audit) -> AuditFinding | None:
    """Whether charges depend on earlier documents: allowed to a decoder, not by every rule."""
    bos = audit.subject.bos_id
    if bos is None:
        return None
    whole = audit.subject.tokens
    starts = np.flatnonzero(whole == bos)
    later = starts[(starts >= 8) & (starts < len(whole) - 1)]
    if not later.size:
        return None
    cuts = audit.random.permutation(later)[:3]
    crosses = []
    for at in cuts.tolist():
        before, after = whole[max(0, at - 1024) : at], whole[at : at + 256]
        tokens = np.concatenate([[bos], before[before != bos], after])
        place = len(tokens) - len(after)
        base = audit.charges(tokens).nats
        new = tokens.copy()
        new[1:place] = others(audit, tokens[1:place])
        change = np.abs(audit.charges(new).nats - base)[place + 1 :]
        crosses.append(float(change.max(initial=0.0)))
    strength = f"{len(cuts)} document starts"
    if max(crosses) > audit.tolerance:
        summary = f"causal, crosses documents: a charge moved by {max(crosses):.3g} nats"
        return finding("documents", None, summary, [], strength)
    return finding("documents", None, "documents are scored independently", [], strength)


# Own token --------------------------------------------------------------------------------------


def normalised(
    audit: Audit, base: Charges, suspects: list[int], until: float, most: int
) -> AuditFinding:
    """Σ over the vocabulary of exp(-charge) is one: whole sums where there is time, and bets.

    A whole sum sees the smallest excess, at one place; bets see it at all places (betting.py).
    """
    sums: list[tuple[int, float]] = []  # (place, sum)
    began = time.monotonic()
    while len(sums) < most and (found := whole_sum(audit, began + (until - began) / 4)):
        sums.append(found)
        if found[1] > 1 + betting.TOLERANCE:
            t, total = found
            summary = f"the probabilities of all that could stand at token {t:,} sum to {total:.4f}"
            evidence = [Evidence(position=t, before=1.0, after=total)]
            return finding("normalised", True, summary, evidence, "a sum over all tokens, exact")
    return _wagered(audit, base, suspects, until, sums)


def whole_sum(audit: Audit, until: float) -> tuple[int, float] | None:
    """(a random place, Σ of what could stand there), None if there is no time for so many calls.

    The text ends with the token, or goes on where the last one is not charged.
    """
    tokens, vocab = audit.subject.tokens, audit.subject.vocab_size
    t = int(audit.random.integers(1, len(tokens)))
    first = max(0, t - _CONTEXT)
    before = tokens[first:t] if not first else np.append(tokens[:1], tokens[first:t])
    for suffix in (tokens[:0], tokens[t + 1 : t + 1 + _CONTEXT]):
        text = np.concatenate([before, tokens[t : t + 1], suffix])
        began = time.monotonic()
        if not charged_probabilities(audit.charges(text))[len(before)]:
            continue
        if began + vocab * (time.monotonic() - began) > until:
            return None
        total = 0.0
        for token in audit.random.permutation(vocab).tolist():
            text[len(before)] = token
            total += float(charged_probabilities(audit.charges(text))[len(before)])
            if total > 1 + betting.TOLERANCE:
                break
            if time.monotonic() > until:
                return None
        return t, total
    return None


def charged_probabilities(found: Charges) -> Floats:
    """float64[N]: exp(-charge); 0 where it says that it did not charge."""
    times = np.ones(len(found.nats)) if found.times_charged is None else found.times_charged
    nats = np.where(times > 0, found.nats / np.maximum(times, 1), np.inf)
    return np.exp(-np.maximum(nats, -50.0))


def _wagered(
    audit: Audit, base: Charges, suspects: list[int], until: float, sums: list[tuple[int, float]]
) -> AuditFinding:
    """Bets against the scorer until one is won, or time or draws are over.

    In the whole text, so that places far from its beginning are tested as they are, and in one
    token over and over, where a scorer that learns differs most from one that did not.
    Suspicious: `suspects`, cheap ones, and those that paid most so far.
    """
    random, tokens, bos = audit.random, audit.subject.tokens, audit.subject.bos_id
    places = np.flatnonzero((tokens != bos) & (np.arange(len(tokens)) > 0))
    if not places.size:
        return finding("normalised", None, "there is nothing to test but boundaries", [], "none")
    known = tokens if audit.known is None else audit.known
    proposal = betting.Proposal(known, audit.subject.vocab_size, bos, random)
    bets, expected = betting.Bets(), np.exp(-base.nats)
    suspects = np.intersect1d(suspects, places)[:_SUSPECTS].tolist()
    cheap = places[np.argsort(base.nats[places])][:_CHEAP]
    paid = np.zeros((2, len(tokens)))  # the largest ratios: in the text, in one token
    slowest = [0.0, 0.0]  # seconds of a call on one token, on the text
    started, spent, slowest_first = time.monotonic(), 0.0, 0.0  # on first calls
    for gap in cycle(_GAPS):
        began = time.monotonic()
        if spent + slowest_first <= _FIRST_SHARE * (began - started):
            drawn = proposal.scattered(tokens, _GAPS[-1])
            new = tokens.copy()
            new[drawn], q = proposal.draw(tokens, drawn, expected[drawn])
            ratios = charged_probabilities(audit.first_charges(new))[drawn] / q
            bets.bet(betting.FIRST, ratios)
            paid[0, drawn] = np.maximum(paid[0, drawn], ratios)
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
        ratios = charged_probabilities(audit.charges(new))[drawn] / q
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
    return _bets_finding(bets, sums, paid, audit.subject.vocab_size)


def _bets_finding(
    bets: betting.Bets, sums: list[tuple[int, float]], paid: Floats, vocab: int
) -> AuditFinding:
    """paid float64[2, N]: the largest ratio at each place, of the text and of one token."""
    if bets.log_wealth > betting.WON:
        kind = bets.best
        mean, error = bets.mean(kind)
        summary = (
            f"the probabilities of what could stand {_WHERE[kind]} sum to {mean:.3g} ± {error:.2g} "
            "on average, by tokens drawn for it: a valid scorer looks like that with probability "
            f"below 1e-{min(int(bets.log_wealth / log(10)), 300)}"
        )
        paid = paid[int(kind == betting.REPEATED)]
        worst = np.argsort(-paid)[:4]
        evidence = [Evidence(position=int(t), before=1.0, after=float(paid[t])) for t in worst]
        strength = f"{bets.draws(kind):,} tokens drawn there"
        return finding("normalised", True, summary, evidence, strength)
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
    return finding("normalised", False, summary, [], strength)


def _excess(bets: betting.Bets, kind: int) -> str:
    """How large a mean excess would have been found."""
    drawn, excess = f"{bets.draws(kind):,} tokens drawn {_WHERE[kind]}", bets.excess(kind)
    if not np.isfinite(excess):
        return f"{drawn}, too few to find anything"
    return f"{drawn}: with probability about 0.99 sums {power.percent(excess)} too large on average"


def distributions(audit: Audit, length: int, until: float, most: int) -> AuditFinding:
    """Rows that the scorer offers: sums of one, the charges' own, and blind to their token."""
    rows_seen = own = 0
    for piece in slices(audit.subject, length, most, audit.random):
        if rows_seen and time.monotonic() > until:
            break
        base = audit.charges(piece)
        rows = audit.rows(piece)
        rows_seen += len(piece)
        sums = rows[1:].sum(1)
        own_p = rows[np.arange(len(piece)), piece]
        with np.errstate(divide="ignore"):
            apart = np.abs(-np.log(np.maximum(own_p, 0.0)) - base.nats)[1:]
        moved = [] if audit.declared else _rows_moved(audit, piece, rows)
        own += 0 if audit.declared else _OWN
        strength = (
            f"{rows_seen:,} rows ({power.percent(power.share(rows_seen))} of positions, scattered, "
            f"with probability 0.99); own token and later ones changed at {own} "
            f"({power.percent(power.share(own))})"
        )
        for wrong, what, before in (
            (np.abs(sums - 1) > betting.TOLERANCE, sums, 1.0),
            (apart > audit.tolerance, base.nats[1:], None),
        ):
            if wrong.any():
                t = int(np.flatnonzero(wrong)[0]) + 1
                expected = before if before is not None else float(-np.log(max(own_p[t], 1e-300)))
                evidence = [Evidence(position=t, before=expected, after=float(what[t - 1]))]
                said = "sums to" if before is not None else "is not what the token is charged by:"
                summary = f"the distribution of token {t} of a piece {said} {what[t - 1]:.4f}"
                return finding("normalised", True, summary, evidence, strength)
        if moved:
            t, k, before, after = moved[0]
            evidence = [Evidence(position=t, before=before, after=after, cause=k)]
            summary = f"the distribution of token {t} of a piece moved with tokens from {k} on"
            kind = "normalised" if t == k else "causal"
            return finding(kind, True, summary, evidence, strength)
    return finding("normalised", False, "every distribution sums to one", [], strength)


def _rows_moved(audit: Audit, piece: Tokens, rows: Floats) -> list[tuple[int, int, float, float]]:
    """Change a token and what follows it; the first row that moved, its own or an earlier one.

    (row, first token changed, a probability before, and after), at most one.
    """
    for _ in range(_OWN):
        k = int(audit.random.integers(1, len(piece)))
        new = changed(audit, piece, np.arange(k, len(piece)), "uniform")
        again = audit.rows(new)[: k + 1]
        moved = np.abs(again - rows[: k + 1]).max(1)
        if moved.max() > TOLERANCE:
            t = int(np.argmax(moved))
            v = int(np.argmax(np.abs(again[t] - rows[t])))
            return [(t, k, float(rows[t, v]), float(again[t, v]))]
    return []


# Again ------------------------------------------------------------------------------------------


def repeatable(audit: Audit, base: Charges) -> AuditFinding:
    """The same text is charged the same by the same process, and by one that never saw it.

    base is the first call of its process. The second process sees the text with another ending
    first: what it charges for the beginning cannot come from outside the text.
    """
    tokens = audit.subject.tokens
    again = audit.charges(tokens)
    noise = float(np.abs(again.nats - base.nats).max(initial=0.0))
    if not np.array_equal(order_of(again), order_of(base)):
        summary = "two calls on the same text took its tokens in different orders"
        return finding("order", True, summary, [], "2 calls, exact")
    strength = "the same text twice, and with another ending in a fresh process; all tokens"
    if noise > 10 * TOLERANCE:
        return _unlike(base.nats, again.nats, "two calls of one process", strength)
    audit.repeat_noise = min(noise, TOLERANCE)
    k = int(audit.random.integers(len(tokens) // 2, len(tokens)))
    new = changed(audit, tokens, order_of(base)[k:], "uniform")
    here, there = audit.charges(new).nats, audit.first_charges(new).nats
    if float(np.abs(here - there).max()) > audit.tolerance:
        return _unlike(
            here, there, "a process that had seen the text and one that had not", strength
        )
    said = "the same charges, to the bit" if not noise else f"the same up to {noise:.1e} nats"
    return finding("repeatable", False, said, [], strength)


def _unlike(one: Floats, two: Floats, who: str, strength: str) -> AuditFinding:
    worst = np.argsort(-np.abs(two - one))[:4]
    evidence = [Evidence(position=int(p), before=float(one[p]), after=float(two[p])) for p in worst]
    summary = f"{who} charged the same text differently, by up to {abs(two - one).max():.3g} nats"
    return finding("repeatable", True, summary, evidence, strength)


def prefix(audit: Audit, base: Charges) -> AuditFinding | None:
    """Whether the number of tokens matters: a decoder must then be told it."""
    n = len(audit.subject.tokens)
    if n < 4 or audit.declared:
        return None
    k = int(audit.random.integers(n // 4, n // 2 + 1))
    change = np.abs(audit.charges(audit.subject.tokens[:k]).nats - base.nats[:k])
    strength = "one text cut short; all tokens"
    if change.max() > audit.tolerance:
        p = int(np.argmax(change))
        summary = (
            f"cut to {k:,} tokens, the text's beginning is charged differently (token {p:,} by "
            f"{change[p]:.3g} nats): a decoder must be told the number of tokens"
        )
        return finding("length", None, summary, [], strength)
    return finding("length", None, "the number of tokens does not matter", [], strength)


def with_side(audit: Audit, base: Charges) -> None:
    """Note what the scorer declares about its order."""
    audit.declared = not np.array_equal(order_of(base), np.arange(len(base.nats)))
    audit.side_bytes = base.side_bytes
