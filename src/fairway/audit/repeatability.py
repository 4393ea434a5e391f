"""Test that the same text gets the same charges, in every call and in every process."""

from __future__ import annotations

import numpy as np

from fairway.audit import Charges
from fairway.audit.experiment import TOLERANCE, Audit, changed, evidence_of, finding, order_of
from fairway.audit.scorer import Floats
from fairway.pipeline.command_results import AuditFinding


def repeatable(audit: Audit, base: Charges) -> AuditFinding:
    """Test that two calls agree, in one process and in a process that never saw the text.

    base is the first call of its process. The second process sees the text with another ending
    first, so its charges for the beginning cannot come from outside the text.
    """
    tokens = audit.text.tokens
    again = audit.score(tokens)
    noise = float(np.abs(again.nats - base.nats).max(initial=0.0))
    if not np.array_equal(order_of(again), order_of(base)):
        summary = "two calls on the same text took its tokens in different orders"
        return finding("order", True, summary, "2 calls, exact")
    strength = "the same text twice, and with another ending in a fresh process; all tokens"
    if noise > 10 * TOLERANCE:
        return _unlike(base.nats, again.nats, "two calls of one process", strength)
    audit.repeat_noise = min(noise, TOLERANCE)
    k = int(audit.random.integers(len(tokens) // 2, len(tokens)))
    new = changed(audit, tokens, order_of(base)[k:], "uniform")
    known, fresh = audit.score(new).nats, audit.score_first(new).nats
    if float(np.abs(known - fresh).max()) > audit.tolerance:
        who = "a process that had seen the text and one that had not"
        return _unlike(known, fresh, who, strength)
    said = "the same charges, to the bit" if not noise else f"the same up to {noise:.1e} nats"
    return finding("repeatable", False, said, strength)


def _unlike(one: Floats, two: Floats, who: str, strength: str) -> AuditFinding:
    """Return the finding that two calls differ."""
    evidence = evidence_of(np.argsort(-np.abs(two - one))[:4], one, two)
    summary = f"{who} charged the same text differently, by up to {abs(two - one).max():.3g} nats"
    return finding("repeatable", True, summary, strength, evidence)
