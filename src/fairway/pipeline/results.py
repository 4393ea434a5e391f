"""The result of each stage and command: typed, with units in the names.

A stage's result lies in the run directory as STAGE.json. Report, comparison and submission read
only these files; nothing ever searches a log.
"""

from __future__ import annotations

from math import isfinite, log
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from fairway.config.schema import Arithmetic, Recipe

TextRule = Literal["bytes", "challenge"]  # which bytes of a text count: data/rules.py


class Result(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: ClassVar[str] = ""  # that writes it; empty: it is no stage's result
    stamp: str = ""  # hashes of the recipe, code version and inputs that made it: runner.py

    @property
    def failure(self) -> str:
        """Return why the verdict is no although the work was done; empty: the verdict is yes."""
        return ""

    @property
    def sentence(self) -> str:
        """Return the result in one line."""
        raise NotImplementedError

    @property
    def document(self) -> str:
        """Return the text that the command was asked for, to be printed on stdout."""
        return ""

    def under(self, recipe: Recipe) -> Self:
        """Return the result with what `recipe.run` says about it; the work is not repeated."""
        return self

    def tree(self) -> dict[str, Any]:
        """Return the result as values of JSON: null where a number is not finite."""
        tree: dict[str, Any] = _printable(self.model_dump(mode="json"))
        return tree


def _printable(value: Any) -> Any:
    """Names of files that are no UTF-8 get escapes: JSON has no characters for them."""
    if isinstance(value, dict):
        return {_printable(key): _printable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_printable(inner) for inner in value]
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    return None if isinstance(value, float) and not isfinite(value) else value


class PrepareResult(Result):
    stage = "prepare"
    train_documents: int
    val_documents: int
    dropped_documents: int  # of train: near-duplicates of val
    train_tokens: int
    val_tokens: int
    train_bytes: int
    val_bytes: int
    text_sha256: str  # of the validation text
    lengths_sha256: str  # of the validation documents' lengths: little-endian u64 each
    train_sha256: str  # of the train shards' tokens
    vocab_size: int
    text_rule: TextRule
    folder: str  # of the shards, relative to the run directory
    prepare_s: float

    @property
    def sentence(self) -> str:
        return (
            f"{self.train_bytes:,} bytes to train on, {self.val_bytes:,} to score, "
            f"{self.vocab_size} tokens in the vocabulary"
        )


class TrainResult(Result):
    stage = "train"
    parameters: int
    steps: int
    tokens: int
    train_s: float  # calibration included
    calibration_s: float
    compile_s: float
    score_s: float
    pause_s: float  # checkpoints
    tokens_per_s: float
    within_limit: bool  # train_s <= run.train_limit_s
    val_bpb: float
    val_nats_per_token: float
    weights_sha256: str
    seed: int
    device: str
    world_size: int
    peak_memory_bytes: int

    @property
    def failure(self) -> str:
        late = f"training took {self.train_s:.0f} s, more than run.train_limit_s allows"
        return "" if self.within_limit else late

    def under(self, recipe: Recipe) -> Self:
        return self.model_copy(update={"within_limit": self.train_s <= recipe.run.train_limit_s})

    @property
    def sentence(self) -> str:
        return (
            f"{self.parameters:,} parameters, {self.steps} steps in {self.train_s:.0f} s "
            f"({self.tokens_per_s:,.0f} tokens/s), {self.val_bpb:.4f} bits per byte"
        )


class PackResult(Result):
    stage = "pack"
    quantizer: str
    artifact_bytes: int
    parts: dict[str, int]  # sums to artifact_bytes
    bits_per_weight: float  # of the coded matrices
    val_bpb_before: float
    val_bpb_after: float
    nats_lost: float  # per token of the validation text
    predicted_nats_lost: float  # from the curvature on training text; 0: not known
    calibration_s: float  # of the training clock, for what packing knows of the training text
    budget_bytes: int
    within_budget: bool
    artifact_sha256: str
    pack_s: float

    @property
    def failure(self) -> str:
        over = self.artifact_bytes - self.budget_bytes
        too_big = f"the artifact is {over:,} bytes over pack.budget_bytes"
        return "" if self.within_budget else too_big

    @property
    def sentence(self) -> str:
        return (
            f"{self.artifact_bytes:,} of {self.budget_bytes:,} bytes, "
            f"{self.bits_per_weight:.2f} bits per weight, {self.val_bpb_after:.4f} bits per byte"
        )


class ScoreResult(Result):
    stage = "score"
    protocol: str
    adaptation: str
    arithmetic: Arithmetic
    order: str
    bpb: float
    nats_per_token: float
    tokens: int  # charged
    text_bytes: int = Field(gt=0)
    text_sha256: str
    text_rule: TextRule
    artifact_sha256: str
    seconds: float

    @property
    def sentence(self) -> str:
        return f"{self.bpb:.4f} bits per byte ({self.protocol}, {self.seconds:.0f} s)"


class FrozenResult(ScoreResult):
    """The score of an artifact whose recipe learns from what it scores, without the learning."""

    stage = "frozen"


class ProveResult(Result):
    stage = "prove"
    bpb: float  # 8 · (all bytes a decoder opens besides the artifact) / text_bytes
    stream_bytes: int
    stream_ideal_bits: float  # the sum of the integer code lengths
    text_bytes: int = Field(gt=0)
    text_sha256: str
    lengths_sha256: str
    text_rule: TextRule
    artifact_sha256: str
    files: dict[str, int]
    tokens: int
    lanes: int
    adaptation: str
    arithmetic: Arithmetic
    order: str
    grade: Literal["device", "portable"]
    encode_s: float
    device: str

    @property
    def sentence(self) -> str:
        return (
            f"{sum(self.files.values()):,} bytes for {self.text_bytes:,} bytes of text, "
            f"{self.bpb:.4f} bits per byte ({self.encode_s:.0f} s)"
        )


class Decoded(BaseModel):
    """What one artifact and one proof hold, as computed by the process that decoded them.

    Every field follows from the bytes of the two files; no result file is read for it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    artifact_sha256: str
    artifact_bytes: int
    parts: dict[str, int]  # of the artifact, in bytes; they sum to artifact_bytes
    parameters: int
    bits_per_weight: float  # of the coded matrices
    proof_sha256: str
    proof_bytes: int
    text_sha256: str  # of the decoded documents, one after another
    text_bytes: int
    lengths_sha256: str  # of the documents' lengths: little-endian u64 each
    documents: int
    tokens: int  # document boundaries included
    stream_bytes: int  # of the range coder's streams and of stored documents
    stream_ideal_bits: float  # the sum of the integer code lengths; 8 per stored byte
    lanes: int  # the most of any chunk; 0: everything is stored
    vocab_size: int
    text_rule: TextRule
    adaptation: str
    arithmetic: Arithmetic
    order: str
    grade: Literal["device", "portable"]

    @property
    def bpb(self) -> float:
        """Bits per byte: all bytes of the proof, over the bytes of the text."""
        return 8 * self.proof_bytes / self.text_bytes

    @property
    def nats_per_token(self) -> float:
        """Code length of the proof in nats, over all tokens of the text."""
        return 8 * self.proof_bytes * log(2) / max(self.tokens, 1)


class HeaderResult(Result):
    """What the header of a proof says; nothing of it is checked before the proof is decoded."""

    proof_bytes: int
    proof_sha256: str
    version: int
    artifact_sha256_begins: str
    text_digest: str
    chunks: int
    arithmetic: Arithmetic
    grade: Literal["device", "portable"]
    environment: str  # that a proof in floating point needs; empty: any
    adaptation: str


class VerifyResult(Result):
    """The verdict on a proof. No number in it comes from a file that the claimant wrote."""

    stage = "verify"
    verified: bool
    reason: str  # why not; empty when verified
    bpb: float  # 0 when nothing was decoded
    decoded: Decoded | None  # None: the proof could not be decoded
    compared_with: str  # the text that the decoded one equals; empty: there was none to compare
    decode_s: float  # of the decoding; 0 where the user's own state directory remembers it
    decoded_twice: bool = False  # the second decoder, in JavaScript, found the same text

    @property
    def failure(self) -> str:
        return "" if self.verified else f"the proof does not hold: {self.reason}"

    @property
    def sentence(self) -> str:
        if not (self.verified and self.decoded):
            return f"NOT verified: {self.reason}"
        same = "compared with no text"
        if self.compared_with:
            same = f"identical to {self.compared_with}"
        return f"verified, {self.bpb:.4f} bits per byte, {self.decoded.text_bytes:,} bytes, {same}"


class Measured(BaseModel):
    """A mean, its standard error, its two-sided confidence interval and a one-sided p."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: float
    standard_error: float
    low: float
    high: float
    p: float


class Gain(BaseModel):
    """By how much runs are better than others, in one unit; positive is better."""

    model_config = ConfigDict(frozen=True, extra="forbid")

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


class Side(BaseModel):
    """One side of a comparison, in the order of the seeds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

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


class RuleFinding(BaseModel):
    """What one rule says about a submission folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

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


class SweepRow(BaseModel):
    """A variant of a recipe, over the seeds that base and variant have both finished."""

    model_config = ConfigDict(frozen=True, extra="forbid")

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


class ConfigResult(Result):
    recipe: Recipe

    @property
    def document(self) -> str:
        from fairway.config.toml import dumps

        return dumps(self.recipe)


class ModelAtHand(BaseModel):
    """An artifact that a command can take with -m."""

    path: str
    size_bytes: int
    verified_bpb: float | None  # of the proof beside it, if this user has decoded it


class ModelsResult(Result):
    models: list[ModelAtHand]


class Evidence(BaseModel):
    """A token whose charge is not what it must be: position -1 is the whole text."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    position: int
    before: float  # what it was, or should be
    after: float
    cause: int = -1  # the first token that was changed; -1: none


class AuditFinding(BaseModel):
    """One condition: what an audit saw, and what it would have seen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    condition: str
    verdict: Literal["holds", "broken", "noted"]
    summary: str
    evidence: list[Evidence] = []
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
