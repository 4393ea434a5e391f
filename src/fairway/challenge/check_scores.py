"""Rules on the scores of a submission, its seeds and its times."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

from fairway.challenge import logs
from fairway.challenge.claims import number
from fairway.challenge.contents import shown
from fairway.challenge.logs import Log, Reading
from fairway.challenge.submitted import (
    PRINTED,
    TOLERANCE,
    Submission,
    finding,
    is_better,
    is_same,
    judged,
    listed,
)
from fairway.pipeline.command_results import RuleFinding
from fairway.pipeline.results import Decoded

LIMIT_S = 600.0  # of training and of evaluation, each
SEEDS = 3
_MOST_SEEDS = 100  # of seed_results
_SLACK_S = 0.5  # of a clock that is read once per step


def times(given: Submission) -> Iterator[RuleFinding]:
    """Compare the times in the logs with the challenge's limits."""
    for what, key in (("training", "train"), ("evaluation", "evaluation")):
        times = [(log.name, getattr(log, key).largest) for log in given.logs]
        known = [time for _, time in times if time is not None]
        yield judged(
            f"time: {what} <= {LIMIT_S:.0f} s",
            (f"{n}: {t:,.1f} s" for n, t in times if t is not None and t > LIMIT_S + _SLACK_S),
            [f"no time of {what} in {n}" for n, t in times if t is None] or given.no_logs,
            f"at most {max(known, default=0):,.1f} s by the logs",
        )


def numbers(given: Submission) -> Iterator[RuleFinding]:
    """Report impossible values, and values whose unit or form is unclear."""
    parts = [(log.name, part) for log in given.logs for part in log.quantities()]
    impossible = [f"{log.name}: {x}" for log in given.logs for x in log.impossible]
    impossible += [f"{name}: {x}" for name, part in parts for x in part.impossible]
    yield judged("numbers: finite and above zero, in the logs", impossible, (), "all are")
    unclear = [
        f"unit or form is not clear: {name}: {x}" for name, part in parts for x in part.unclear
    ]
    if unclear:
        yield finding("units: of times and sizes in the logs", None, listed(unclear))


def seeds(given: Submission) -> Iterator[RuleFinding]:
    """Check that the logs are of different seeds, and of the seeds that are listed."""
    wrong = [
        f"{log.name} says seed {listed(sorted(log.seeds))} in its text"
        for log in given.logs
        if log.named_seed is not None and log.seeds and log.named_seed not in log.seeds
    ]
    yield judged("seeds: a log's name = its text", wrong, (), "no log contradicts its name")
    alike: dict[tuple[str, ...], list[str]] = {}
    for log in given.logs:
        alike.setdefault(log.losses, []).append(log.name)
    copies = [
        f"{' and '.join(names)} state the same losses to the last digit"
        for losses, names in alike.items()
        if losses and len(names) > 1
    ]
    copies += [
        f"seed{one.seed}/ and seed{other.seed}/ hold one artifact"
        for one, other in itertools.combinations(given.proofs, 2)
        if one.facts and other.facts and one.facts.artifact_sha256 == other.facts.artifact_sha256
    ]
    rule = "seeds: each log has losses of its own"
    yield judged(rule, copies, (), "no two logs state the same losses")
    stated = {log.seed for log in given.logs if log.seed is not None}
    silent = [log.name for log in given.logs if log.seed is None]
    named = ", ".join(map(str, sorted(stated)))
    said = f"{len(given.logs)} logs, seeds {shown(named) or 'none are named'}"
    if silent:
        said += f"; not one seed in the text of {listed(silent)}"
    good = None if len(stated) + len(silent) >= SEEDS else False
    if len(stated) >= SEEDS and not silent:
        good = True
    yield finding(f"seeds: {SEEDS} different ones in the logs' text", good, said)
    claimed = given.claims.get("seeds")
    if isinstance(claimed, list) and stated and not silent:
        good = {x for x in claimed if isinstance(x, int) and not isinstance(x, bool)} == stated
        good = good and len(claimed) == len(stated)
        said = f"submission.json lists {shown(str(claimed))}, the logs have {shown(named)}"
        yield finding("seeds: in submission.json = in the logs", good, said)


