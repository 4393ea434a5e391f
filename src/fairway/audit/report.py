"""Print an audit: findings, their power, and pictures of where the evidence lies."""

from __future__ import annotations

from fairway import console
from fairway.pipeline.command_results import AuditFinding, AuditResult

_MARKS = {"holds": "holds", "broken": "BROKEN", "noted": "noted"}
_STRIP = "the text: # moved, · did not, | the cut, ~ was changed"


def show(result: AuditResult) -> None:
    """Print it."""
    for finding in result.findings:
        console.result("")
        console.result(f"{_MARKS[finding.verdict]:<7} {finding.condition}: {finding.summary}")
        console.result(f"        power: {finding.power}")
        for line in _evidence(finding):
            console.result(f"        {line}")
    console.result("")
    order = {"": "", "left-to-right": ", left to right", "declared": ", in its declared order"}
    verdict = "valid as far as tested" if result.valid else "NOT VALID"
    console.result(
        f"{result.subject}: {verdict}{order.get(result.order, '')}; {result.tokens:,} tokens, "
        f"{result.calls:,} calls, {result.seconds:.0f} s"
        + (f"; ran {result.isolation}" if result.isolation else "")
    )
    if result.valid and result.calls:
        console.result(
            f"found nothing in {result.seconds:.0f} s: the powers above say how rare a fault may "
            "still be; --minutes finds rarer ones"
        )
    if result.valid:
        console.result("what a pass means, and what it cannot show: docs/validity.md")


def _evidence(finding: AuditFinding) -> list[str]:
    lines = [
        f"token {e.position:,}: {e.before:.6g} → {e.after:.6g}"
        + (f"  (changed from token {e.cause:,} on)" if e.cause >= 0 else "")
        for e in finding.evidence
        if e.position >= 0 and f"{e.before:.6g}" != f"{e.after:.6g}"
    ]
    picture = finding.picture.splitlines()
    return lines + ([_STRIP] if len(picture) == 1 else []) + picture
