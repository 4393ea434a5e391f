"""Test that no charge looks ahead: later tokens change, earlier charges must not.

Rounding. A change counts from TOLERANCE on, or from ten times the difference of two calls on the
same text. A smaller change counts only if it helps: a leak makes the past cheaper when the future
is the true one, while rounding goes both ways. So the mean change per position, over blocks of 64
positions, must be above zero by 6 of its standard errors.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import log, sqrt
from typing import Any

import numpy as np

from fairway.audit import Charges, power
from fairway.audit.audit_text import blocks, slices
from fairway.audit.experiment import Audit, changed, evidence_of, finding, order_of
from fairway.audit.scorer import Floats, Tokens
from fairway.pipeline.command_results import AuditFinding, Evidence

# Later boundaries may save twice what `side_bytes` pay for them, at 2.5 standard errors.
_TOLD, _TOLD_Z = 2, 2.5
_BLOCK, _Z = 64, 6.0  # positions per block of small changes; standard errors from which they count
_STYLES = ("shuffled", "uniform", "one token", "repeated", "boundaries")
_FIRST_CALL = ", each the first call of a process"
_FIRST_CUTS, _EARLY = 2, 16  # the least cuts in first calls; the earliest position of early ones


@dataclass
class Cuts:
    """Results of all cuts of one kind. Positions are positions in the coding order."""

    first: bool = False  # each cut is the first call of a process of its own
    draws: int = 0
    length: int = 0
    largest: float = 0.0
    evidence: list[Evidence] = field(default_factory=list)
    picture: str = ""  # of the worst cut
    small: list[Floats] = field(default_factory=list)  # changes below the tolerance, by position
    unmoved: list[int] = field(default_factory=list)  # positions that charge any token the same
    order_moved: str = ""
    boundary: str = ""  # what later boundaries change
    boundary_changes: list[Floats] = field(default_factory=list)  # by distance


def cut(audit: Audit, tokens: Tokens, base: Charges, k: int, style: str, result: Cuts) -> None:
    """Change the tokens from position k of the order on, and compare the charges before it."""
    order = order_of(base)
    new = changed(audit, tokens, order[k:], style)
    again = audit.score_first(new) if result.first else audit.score(new)
    result.draws += 1
    moved = order_of(again)[: k + 1] != order[: k + 1]
    past = order[:k]
    change = (again.nats - base.nats)[past]
    if style == "boundaries" and audit.side_bytes:  # told, and paid for
        if not moved.any():
            result.boundary_changes.append(by_distance(change))
        if moved.any() or (np.abs(change) > audit.tolerance).any():
            result.boundary = "the order depends on document boundaries that come later"
        return
    if moved.any():
        position = int(np.flatnonzero(moved)[0])
        result.order_moved = (
            f"with other tokens from place {k:,} of the order on, a decoder would have to take "
            f"another token at place {position:,}"
        )
        return
    size = np.abs(change)
    if size.size and float(size.max()) > max(result.largest, audit.tolerance):
        worst = np.argsort(-size)[:4]
        result.evidence = evidence_of(past[worst], base.nats, again.nats, int(order[k]))
        result.picture = strip(size > audit.tolerance, k, len(tokens))
    result.largest = max(result.largest, float(size.max(initial=0.0)))
    if size.any():
        result.small.append(np.pad(change, (0, len(tokens) - k), constant_values=np.nan))
    if style in ("shuffled", "uniform"):
        same = (
            (again.nats == base.nats) & (new != tokens) & (base.nats < log(audit.text.vocab_size))
        )
        result.unmoved += np.flatnonzero(same)[:4].tolist()


def strip(moved: np.ndarray[Any, Any], k: int, count: int, width: int = 64) -> str:
    """Draw the text as one line: # moved, · did not, | the cut, ~ was changed."""
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
    """Return the mean change per position and its z, of changes too small to count one by one."""
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
    """Return the mean change 1, 2, 3-4, 5-8 ... tokens before a cut, float64[64]; NaN for none."""
    means = np.full(64, np.nan)
    back = change[::-1]
    for i in range(len(back).bit_length()):
        means[i] = back[(1 << i) >> 1 : 1 << i].mean()
    return means


