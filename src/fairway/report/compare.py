"""Compare runs against other runs, from their score results.

A side is one recipe with several seeds. Runs of one seed share initial weights and data order, so
they are pairs. docs/compare.md says how to read the tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from pathlib import Path
from typing import Literal

import numpy as np

from fairway import significance as s
from fairway.errors import BadInput
from fairway.pipeline import runner, verdicts
from fairway.pipeline.command_results import CompareResult, Gain, Measured, Side
from fairway.pipeline.directory import Job, RunDirectory
from fairway.pipeline.evidence import read_documents
from fairway.pipeline.results import ScoreResult, TrainResult
from fairway.pipeline.seeds import distinct_seeds
from fairway.report.report import Table

Unit = Literal["bits per byte", "nats per token"]


def compare(runs: Sequence[Path], against: Sequence[Path], claim: float) -> CompareResult:
    """Test whether `runs` are better than `against` by more than 0, and by more than `claim`.

    claim: in nats per token of the tokens of `against`. Raises BadInput where a side has runs of
    several recipes or one seed twice, or where the sides were scored on other texts or otherwise.
    """
    ours, theirs = _side(runs), _side(against)
    _comparable([*runs, *against])
    pair = (runs[0], against[0]) if len(runs) == len(against) == 1 else None
    claimed_bpb = claim / log(2) * theirs.tokens / theirs.text_bytes
    gains = [_gain(ours, theirs, "bits per byte", claimed_bpb, pair)]
    if ours.tokens == theirs.tokens:
        gains.append(_gain(ours, theirs, "nats per token", claim, None))
    return CompareResult(
        runs=ours, against=theirs, confidence=s.CONFIDENCE, alpha=s.ALPHA, gains=gains
    )


def scored(folder: Path) -> tuple[TrainResult, ScoreResult]:
    """Return the run's results. Raises BadInput when one is missing or stale."""
    run = RunDirectory(folder)
    runner.require_current(Job(run.load(), run), (TrainResult, ScoreResult))
    return run.require(TrainResult), run.require(ScoreResult)


def _side(folders: Sequence[Path]) -> Side:
    """Return the runs of one side by seed. Raises BadInput unless only the seed differs."""
    found = sorted(((f, *scored(f)) for f in folders), key=lambda run: run[1].seed)
    score = found[0][2]
    return Side(
        names=[folder.name for folder, _, _ in found],
        evidence=[_evidence(folder) for folder, _, _ in found],
        seeds=distinct_seeds([RunDirectory(folder) for folder, _, _ in found]),
        bpb=[score.bpb for _, _, score in found],
        nats_per_token=[score.nats_per_token for _, _, score in found],
        tokens=score.tokens,
        text_bytes=score.text_bytes,
    )


def _evidence(folder: Path) -> str:
    """Say how the score of a run is known: nothing recomputes it, its proof may be verified."""
    verdict = verdicts.known(RunDirectory(folder))
    if verdict is None:
        return "claimed"
    return f"claimed; proof {verdict.bpb:.4f}" if verdict.verified else "NOT VERIFIED"


def _comparable(folders: Sequence[Path]) -> None:
    """Raise BadInput unless all runs were scored on one text, in one way."""
    first = scored(folders[0])[1]
    for folder in folders[1:]:
        score = scored(folder)[1]
        if score.text_sha256 != first.text_sha256:
            raise BadInput(
                f"{folders[0]} and {folder} were scored on other texts: their bits per byte "
                "cannot be compared"
            )
        named = (f"{x.protocol}/{x.adaptation}/{x.order}/{x.arithmetic}" for x in (first, score))
        ways = list(dict.fromkeys(named))
        if what := " and ".join(ways) if len(ways) > 1 else _settings(first, score):
            raise BadInput(
                f"{folders[0]} and {folder} were scored in other ways ({what}): fairway score "
                "gives them the same"
            )


def _settings(a: ScoreResult, b: ScoreResult) -> str:
    """Return what of the recipe says how a text is scored, and is another for two scores."""
    ways = set(runner.stage_of("score").keys) & set(runner.changes(a.stamp, b.stamp))
    return ", ".join(f"other settings of [{key}]" for key in sorted(ways))


def _gain(
    ours: Side, theirs: Side, unit: Unit, claim: float, pair: tuple[Path, Path] | None
) -> Gain:
    """Return all tests in one unit; pair: the only run of each side."""
    key = "bpb" if unit == "bits per byte" else "nats_per_token"
    a, b = getattr(ours, key), getattr(theirs, key)
    differences = [y - x for x, y in zip(a, b, strict=False)]
    fewer = min(len(a), len(b))
    pairs, two = ours.seeds == theirs.seeds and len(a) > 1, fewer > 1
    sd = s.pooled_sd(a, b) if max(len(a), len(b)) > 1 else None
    return Gain(
        unit=unit,
        claim=claim,
        paired=_measured(s.paired(differences)) if pairs else None,
        paired_claim_p=s.paired(differences, null=claim).p if pairs else None,
        welch=_measured(s.welch(a, b)) if two else None,
        welch_claim_p=s.welch(a, b, null=claim).p if two else None,
        documents=_measured(_over_documents(*pair)) if pair else None,
        sd=sd,
        power=s.power(claim, sd, fewer) if sd is not None and two else None,
        seeds_needed=s.seeds_needed(claim, sd) if sd is not None else None,
        pairs_needed=s.seeds_needed(claim, s.pooled_sd(differences), pairs=True) if pairs else None,
    )


def _measured(estimate: s.Estimate) -> Measured:
    return Measured(**estimate._asdict())