def score(given: Submission) -> Iterator[RuleFinding]:
    """Compare the stated score with the logs and with the decoded proofs."""
    claimed = number(given.claims.get("val_bpb"))
    rule = "score: val_bpb = the logs' mean"
    if claimed is None or not any(log.scores for log in given.logs):
        said = "nothing to compare: no val_bpb, or no final score in a log"
        yield finding(rule, None, said)
    else:
        good, said, label = _against_logs(given.logs, given.other_logs, claimed)
        yield finding(rule, good, said)
        if label is not None:
            yield from _loss(given, label)
    if given.proofs:
        yield _proved_score(given, claimed)


def _loss(given: Submission, label: str) -> Iterator[RuleFinding]:
    """Compare val_loss with the lines whose bits per byte are the score."""
    claimed = number(given.claims.get("val_loss"))
    losses = [log.by_label()[label].loss for log in given.logs if label in log.by_label()]
    if claimed is None or not losses or any(loss is None for loss in losses):
        return
    good, mean = _is_mean(claimed, [loss for loss in losses if loss])
    said = f"val_loss {claimed} beside a mean of {mean:.6f} nats per token ({label or 'val_loss'})"
    yield finding("loss: val_loss = the logs' mean", good, said)


def _proved_score(given: Submission, claimed: float | None) -> RuleFinding:
    """Compare the stated score with what the proofs show."""
    rule = "score: val_bpb = the decoded proofs' mean"
    bpb = [proof.facts.bpb for proof in given.proofs if proof.facts]
    logged = {log.seed for log in given.logs}
    unproved = logged - {proof.seed for proof in given.proofs}
    if claimed is None or not bpb or len(bpb) < len(given.proofs):
        return finding(rule, None, "nothing to compare: a proof does not decode, or no val_bpb")
    mean = sum(bpb) / len(bpb)
    separately = number(given.claims.get("proved_bpb"))
    if separately is not None and abs(separately - mean) > TOLERANCE:
        said = f"proved_bpb {separately}, the decoded proofs have {mean:.6f} bits per byte"
        return finding("score: proved_bpb = the decoded proofs' mean", False, said)
    if unproved:
        seeds = ", ".join(sorted(map(str, unproved)))
        said = f"there are proofs, but none for the logs of seed {shown(seeds)}"
        return finding("score: a proof for each log", None, said)
    good = abs(claimed - mean) <= TOLERANCE
    said = f"val_bpb {claimed}, the decoded proofs have {mean:.6f} bits per byte"
    return finding(rule, good, said)


def seed_results(given: Submission) -> Iterator[RuleFinding]:
    """Compare each value of a seed's results with its log and proof."""
    results = given.claims.get("seed_results")
    if not isinstance(results, dict):
        return
    by_seed: dict[str, list[Log]] = {}
    for log in given.logs + given.other_logs:
        own = log.seed if log.seed is not None else log.named_seed
        by_seed.setdefault(str(own), []).append(log)
    proofs = {str(proof.seed): proof.facts for proof in given.proofs if proof.facts}
    wrong: list[str] = []
    if len(results) > _MOST_SEEDS:
        wrong.append(f"{len(results):,} seeds, more than {_MOST_SEEDS} are not looked at")
    for name, result in itertools.islice(results.items(), _MOST_SEEDS):
        seed = shown(str(name), 20)
        if name not in by_seed:
            wrong.append(f"seed {seed} has no log")
            continue
        fields = result if isinstance(result, dict) else {}
        wrong += [
            f"seed {seed} claims {field} {shown(str(fields[field]), 40)}, {source}"
            for field, source in _unsupported(fields, by_seed[name], proofs.get(name))
        ]
    yield judged("seed_results: each value = its log and proof", wrong, (), "each is in its log")


def _is_mean(claimed: float, readings: list[Reading]) -> tuple[bool, float]:
    """Say whether a claim is the mean of printed values; also return the mean.

    The tolerance is fixed, and grows by the digits that the logs leave open, never by the claim's.
    """
    mean = sum(reading.value for reading in readings) / len(readings)
    return abs(claimed - mean) <= max(map(_near_score, readings)), mean