def told_too_much(audit: Audit, cuts: Cuts) -> str:
    """Return what later boundaries save, if that is more than `side_bytes` pay for; else "".

    Summed over all positions of the text, the next boundary saves at one distance at most what
    boundaries save there in all.
    """
    paid, rows = 8 * log(2) * audit.side_bytes, np.array(cuts.boundary_changes)
    if len(rows) < 8:
        return ""
    for i, column in enumerate(rows.T):
        known = column[~np.isnan(column)]
        if len(known) < 8:
            continue
        mean, error = float(known.mean()), float(known.std(ddof=1)) / sqrt(len(known))
        saved = mean * len(audit.text.tokens)
        if saved > _TOLD * paid and mean > _TOLD_Z * error:
            return (
                f"document boundaries that come about {(1 << i >> 1) + 1} tokens later make "
                f"charges cheaper, by {saved / log(2) / 8:,.0f} bytes in all: {audit.side_bytes} "
                "are told"
            )
    return ""


def cuts_of(
    audit: Audit,
    texts: Iterable[tuple[Tokens, Charges]],
    until: float,
    most: int,
    first: bool = False,
) -> Cuts:
    """Cut each text at a random position, in styles by turns, while there is time.

    first: in first calls of processes; then a text's charges are those of a first call, too. A
    scorer that learns the text in its first call cannot repeat it in another process: there it
    must find the same charges without what was changed. Every second cut is early (uniform in the
    log of its position), where most of the text changes.
    """
    result, least = Cuts(first=first), _FIRST_CUTS if first else 1
    for number, (tokens, base) in enumerate(texts):
        if result.draws >= most or (result.draws >= least and time.monotonic() > until):
            break
        if len(tokens) < 2 or result.order_moved:
            break
        k = int(audit.random.integers(1, len(tokens)))
        if first and number % 2 == 0:
            low = min(_EARLY, (len(tokens) + 1) // 2)
            k = int(low * (len(tokens) / low) ** audit.random.random())
        cut(audit, tokens, base, k, _STYLES[number % len(_STYLES)], result)
        result.length = max(result.length, len(tokens))
    return result


def short_texts(audit: Audit, length: int, most: int) -> Iterator[tuple[Tokens, Charges]]:
    """Yield pieces of the text, each for four cuts."""
    for piece in slices(audit.text, length, -(-most // 4), audit.random):
        base = audit.score(piece)
        for _ in range(4):
            yield piece, base


def causal(audit: Audit, kinds: dict[str, Cuts], where: str) -> AuditFinding:
    """Test that no charge depends on later tokens. kinds: the cuts of each kind, by name."""
    strength = "; ".join(
        power.cuts(c.draws, c.length) + (_FIRST_CALL if c.first else "")
        for c in kinds.values()
        if c.draws
    )
    worst = max(kinds.values(), key=lambda c: c.largest)
    for summary, cuts in _leaks(audit, kinds, worst, where):
        return finding("causal", True, summary, strength, cuts.evidence, cuts.picture)
    noise = f"; changes up to {worst.largest:.1e} nats are put down to rounding"
    said = f"nothing earlier moved{noise if worst.largest else ''}"
    return finding("causal", False, said, strength)


def _leaks(
    audit: Audit, kinds: dict[str, Cuts], worst: Cuts, where: str
) -> Iterator[tuple[str, Cuts]]:
    """Yield what shows that charges look ahead, and the cuts with its evidence."""
    if worst.largest > audit.tolerance:
        e = worst.evidence[0]
        yield (
            f"the charge of token {e.position:,} went from {e.before:.4f} to {e.after:.4f} nats "
            f"when only tokens from {e.cause:,} on in the {where} order were changed (largest "
            f"change {worst.largest:.3g} nats)" + (_FIRST_CALL if worst.first else ""),
            worst,
        )
    for kind, cuts in kinds.items():
        if summary := told_too_much(audit, cuts):
            yield summary, Cuts()
        mean, z = helpful(cuts.small)
        if z > _Z:
            yield (
                f"in the {kind}, earlier tokens get dearer by {mean:.2g} nats each when later ones "
                f"are changed: no rounding goes one way like that (z = {z:.1f})",
                Cuts(),
            )
