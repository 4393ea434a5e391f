"""What all experiments share: the scorer under audit, changed texts, and findings.

Legend: N tokens, V vocabulary, k a position in the coding order. A change is a difference in nats
between two calls, for a token that two texts have in common together with all that comes before it
in the coding order. A valid scorer shows no change beyond rounding.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fairway.audit import Charges
from fairway.audit.audit_text import AuditText
from fairway.audit.scorer import Caller, Floats, Tokens
from fairway.errors import BadInput
from fairway.pipeline.command_results import AuditFinding, AuditResult, Evidence

TOLERANCE = 1e-3  # nats; rounding in float32 stays below a tenth of it


@dataclass
class Audit:
    """A scorer, a text, the time that is left, and what was found."""

    caller: Caller
    text: AuditText
    random: np.random.Generator
    until: float  # time.monotonic()
    calls: int = 0
    whole: AuditText | None = None  # what is scored but once, if `text` is its beginning
    known: Tokens | None = None  # all of the text, if `text` is its beginning; never scored
    piece: int = 1024  # tokens of a short text
    repeat_noise: float = 0.0
    declared: bool = False  # an order other than left to right
    side_bytes: int = 0
    progress: Callable[[], None] = lambda: None  # is told of every call
    findings: list[AuditFinding] = field(default_factory=list)

    def score(self, tokens: Tokens, caller: Caller | None = None) -> Charges:
        """Return what the scorer charges for tokens, int64[N]."""
        self.calls += 1
        self.progress()
        return (caller or self.caller).score(tokens)

    def score_first(self, tokens: Tokens) -> Charges:
        """Return what a process charges that never saw another text, as a score is computed."""
        other = self.caller.restarted()
        try:
            return self.score(tokens, other)
        finally:
            if other is not self.caller:
                other.close()

    def rows(self, tokens: Tokens) -> Floats:
        """Return the distributions that the scorer offers, float64[N, V]. Raises BadInput."""
        rows = self.caller.distributions(tokens)
        if rows.shape[1] <= (largest := int(tokens.max())):
            raise BadInput(
                f"scorer.distributions returned {rows.shape[1]} columns for a text with token "
                f"{largest}: it must return a column for each token of the vocabulary"
            )
        return rows

    @property
    def tolerance(self) -> float:
        """Return the smallest change that counts, in nats."""
        return max(TOLERANCE, 10 * self.repeat_noise)

    def share_of_time(self, share: float) -> float:
        """Return when a share of the remaining time will be over, of time.monotonic()."""
        now = time.monotonic()
        return now + share * max(0.0, self.until - now)

    def add(self, *findings: AuditFinding) -> None:
        """Add findings."""
        self.findings += findings


def order_of(charges: Charges) -> Tokens:
    """Return positions in the coding order, int64[N]."""
    return np.arange(len(charges.nats)) if charges.order is None else np.asarray(charges.order)


def finding(
    condition: str,
    broken: bool | None,
    summary: str,
    strength: str,
    evidence: Sequence[Evidence] = (),
    picture: str = "",
) -> AuditFinding:
    """Return a finding. broken: None notes something that neither holds nor is broken."""
    verdict = "noted" if broken is None else "broken" if broken else "holds"
    return AuditFinding(
        condition=condition, verdict=verdict, summary=summary, evidence=list(evidence),
        power=strength, picture=picture,
    )  # fmt: skip


def result_of(subject: str, findings: list[AuditFinding], began: float) -> AuditResult:
    """Return the result of an audit that runs no foreign code. began: of time.monotonic()."""
    valid = all(found.verdict != "broken" for found in findings)
    seconds = time.monotonic() - began
    return AuditResult(subject=subject, valid=valid, findings=findings, seconds=seconds)


def evidence_of(
    positions: Iterable[int], before: ArrayLike, after: ArrayLike, cause: int = -1
) -> list[Evidence]:
    """Return the values at positions before and after a change; a number stands for all of [N]."""

    def at(values: Any, position: int) -> float:
        return float(values[position] if np.ndim(values) else values)

    return [
        Evidence(position=p, before=at(before, p), after=at(after, p), cause=cause)
        for p in map(int, positions)
    ]


def others(audit: Audit, tokens: Tokens) -> Tokens:
    """Return int64[n] tokens that differ from tokens[n], none of them a boundary."""
    vocab, bos = audit.text.vocab_size, audit.text.bos_id
    drawn = audit.random.integers(0, vocab, len(tokens))
    for _ in range(100):
        wrong = (drawn == tokens) | (drawn == (-1 if bos is None else bos))
        if not wrong.any():
            break
        drawn[wrong] = audit.random.integers(0, vocab, int(wrong.sum()))
    return drawn


def changed(audit: Audit, tokens: Tokens, later: Tokens, style: str) -> Tokens:
    """Return tokens with others at the positions `later`.

    Boundaries stay, except in the style "boundaries".
    """
    new, bos = tokens.copy(), audit.text.bos_id
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