def _over_documents(run: Path, against: Path) -> s.Estimate:
    """Return the bootstrap of the gain in bits per byte over the documents of the text."""
    ours, theirs = (read_documents(RunDirectory(f), scored(f)[1]) for f in (run, against))
    gains = (theirs[:, 0] - ours[:, 0]) / log(2)
    return s.over_documents(gains, ours[:, 1].astype(np.int64))


# What people read -------------------------------------------------------------------------------


def tables(found: CompareResult) -> list[Table]:
    """Return the scores of both sides, and the tests in each unit."""
    tested = [g for g in found.gains if g.paired or g.welch or g.documents]
    return [_sides_table(found), *(_gain_table(found, gain) for gain in tested)]


def _sides_table(found: CompareResult) -> Table:
    rows = [
        [name, str(seed), f"{bpb:.5f}", f"{nats:.5f}", evidence]
        for side in (found.runs, found.against)
        for name, seed, bpb, nats, evidence in zip(
            side.names, side.seeds, side.bpb, side.nats_per_token, side.evidence, strict=True
        )
    ]
    for label, side in (("runs", found.runs), ("against", found.against)):
        means = [_mean_sd(side.bpb), _mean_sd(side.nats_per_token)]
        rows.append([f"mean, {label}", "", *means, "claimed"])
    note = (
        f"{found.runs.text_bytes:,} bytes of text (claimed). Means with the standard deviation of "
        "one run. Scores are read from score.json of each run; nothing here recomputes them. "
        "Proof: its bits per byte, where this user has decoded it."
    )
    columns = ["run", "seed", "bits per byte", "nats per token", "evidence"]
    return Table("Scores (claimed)", columns, rows, note)


def _mean_sd(values: Sequence[float]) -> str:
    mean = f"{np.mean(values):.5f}"
    return f"{mean} ± {np.std(values, ddof=1):.5f}" if len(values) > 1 else mean


def _gain_table(found: CompareResult, gain: Gain) -> Table:
    tests = {
        "paired": (gain.paired, gain.paired_claim_p),
        "Welch": (gain.welch, gain.welch_claim_p),
        "documents": (gain.documents, None),
    }
    rows = [
        [name, f"{m.mean:+.5f}", f"{m.low:+.5f} to {m.high:+.5f}", _p(m.p), _p(claim_p)]
        for name, (m, claim_p) in tests.items()
        if m
    ]
    columns = [
        "test", "gain", f"{found.confidence:.0%} interval", "p if no gain",
        f"p if {gain.claim:.5f}",
    ]  # fmt: skip
    return Table(
        f"Gain in {gain.unit}, of the claimed scores",
        columns,
        rows,
        " ".join(_remarks(found, gain)),
    )


def _p(value: float | None) -> str:
    return "" if value is None else "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def _verdict(found: CompareResult, gain: Gain) -> str:
    """Say in words what the strongest test over seeds shows."""
    test, claim_p = gain.paired, gain.paired_claim_p
    if test is None:
        test, claim_p = gain.welch, gain.welch_claim_p
    if test is None:
        if gain.documents:
            return "With one run a side, nothing is known about other seeds."
        return (
            "No test: the sides share too few seeds to pair, and Welch's test takes two runs or "
            "more on each side."
        )
    if test.p >= found.alpha:
        return f"No gain is shown: p = {test.p:.3g}, and {found.alpha:g} or less would show one."
    claimed = "and" if claim_p is not None and claim_p < found.alpha else "but not"
    return f"A gain is shown (p = {test.p:.2g}), {claimed} one above the claim."


def _remarks(found: CompareResult, gain: Gain) -> list[str]:
    remarks = [_verdict(found, gain)]
    if gain.unit == "bits per byte":
        remarks.append(
            "The claim is in nats per token of the other side's tokens, "
            f"{gain.claim:.5f} bits per byte there."
        )
    if len(found.gains) == 1:
        remarks.append("The sides count other tokens, so nats per token are not compared.")
    if gain.documents:
        remarks.append(
            "The bootstrap over documents says what another text of this kind would give, and "
            "nothing about other seeds."
        )
    if any(test and test.standard_error == 0 for test in (gain.paired, gain.welch)):
        remarks.append("Where all values are equal, there is no spread to test by, and p is 1.")
    if gain.sd is not None:
        remarks.append(f"One run's standard deviation is {gain.sd:.5f}.")
    if gain.power is not None:
        fewer = min(len(found.runs.seeds), len(found.against.seeds))
        remarks.append(
            f"With {fewer} seeds a side, a true gain of {gain.claim:.5f} is found in "
            f"{gain.power:.0%} of cases at p < {found.alpha:g}."
        )
    if gain.seeds_needed is not None:
        remarks.append(f"For {s.POWER:.0%} of cases it takes {gain.seeds_needed} seeds a side.")
    if gain.pairs_needed is not None:
        remarks.append(f"Paired by seed it takes {gain.pairs_needed}.")
    return remarks


def split(words: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """Return RUN... --against RUN... as two lists. Raises BadInput."""
    unknown = next((w for w in words if w.startswith("-") and w != "--against"), None)
    if unknown:
        raise BadInput(f"no such option {unknown}: fairway compare RUN... --against RUN...")
    if words.count("--against") != 1 or words[0] == "--against" or words[-1] == "--against":
        raise BadInput("name runs on both sides: fairway compare RUN... --against RUN...")
    cut = list(words).index("--against")
    return [Path(name) for name in words[:cut]], [Path(name) for name in words[cut + 1 :]]
