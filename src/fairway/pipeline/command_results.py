"""The result of each command that is no stage: typed, with units in the names."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from fairway.config.schema import Recipe
from fairway.pipeline.results import Record, Result


class Measured(Record):
    """A mean, its standard error, its two-sided confidence interval and a one-sided p."""

    mean: float
    standard_error: float
    low: float
    high: float
    p: float


class Gain(Record):
    """By how much runs are better than others, in one unit; positive is better."""

    unit: Literal["bits per byte", "nats per token"]
    claim: float  # the gain that is claimed, in this unit
    paired: Measured | None  # over pairs of runs with one seed; None where seeds differ
    paired_claim_p: float | None  # of the hypothesis that the gain is at most the claim
    welch: Measured | None  # None with fewer than two runs on a side
    welch_claim_p: float | None
    documents: Measured | None  # of one pair of runs; None where there is more than one
    sd: float | None  # of one run, within both sides
    power: float | None  # of Welch's test, for the claimed gain with the seeds at hand
    seeds_needed: int | None  # a side, for the claimed gain; None where the spread is unknown
    pairs_needed: int | None  # the same for the paired test


class Side(Record):
    """One side of a comparison, in the order of the seeds."""

    names: list[str]
    seeds: list[int]
    bpb: list[float]  # of score.json: claimed
    nats_per_token: list[float]
    evidence: list[str]  # "claimed", and the verdict on the proof where one is known here
    tokens: int
    text_bytes: int = Field(gt=0)


class CompareResult(Result):
    runs: Side
    against: Side
    confidence: float
    alpha: float
    gains: list[Gain]  # in bits per byte; in nats per token too where both count the same tokens


# Topics of the rules that a submission must pass; "unknown" is not enough.
MUST_BE_KNOWN = ("score", "size", "seeds", "text")


class RuleFinding(Record):
    """What one rule says about a submission folder."""

    rule: str  # "topic: what is compared with what"
    verdict: Literal["yes", "no", "unknown"]
    evidence: str  # one sentence

    @property
    def topic(self) -> str:
        return self.rule.partition(":")[0]


class CheckResult(Result):
    """Of submit --check."""

    folder: str
    findings: list[RuleFinding]

    @property
    def failure(self) -> str:
        """What failed, and what must be known and is not.

        A folder without a "no" is good only if its score, size, seeds and text are known, and if
        each number in its logs has a unit.
        """
        failed = [f.rule for f in self.findings if f.verdict == "no"]
        open_rules = [
            f.rule
            for f in self.findings
            if f.verdict == "unknown" and f.topic in (*MUST_BE_KNOWN, "units")
        ]
        topics = {f.topic for f in self.findings}
        open_rules += [topic for topic in MUST_BE_KNOWN if topic not in topics]
        parts = []
        if failed:
            parts.append(f"{len(failed)} of {len(self.findings)} checks failed")
        if open_rules:
            parts.append(f"unknown, and must be known: {'; '.join(open_rules)}")
        return "; ".join(parts)


class SubmitResult(Result):
    folder: str
    bundle_bytes: int
    seeds: list[int]
    val_bpb: float  # mean over seeds, of the verified proofs
    check: CheckResult

    @property
    def failure(self) -> str:
        return self.check.failure


class FetchResult(Result):
    """Of download fineweb and fineweb-raw."""

    path: str  # of the shards or documents: data.path
    tokenizer: str  # data.tokenizer; empty for documents
    shards: int
    size_bytes: int


class FileResult(Result):
    """Of compress and decompress."""

    path: str
    input_bytes: int
    output_bytes: int


class SweepRow(Record):
    """A variant of a recipe, over the seeds that base and variant have both finished."""

    name: str
    sets: list[str]
    published: str  # what others measured
    seeds: list[int]
    bpb: list[float]  # of the held-out text, per seed
    gain: float | None  # bits per byte less than the base, mean over seeds; None: no seed
    gain_se: float | None  # standard error of the paired differences; None: fewer than two
    artifact_bytes: float  # means over seeds
    train_s: float
    steps: float
    parameters: int
    failed: str  # the first run that could not finish, and why


class SweepResult(Result):
    recipe: str
    seeds: list[int]
    held_out_bytes: int
    packed: bool  # scored after packing, all to one byte budget
    device: str
    commit: str
    at_once: int
    threads: int  # of each run
    rows: list[SweepRow]  # the base first, then the others, the largest gain first

    @property
    def failure(self) -> str:
        failed = [row.name for row in self.rows if row.failed]
        return f"runs of {', '.join(failed)} did not finish" if failed else ""


class SampleResult(Result):
    text: str  # the prompt and what the model added

    @property
    def document(self) -> str:
        from fairway.console import printable

        return printable(self.text, "\n\t") + "\n"


class RecipesResult(Result):
    recipes: dict[str, str]  # descriptions by name


class RecipeResult(Result):
    """Of recipes NAME."""

    name: str
    description: str
    hardware: str
    budget_bytes: int
    changed: dict[str, tuple[Any, Any]]  # value and default, by dotted key


class ConfigResult(Result):
    recipe: Recipe

    @property
    def document(self) -> str:
        from fairway.config.toml import dumps_marked

        return dumps_marked(self.recipe)


class ModelAtHand(Record):
    """An artifact that a command can take with -m."""

    path: str
    size_bytes: int
    verified_bpb: float | None  # of the proof beside it, if this user has decoded it


class ModelsResult(Result):
    models: list[ModelAtHand]


class Evidence(Record):
    """A token whose charge is not what it must be: position -1 is the whole text."""

    position: int
    before: float  # what it was, or should be
    after: float
    cause: int = -1  # the first token that was changed; -1: none


class AuditFinding(Record):
    """One condition: what an audit saw, and what it would have seen."""

    condition: str
    verdict: Literal["holds", "broken", "noted"]
    summary: str
    evidence: list[Evidence] = Field(default_factory=list)
    power: str  # what would have been found with probability 0.99
    picture: str = ""


class AuditResult(Result):
    subject: str  # what was audited
    valid: bool  # nothing is broken, as far as the findings' power goes
    findings: list[AuditFinding]
    order: str = ""  # left-to-right, declared, none; empty where it does not apply
    tokens: int = 0
    calls: int = 0
    seconds: float
    isolation: str = ""  # what the foreign code was kept from; empty: none ran

    @property
    def failure(self) -> str:
        broken = ", ".join(f.condition for f in self.findings if f.verdict == "broken")
        return "" if self.valid else f"{self.subject} is not valid: {broken}"
