"""Rules on the scores of a submission, its seeds and its times."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
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
    listed,
)
from fairway.pipeline.results import Decoded, RuleFinding

LIMIT_S = 600.0  # of training and of evaluation, each
SEEDS = 3
_MOST_SEEDS = 100  # of seed_results
_SLACK_S = 0.5  # of a clock that is read once per step


def times(given: Submission) -> Iterator[RuleFinding]:
    """Compare the times in the logs with the challenge's limits."""
    for what, key in (("training", "train"), ("evaluation", "evaluation")):
        rule = f"time: {what} <= {LIMIT_S:.0f} s"
        times = {log.name: getattr(log, key).largest for log in given.logs}
        late = {n: t for n, t in times.items() if t is not None and t > LIMIT_S + _SLACK_S}
        silent = [n for n, t in times.items() if t is None]
        if late:
            yield finding(rule, False, listed(f"{n}: {t:,.1f} s" for n, t in late.items()))
        elif silent or not times:
            said = f"no time of {what} in {listed(silent)}" if times else "there is no log"
            yield finding(rule, None, said)
        else:
            yield finding(rule, True, f"at most {max(times.values()):,.1f} s by the logs")


def numbers(given: Submission) -> Iterator[RuleFinding]:
    """Report impossible values, and values whose unit or form is unclear."""
    impossible: list[str] = []
    unclear: list[str] = []
    for log in given.logs:
        parts = [log.model, log.code, log.total, log.train, log.evaluation, log.tokens]
        parts.append(log.text_bytes)
        impossible += [f"{log.name}: {x}" for x in log.impossible]
        impossible += [f"{log.name}: {x}" for part in parts for x in part.impossible]
        unclear += [f"{log.name}: {x}" for part in parts for x in part.unclear]
    said = listed(impossible) or "all are"
    yield finding("numbers: finite and above zero, in the logs", not impossible, said)
    if unclear:
        said = f"unit or form is not clear: {listed(unclear)}"
        yield finding("units: of times and sizes in the logs", None, said)


def seeds(given: Submission) -> Iterator[RuleFinding]:
    """Check that the logs are of different seeds, and of the seeds that are listed."""
    wrong = []
    for log in given.logs:
        if log.named_seed is not None and log.seeds and log.named_seed not in log.seeds:
            wrong.append(f"{log.name} says seed {listed(sorted(log.seeds))} in its text")
    yield finding(
        "seeds: a log's name = its text",
        not wrong,
        listed(wrong) or "no log contradicts its name",
    )
    alike: dict[tuple[str, ...], list[str]] = {}
    for log in given.logs:
        alike.setdefault(log.losses, []).append(log.name)
    copies = [" and ".join(names) for x, names in alike.items() if x and len(names) > 1]
    copies += [
        f"seed{one.seed}/ and seed{other.seed}/ hold one artifact"
        for one, other in itertools.combinations(given.proofs, 2)
        if one.facts and other.facts and one.facts.artifact_sha256 == other.facts.artifact_sha256
    ]
    yield finding(
        "seeds: each log has losses of its own", not copies,
        f"these state the same losses to the last digit: {listed(copies)}" if copies
        else "no two logs state the same losses",
    )  # fmt: skip
    stated = {log.seed for log in given.logs if log.seed is not None}
    silent = [log.name for log in given.logs if log.seed is None]
    rule = f"seeds: {SEEDS} different ones in the logs' text"
    named = ", ".join(map(str, sorted(stated)))
    said = f"{len(given.logs)} logs, seeds {shown(named) or 'none are named'}"
    if silent:
        said += f"; not one seed in the text of {listed(silent)}"
    if len(stated) >= SEEDS and not silent:
        yield finding(rule, True, said)
    else:
        possible = len(stated) + len(silent) >= SEEDS
        yield finding(rule, None if possible else False, said)
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
    said = listed(wrong) or "each is in its log"
    yield finding("seed_results: each value = its log and proof", not wrong, said)


def _is_mean(claimed: float, readings: list[Reading]) -> tuple[bool, float]:
    """Say whether a claim is the mean of printed values; also return the mean.

    The tolerance is fixed, and grows by the digits that the logs leave open, never by the claim's.
    """
    mean = sum(reading.value for reading in readings) / len(readings)
    near = TOLERANCE + min(PRINTED, max(reading.slack for reading in readings)) + 1e-9
    return abs(claimed - mean) <= near, mean


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
    name = runs[0].name
    for field in ("val_bpb", "claimed_score_bpb"):
        if field in fields:
            value = number(fields[field])
            scores = [score.bpb for log in runs for score in log.scores]
            if value is None or not any(_is_mean(value, [score])[0] for score in scores):
                yield field, f"which {name} does not say"
    if facts and "val_bpb" in fields:
        value = number(fields["val_bpb"])
        if value is None or is_better(value, facts):
            yield "val_bpb", f"the decoded proof has {facts.bpb:.8f}"
    if "proved_bpb" in fields and facts and not is_same(fields["proved_bpb"], facts.bpb):
        yield "proved_bpb", f"the decoded proof has {facts.bpb}"
    if "val_loss" in fields:
        value = number(fields["val_loss"])
        stated = [score.loss for log in runs for score in log.scores if score.loss]
        if stated and (value is None or not any(_is_mean(value, [loss])[0] for loss in stated)):
            yield "val_loss", f"which {name} does not say"
    if "proof_bytes" in fields and facts and not is_same(fields["proof_bytes"], facts.proof_bytes):
        yield "proof_bytes", f"the decoded proof has {facts.proof_bytes:,}"
    if "artifact_bytes" in fields:
        sizes = [r for log in runs for r in (log.model.last, log.total.last) if r]
        value = number(fields["artifact_bytes"])
        if sizes and (value is None or not any(abs(value - r.value) <= r.slack for r in sizes)):
            yield "artifact_bytes", f"which {name} does not say"
    for field, key in (("train_time_s", "train"), ("eval_time_s", "evaluation")):
        readings = [r for log in runs for r in getattr(log, key).values]
        value = number(fields.get(field))
        if field in fields and readings:
            near = [
                r
                for r in readings
                if value is not None and abs(r.value - value) <= min(1, r.value / 100) + r.slack
            ]
            if not near:
                yield field, f"which {name} does not say"
