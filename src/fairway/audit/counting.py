"""Test what a score is made of: each token is charged once, and the bytes are the text's."""

from __future__ import annotations

from collections.abc import Iterator
from math import log

import numpy as np

from fairway.audit import Charges
from fairway.audit.experiment import Audit, evidence_of, finding, others
from fairway.audit.scorer import Floats, Tokens
from fairway.pipeline.command_results import AuditFinding, Evidence

_TOTAL_TOLERANCE = 1e-5  # of totals, relative: sums in float32


def coverage(audit: Audit, charges: Charges) -> AuditFinding:
    """Test that each token is charged once, the first at most once, and that totals are sums."""
    strength = f"all of {len(audit.text.tokens):,} tokens, exact"
    for summary, evidence in _miscounts(audit, charges):
        return finding("coverage", True, summary, strength, evidence)
    return finding("coverage", False, "each token is charged once", strength)


def _miscounts(audit: Audit, charges: Charges) -> Iterator[tuple[str, list[Evidence]]]:
    """Yield what is wrong with the counts and totals of a score, and its evidence."""
    times, told = charges.times_charged, charges.total_tokens
    count = len(charges.nats)
    charged = [count, count - 1]
    if times is not None:
        wrong = np.flatnonzero(times != 1)
        wrong = wrong[(wrong > 0) | (times[wrong] != 0)]
        if wrong.size:
            yield (
                f"{len(wrong):,} of {count:,} tokens are not charged exactly once: tokens "
                f"{_runs(wrong)}",
                evidence_of(wrong[:8], 1.0, times),
            )
        charged = [int(times.sum())]
    if told is not None and told not in charged:
        yield f"the score counts {told:,} tokens, and {charged[0]:,} are charged", []
    if charges.side_bytes and charges.total_nats is None:
        yield f"{charges.side_bytes:,} side bytes are declared, and no total that pays for them", []
    total = float(charges.nats.sum()) + 8 * log(2) * charges.side_bytes
    stated = total if charges.total_nats is None else charges.total_nats
    if abs(stated - total) > _TOTAL_TOLERANCE * max(abs(total), 1.0):
        summary = f"the score's total is {stated:.6g} nats, its parts sum to {total:.6g}"
        yield summary, evidence_of([-1], total, stated)
    free = _uncharged(audit, charges.nats)
    if free.size:
        summary = f"tokens {_runs(free)} cost nothing, whatever stands there"
        yield summary, evidence_of(free[:8], 0.0, 0.0)


def _uncharged(audit: Audit, nats: Floats) -> Tokens:
    """Return positions that cost 0, and still do with other tokens in them."""
    suspects = np.flatnonzero(nats == 0.0)
    suspects = suspects[suspects > 0]
    for _ in range(3):
        if not suspects.size:
            break
        tokens = audit.text.tokens.copy()
        tokens[suspects] = others(audit, tokens[suspects])
        suspects = suspects[audit.score(tokens).nats[suspects] == 0.0]
    return suspects


def probabilities(charges: Charges) -> AuditFinding | None:
    """Return a finding if a token is charged less than nothing."""
    positions = np.flatnonzero(charges.nats < -1e-5)
    if not positions.size:
        return None
    worst = positions[np.argsort(charges.nats[positions])][:8]
    evidence = evidence_of(worst, 0.0, charges.nats)
    summary = f"{len(positions):,} tokens have a negative charge, that is a probability above one"
    return finding("normalised", True, summary, "all tokens, exact", evidence)


def byte_count(audit: Audit, charges: Charges) -> AuditFinding:
    """Test that the denominator is the length of what the tokens decode to."""
    text = audit.text
    strength = f"all of {len(text.tokens):,} tokens, exact"
    if text.loss:
        summary = f"the tokens do not restore the text: {text.loss}"
        return finding("bytes", True, summary, strength)
    if text.lengths is None:
        return finding("bytes", None, "not tested: give --tokenizer", "none")
    length = int(text.lengths.sum())
    if charges.bytes is not None:
        wrong = np.flatnonzero(charges.bytes != text.lengths)
        counted = int(charges.bytes.sum())
        if wrong.size and not (charges.times_charged is not None and counted == length):
            summary = (
                f"{len(wrong):,} tokens count other bytes than they write; "
                f"{counted:,} in all, the text has {length:,} ({counted / length - 1:+.2%})"
            )
            evidence = evidence_of(wrong[:8], text.lengths, charges.bytes)
            return finding("bytes", True, summary, strength, evidence)
    total = charges.total_bytes
    if total is not None and total != length:
        summary = f"the score divides by {total:,} bytes, the text has {length:,}"
        evidence = evidence_of([-1], length, total)
        return finding("bytes", True, summary, strength, evidence)
    if charges.bytes is None and total is None:
        summary = f"the scorer counts no bytes; the text has {length:,} ({text.rule})"
        return finding("bytes", None, summary, "none")
    return finding("bytes", False, f"{length:,} bytes: {text.rule}", strength)


def _runs(positions: Tokens) -> str:
    """Return positions in short: 3, 5 to 9, ..."""
    cuts = np.flatnonzero(np.diff(positions) != 1) + 1
    runs = [(int(r[0]), int(r[-1])) for r in np.split(positions, cuts)]
    shown = [f"{a}" if a == b else f"{a} to {b}" for a, b in runs[:4]]
    return ", ".join(shown) + (f" and {len(runs) - 4} more runs" if len(runs) > 4 else "")