def _sharpest(labels: list[str], runs: list[Log]) -> list[str]:
    """Drop labels whose score is printed again with more digits: x, where there is x_exact."""
    best: dict[str, tuple[float, str]] = {}
    for label in labels:
        slack = max(log.by_label()[label].bpb.slack for log in runs)
        name = label.replace("_exact", "")
        if name not in best or slack < best[name][0]:
            best[name] = (slack, label)
    return [label for label in labels if best[label.replace("_exact", "")][1] == label]


def _against_logs(
    runs: list[Log], further: list[Log], claimed: float
) -> tuple[bool | None, str, str | None]:
    """Return (verdict, evidence, the label of the score that the claim is the mean of).

    A claim that is the mean of one log per seed, where there are more, is not known to be the
    runs' score: which of them count is a choice.
    """
    scored = [log for log in runs if log.scores]
    if len(scored) < len(runs):
        silent = [log.name for log in runs if not log.scores]
        return None, f"no final score in {listed(silent)}", None
    labels = _sharpest(list(logs.labels_of_all(runs)), runs)
    for label in labels:
        good, mean = _is_mean(claimed, [log.by_label()[label].bpb for log in runs])
        if good:
            said = f"val_bpb {claimed} is the mean of {label or 'val_bpb'} ({mean:.6f})"
            return True, said, label
    headline = [log.scores[-1].bpb for log in runs]
    mean = sum(reading.value for reading in headline) / len(headline)
    said = f"val_bpb {claimed}, the mean of the logs' last scores is {mean:.6f}"
    groups: dict[object, list[Log]] = {}
    further = [log for log in further if log.scores and log.seed is not None]
    for log in [*runs, *further]:
        groups.setdefault(log.seed if log.seed is not None else log.name, []).append(log)
    if len(groups) < len(runs) + len(further):
        for choice in itertools.islice(itertools.product(*groups.values()), 4096):
            chosen = list(choice)
            for label in logs.labels_of_all(chosen):
                if _is_mean(claimed, [log.by_label()[label].bpb for log in chosen])[0]:
                    names = ", ".join(log.name for log in chosen)
                    more = "there are more logs of these seeds"
                    return None, f"val_bpb {claimed} is a mean of {names}: {more}", None
    if not labels and _is_mean(claimed, headline)[0]:
        return None, f"{said}, and they are of different kinds", None
    if len(runs) > 1 and any(_is_mean(claimed, [s.bpb])[0] for log in runs for s in log.scores):
        said = f"val_bpb {claimed} is one value of the logs; the mean of their last is {mean:.6f}"
    return False, said, None


def _unsupported(
    fields: dict[str, Any], runs: list[Log], facts: Decoded | None
) -> Iterator[tuple[str, str]]:
    """Yield (field, where it is not) of a seed's results."""
    scores = [score for log in runs for score in log.scores]
    bpb, losses = [s.bpb for s in scores], [s.loss for s in scores if s.loss]
    sizes = [r for log in runs for r in (log.model.last, log.total.last) if r]
    logged: dict[str, tuple[list[Reading], Callable[[Reading], float]]] = {
        "val_bpb": (bpb, _near_score),
        "claimed_score_bpb": (bpb, _near_score),
        "val_loss": (losses, _near_score),
        "artifact_bytes": (sizes, lambda r: r.slack),
        "train_time_s": ([r for log in runs for r in log.train.values], _near_time),
        "eval_time_s": ([r for log in runs for r in log.evaluation.values], _near_time),
    }
    for field, (readings, near) in logged.items():
        if field in fields and (readings or readings is bpb):
            value = number(fields[field])
            if value is None or all(abs(value - r.value) > near(r) for r in readings):
                yield field, f"which {runs[0].name} does not say"
    if facts is None:
        return
    value = number(fields.get("val_bpb"))
    if "val_bpb" in fields and (value is None or is_better(value, facts)):
        yield "val_bpb", f"the decoded proof has {facts.bpb:.8f}"
    for field, true in (("proved_bpb", facts.bpb), ("proof_bytes", facts.proof_bytes)):
        if field in fields and not is_same(fields[field], true):
            yield field, f"the decoded proof has {true}"


def _near_score(reading: Reading) -> float:
    return TOLERANCE + min(PRINTED, reading.slack) + 1e-9


def _near_time(reading: Reading) -> float:
    return min(1, reading.value / 100) + reading.slack
