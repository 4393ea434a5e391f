"""Test what a score is made of: each token is charged once, and the bytes are the text's."""

from __future__ import annotations

from math import log

import numpy as np

from fairway.audit.experiment import Audit, finding, others
from fairway.audit.scorer import Charges, Floats, Tokens
from fairway.pipeline.results import AuditFinding, Evidence

_TOTAL_TOLERANCE = 1e-5  # of totals, relative: sums in float32


def coverage(audit: Audit, charges: Charges) -> AuditFinding:
    """Test that each token is charged once, the first at most once, and that totals are sums."""
    nats, times, tokens = charges.nats, charges.times_charged, audit.text.tokens
    strength = f"all of {len(tokens):,} tokens, exact"
    if times is not None:
        wrong = np.flatnonzero(times[1:] != 1) + 1
        if wrong.size or times[0] not in (0, 1):
            positions = wrong if wrong.size else np.zeros(1, np.int64)
            summary = (
                f"{len(positions):,} of {len(tokens):,} tokens are not charged exactly once: "
                f"tokens {_runs(positions)}"
            )
            some = [
                Evidence(position=int(p), before=1.0, after=float(times[p])) for p in positions[:8]
            ]
            return finding("coverage", True, summary, some, strength)
        charged = int(times.sum())
        if charges.total_tokens is not None and charges.total_tokens != charged:
            summary = (
                f"the score counts {charges.total_tokens:,} tokens, and {charged:,} are charged"
            )
            return finding("coverage", True, summary, [], strength)
    elif charges.total_tokens not in (None, len(nats), len(nats) - 1):
        summary = f"the score counts {charges.total_tokens:,} tokens of {len(nats):,}"
        return finding("coverage", True, summary, [], strength)
    if charges.side_bytes and charges.total_nats is None:
        summary = f"{charges.side_bytes:,} side bytes are declared, and no total that pays for them"
        return finding("coverage", True, summary, [], strength)
    total = float(nats.sum()) + 8 * log(2) * charges.side_bytes
    if charges.total_nats is not None and (
        abs(charges.total_nats - total) > _TOTAL_TOLERANCE * max(abs(total), 1.0)
    ):
        summary = (
            f"the score's total is {charges.total_nats:.6g} nats, its parts sum to {total:.6g}"
        )
        evidence = [Evidence(position=-1, before=total, after=charges.total_nats)]
        return finding("coverage", True, summary, evidence, strength)
    free = _uncharged(audit, nats)
    if free:
        summary = f"tokens {_runs(np.array(free))} cost nothing, whatever stands there"
        some = [Evidence(position=p, before=0.0, after=0.0) for p in free[:8]]
        return finding("coverage", True, summary, some, strength)
    return finding("coverage", False, "each token is charged once", [], strength)


def _uncharged(audit: Audit, nats: Floats) -> list[int]:
    """Return positions that cost 0, and still do with other tokens in them."""
    suspects = np.flatnonzero(nats == 0.0)
    suspects = suspects[suspects > 0]
    for _ in range(3):
        if not suspects.size:
            break
        tokens = audit.text.tokens.copy()
        tokens[suspects] = others(audit, tokens[suspects])
        suspects = suspects[audit.score(tokens).nats[suspects] == 0.0]
    return [int(p) for p in suspects]


def probabilities(charges: Charges) -> AuditFinding | None:
    """Return a finding if a token is charged less than nothing."""
    positions = np.flatnonzero(charges.nats < -1e-5)
    if not positions.size:
        return None
    worst = positions[np.argsort(charges.nats[positions])][:8]
    evidence = [Evidence(position=int(p), before=0.0, after=float(charges.nats[p])) for p in worst]
    summary = f"{len(positions):,} tokens have a negative charge, that is a probability above one"
    return finding("normalised", True, summary, evidence, "all tokens, exact")


def byte_count(audit: Audit, charges: Charges) -> AuditFinding:
    """Test that the denominator is the length of what the tokens decode to."""
    text = audit.text
    strength = f"all of {len(text.tokens):,} tokens, exact"
    if text.loss:
        summary = f"the tokens do not restore the text: {text.loss}"
        return finding("bytes", True, summary, [], strength)
    if text.lengths is None:
        return finding("bytes", None, "not tested: give --tokenizer", [], "none")
    length = int(text.lengths.sum())
    if charges.bytes is not None:
        wrong = np.flatnonzero(charges.bytes != text.lengths)
        counted = int(charges.bytes.sum())
        if wrong.size and not (charges.times_charged is not None and counted == length):
            some = [
                Evidence(
                    position=int(p), before=float(text.lengths[p]), after=float(charges.bytes[p])
                )
                for p in wrong[:8]
            ]
            summary = (
                f"{len(wrong):,} tokens count other bytes than they write; "
                f"{counted:,} in all, the text has {length:,} ({counted / length - 1:+.2%})"
            )
            return finding("bytes", True, summary, some, strength)
    total = charges.total_bytes
    if total is not None and total != length:
        summary = f"the score divides by {total:,} bytes, the text has {length:,}"
        evidence = [Evidence(position=-1, before=float(length), after=float(total))]
        return finding("bytes", True, summary, evidence, strength)
    if charges.bytes is None and total is None:
        summary = f"the scorer counts no bytes; the text has {length:,} ({text.rule})"
        return finding("bytes", None, summary, [], "none")
    return finding("bytes", False, f"{length:,} bytes: {text.rule}", [], strength)


def _runs(positions: Tokens) -> str:
    """Return positions in short: 3, 5 to 9, ..."""
    cuts = np.flatnonzero(np.diff(positions) != 1) + 1
    runs = [(int(r[0]), int(r[-1])) for r in np.split(positions, cuts)]
    shown = [f"{a}" if a == b else f"{a} to {b}" for a, b in runs[:4]]
    return ", ".join(shown) + (f" and {len(runs) - 4} more runs" if len(runs) > 4 else "")
