"""The command `audit`: every experiment on one scorer, within the time given."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np

from fairway import console
from fairway.audit import Charges, causality, counting, normalisation, ordering, repeatability
from fairway.audit.audit_text import AuditText, of_shard, of_text, open_tokenizer, shortened
from fairway.audit.causality import Cuts
from fairway.audit.experiment import Audit, order_of
from fairway.audit.sandbox import Child, Limits, Walls
from fairway.audit.scorer import Caller
from fairway.errors import BadInput
from fairway.pipeline.command_results import AuditResult

_PROBES = (256, 1024)  # tokens, to see how fast the scorer is before it gets the text
_WHOLE = 1 / 14  # of the time, for one call on the whole text
_ONCE = 1 / 4  # of the time, for the one call that shows coverage and bytes
_PIECE, _OF_PIECE = 1024, 1 / 60  # tokens of a short text, and of the time for one call on it
_FAR, _NEAR, _SUMS, _SLICES, _FIRST = 24, 320, 24, 64, 24  # the most experiments of a kind


@dataclass(frozen=True)
class Wanted:
    """What the command line asks for."""

    text: Path | None
    tokenizer: Path | None
    tokens: Path | None
    minutes: float
    seed: int
    readable: list[Path]
    memory_bytes: int
    gpu: bool = False
    trusted: bool = False  # also where nothing keeps it from the user's files


def audit_scorer(name: str, wanted: Wanted) -> AuditResult:
    """Audit `FILE.py:FUNCTION` in a process of its own; its start counts. Raises BadInput."""
    began = time.monotonic()
    text = text_of(wanted)
    hidden = [p for p in (wanted.text, wanted.tokens) if p is not None]
    limits = Limits(call_s=60 * wanted.minutes, memory_bytes=wanted.memory_bytes)
    console.say(f"{name} is foreign code: it runs in processes of its own, behind these walls")
    walls = Walls(gpu=wanted.gpu, trusted=wanted.trusted)
    child = Child(name, hidden, wanted.readable, limits, walls)
    for line in child.isolation.lines():
        console.say(f"  {line}")
    isolation = child.isolation.summary
    try:
        return audit(child, text, wanted.minutes, wanted.seed, name, isolation, began)
    finally:
        child.close()


def text_of(wanted: Wanted) -> AuditText:
    """Return the text to audit with. Raises BadInput."""
    if (wanted.text is None) == (wanted.tokens is None):
        raise BadInput("give one text: --text FILE with --tokenizer MODEL, or --tokens SHARD")
    tokenizer = open_tokenizer(wanted.tokenizer) if wanted.tokenizer else None
    if wanted.tokens is not None:
        return of_shard(wanted.tokens, tokenizer)
    if tokenizer is None:
        raise BadInput("--text needs --tokenizer: a SentencePiece .model, a .fwt or an artifact")
    assert wanted.text is not None
    return of_text(wanted.text, tokenizer)


def audit(
    caller: Caller,
    text: AuditText,
    minutes: float,
    seed: int,
    name: str,
    isolation: str = "",
    began: float | None = None,
) -> AuditResult:
    """Run all experiments on the tokens of `text`, at least 2, until `minutes` after `began`.

    `began` is a reading of time.monotonic(), now if None. Raises BadInput.
    """
    if len(text.tokens) < 2:
        raise BadInput("the text has fewer than two tokens: give a longer one")
    began = time.monotonic() if began is None else began
    until = began + 60 * minutes
    with console.track("audit", 60 * minutes, "") as task:
        job = Audit(caller, text, np.random.default_rng(seed), until)
        job.progress = lambda: task.update(
            min(time.monotonic() - began, 60 * minutes), calls=f"{job.calls:,}"
        )
        try:
            whole = _fitting(job, minutes)
            _run(job)
        finally:
            if job.caller is not caller:
                job.caller.close()
    if len(job.text.tokens) < whole:
        console.warn(
            f"only the first {len(job.text.tokens):,} of {whole:,} tokens were audited"
            f"{', but for coverage and bytes' if job.whole else ''}: more take more --minutes"
        )
    broken = {f.condition for f in job.findings if f.verdict == "broken"}
    followed = not broken & {"order", "causal"}
    return AuditResult(
        subject=name,
        valid=not broken,
        findings=job.findings,
        order="none" if not followed else "declared" if job.declared else "left-to-right",
        tokens=len(job.text.tokens),
        calls=job.calls,
        seconds=time.monotonic() - began,
        isolation=isolation,
    )


def _fitting(job: Audit, minutes: float) -> int:
    """Shorten the text to what one call of _WHOLE of the time can score; return its full length."""
    whole = len(job.text.tokens)
    if whole <= _PROBES[-1]:
        return whole
    fits = _fitting_tokens(job)
    most = fits(60 * minutes * _WHOLE)
    if most < whole <= fits(60 * minutes * _ONCE):
        job.whole = job.text
    job.known = job.text.tokens
    job.text = shortened(job.text, min(whole, max(most, _PROBES[-1])))
    job.piece = min(_PIECE, max(fits(60 * minutes * _OF_PIECE), _PROBES[0]))
    probed = job.caller
    job.caller = probed.restarted()  # the text is its first call, as in reality
    if job.caller is not probed:
        probed.close()
    return whole


def _fitting_tokens(job: Audit) -> Callable[[float], int]:
    """Measure how fast the scorer is; return the number of tokens that it scores in given seconds.

    A call has a fixed cost and a cost per token.
    """
    seconds = []
    for count in _PROBES:
        job.score(job.text.tokens[:count])  # compiles and fills caches
        began = time.monotonic()
        job.score(job.text.tokens[:count])
        seconds.append(time.monotonic() - began)
    per_token = max((seconds[1] - seconds[0]) / (_PROBES[1] - _PROBES[0]), 1e-7)
    per_call = max(seconds[0] - _PROBES[0] * per_token, 0.0)
    return lambda limit: max(0, int((limit - per_call) / per_token))


def _run(job: Audit) -> None:
    """Run the experiments, cheap ones first. A broken condition does not end the others."""
    base = job.score(job.text.tokens)
    part, job.text = job.text, job.whole or job.text
    counted = base if job.whole is None else job.score(job.text.tokens)
    job.add(counting.coverage(job, counted), counting.byte_count(job, counted))
    job.text = part
    job.declared = not np.array_equal(order_of(base), np.arange(len(base.nats)))
    job.side_bytes = base.side_bytes
    if negative := counting.probabilities(base):
        job.add(negative)
    job.add(repeatability.repeatable(job, base))
    if job.findings[-1].verdict == "broken":
        return  # no two calls can be compared
    kinds = _cuts(job, base)
    moved = next((c.order_moved for c in kinds.values() if c.order_moved), "")
    boundary = next((c.boundary for c in kinds.values() if c.boundary), "")
    job.add(
        causality.causal(job, kinds, "declared" if job.declared else "text's"),
        ordering.coding_order(job, base, moved, boundary),
        *filter(None, (ordering.documents(job), ordering.prefix(job, base))),
    )
    if negative or any(f.condition == "causal" and f.verdict == "broken" for f in job.findings):
        return  # a charge that looks ahead says nothing about the distribution that it is from
    length = min(job.piece, len(job.text.tokens))
    if job.caller.has_distributions:
        until = job.share_of_time(0.6)
        rows = normalisation.distributions(job, length, until, _SLICES)
        job.add(rows)
        if rows.verdict == "broken":
            return
    suspects = [place for c in kinds.values() for place in c.unmoved]
    job.add(normalisation.normalised(job, base, suspects, job.share_of_time(0.9), _SUMS))


def _cuts(job: Audit, base: Charges) -> dict[str, Cuts]:
    """Cut the whole text, pieces of it where that is much cheaper, and texts of first calls."""
    whole = repeat((job.text.tokens, base))
    first = causality.cuts_of(job, whole, job.share_of_time(0.15), _FIRST, first=True)
    short = len(job.text.tokens) <= 2 * job.piece
    until = job.share_of_time(0.35 if short else 0.3)
    far = causality.cuts_of(job, whole, until, _NEAR if short else _FAR)
    kinds = {"whole text": far, "first calls": first}
    if not short:
        pieces = causality.short_texts(job, job.piece, _NEAR)
        kinds["pieces"] = causality.cuts_of(job, pieces, job.share_of_time(0.3), _NEAR)
    return kinds
