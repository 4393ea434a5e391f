"""Test whether a decoder can follow the coding order, and note what it must be told."""

from __future__ import annotations

from typing import Any

import numpy as np

from fairway.audit import Charges
from fairway.audit.audit_text import blocks, slices
from fairway.audit.experiment import Audit, finding, order_of, others
from fairway.audit.scorer import Tokens
from fairway.pipeline.command_results import AuditFinding

_PARTS = 8  # of the dependency picture


def coding_order(audit: Audit, base: Charges, moved: str, boundary: str) -> AuditFinding:
    """Test whether a decoder can run in the declared order, and whether that is left to right."""
    order = order_of(base)
    if not np.array_equal(np.sort(order), np.arange(len(order))):
        summary = "the declared order does not name every token once"
        return finding("order", True, summary, "exact")
    if moved:
        return finding("order", True, moved + "; it does not know which", "random cuts")
    piece = slices(audit.text, audit.piece, 1, audit.random)[0] if not audit.declared else None
    tokens = audit.text.tokens if piece is None else piece
    base = base if piece is None else audit.score(piece)
    table = dependencies(audit, tokens, base, natural=False)
    drawn = picture(table)
    strength = f"{len(table)} parts of {len(tokens):,} tokens, each changed once"
    back = np.argwhere(np.tril(table, -1))
    paid = f"; {boundary}, {audit.side_bytes} bytes pay for them" if boundary else ""
    if back.size:
        circle = _circle(table)
        later, earlier = back[0] + 1
        said = (
            f"part {later} of the text must be known before part {earlier} can be charged, and "
            + (f"parts {circle[0] + 1} and {circle[1] + 1} each need the other: no order of them "
               "can be decoded" if circle else "no order is declared in which that is so")
        )  # fmt: skip
    elif not audit.declared:
        said = f"left to right{paid}"
    else:
        table = dependencies(audit, tokens, base, natural=True)
        kind = "not left to right" if np.tril(table, -1).any() else "left to right as well"
        said = f"the declared order is decodable, {kind}{paid}"
    return finding("order", bool(back.size), said, strength, picture=drawn)


def dependencies(
    audit: Audit, tokens: Tokens, base: Charges, natural: bool
) -> np.ndarray[Any, Any]:
    """Return bool[p, p]: whether changing part a of the order moved a charge in part b."""
    order = np.arange(len(tokens)) if natural else order_of(base)
    parts = blocks(len(tokens), min(4 if audit.declared else _PARTS, len(tokens)))
    table = np.zeros((len(parts), len(parts)), bool)
    for a, (first, last) in enumerate(parts):
        new = tokens.copy()
        where = order[first:last]
        if audit.text.bos_id is not None:
            where = where[tokens[where] != audit.text.bos_id]
        new[where] = others(audit, tokens[where])
        moved = np.abs(audit.score(new).nats - base.nats)[order] > audit.tolerance
        table[a] = [bool(moved[f:t].any()) for f, t in parts]
    return table


def _circle(table: np.ndarray[Any, Any]) -> tuple[int, int] | None:
    """Return two parts that need each other, directly or through others."""
    reach = table & ~np.eye(len(table), dtype=bool)
    for _ in range(len(table)):
        reach = reach | ((reach.astype(int) @ reach.astype(int)) > 0)
    both = np.argwhere(reach & reach.T & ~np.eye(len(table), dtype=bool))
    return (int(both[0][0]), int(both[0][1])) if both.size else None


def picture(table: np.ndarray[Any, Any]) -> str:
    """Draw a table. Rows: the part that was changed. Columns: # parts that moved, ! leaks."""
    rows = ["changed part ↓   moved parts →"]
    for a, row in enumerate(table):
        rows.append(
            f"{a + 1}  "
            + " ".join(("!" if b < a else "#") if x else "·" for b, x in enumerate(row))
        )
    return "\n".join(rows)


def documents(audit: Audit) -> AuditFinding | None:
    """Note whether charges depend on earlier documents: a decoder may do this, not every rule."""
    bos = audit.text.bos_id
    if bos is None:
        return None
    whole = audit.text.tokens
    starts = np.flatnonzero(whole == bos)
    later = starts[(starts >= 8) & (starts < len(whole) - 1)]
    if not later.size:
        return None
    cuts = audit.random.permutation(later)[:3]
    crosses = []
    for at in cuts.tolist():
        before, after = whole[max(0, at - 1024) : at], whole[at : at + 256]
        tokens = np.concatenate([[bos], before[before != bos], after])
        start = len(tokens) - len(after)
        base = audit.score(tokens).nats
        new = tokens.copy()
        new[1:start] = others(audit, tokens[1:start])
        change = np.abs(audit.score(new).nats - base)[start + 1 :]
        crosses.append(float(change.max(initial=0.0)))
    strength = f"{len(cuts)} document starts"
    if max(crosses) > audit.tolerance:
        summary = f"causal, crosses documents: a charge moved by {max(crosses):.3g} nats"
        return finding("documents", None, summary, strength)
    return finding("documents", None, "documents are scored independently", strength)


def prefix(audit: Audit, base: Charges) -> AuditFinding | None:
    """Note whether the number of tokens matters: a decoder must then be told it."""
    n = len(audit.text.tokens)
    if n < 4 or audit.declared:
        return None
    k = int(audit.random.integers(n // 4, n // 2 + 1))
    change = np.abs(audit.score(audit.text.tokens[:k]).nats - base.nats[:k])
    strength = "one text cut short; all tokens"
    if change.max() > audit.tolerance:
        p = int(np.argmax(change))
        summary = (
            f"cut to {k:,} tokens, the text's beginning is charged differently (token {p:,} by "
            f"{change[p]:.3g} nats): a decoder must be told the number of tokens"
        )
        return finding("length", None, summary, strength)
    return finding("length", None, "the number of tokens does not matter", strength)
