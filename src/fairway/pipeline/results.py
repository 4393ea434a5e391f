"""The result of each stage: typed, with units in the names.

A stage's result lies in the run directory as STAGE.json. Report, comparison and submission read
only these files; nothing ever searches a log.
"""

from __future__ import annotations

from math import isfinite, log
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from fairway.coding.decoded import DecodedProof
from fairway.config.schema import Arithmetic, Recipe
from fairway.train.trained import Trained

TextRule = Literal["bytes", "challenge"]  # which bytes of a text count: data/rules.py


class Record(BaseModel):
    """Typed data that JSON holds: nothing changes it, and no other key may stand in it."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Result(Record):
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
    """Escape names of files that are not UTF-8: JSON has no characters for them."""
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


def is_allowed(train_s: float, recipe: Recipe) -> bool:
    """Return whether run.train_limit_s lets a training take this many seconds."""
    return not recipe.run.train_limit_s or train_s <= recipe.run.train_limit_s


class TrainResult(Trained, Result):
    stage = "train"
    within_limit: bool  # run.train_limit_s allows train_s
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
        return self.model_copy(update={"within_limit": is_allowed(self.train_s, recipe)})

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


class ChargedResult(Result):
    """What a score and a proof both say: which text was charged, by which artifact, and how."""

    bpb: float
    tokens: int  # of a score, those that are charged
    text_bytes: int = Field(gt=0)
    text_sha256: str
    text_rule: TextRule
    artifact_sha256: str
    adaptation: str
    arithmetic: Arithmetic
    order: str


class ScoreResult(ChargedResult):
    """Bits per byte of a text under an artifact, by a protocol (docs/score.md)."""

    stage = "score"
    protocol: str
    nats_per_token: float
    by_position: list[tuple[float, int]]  # nats and bytes of a document's tokens 1, 2-3, 4-7, ...
    seconds: float

    @property
    def sentence(self) -> str:
        return f"{self.bpb:.4f} bits per byte ({self.protocol}, {self.seconds:.0f} s)"


class FrozenResult(ScoreResult):
    """The score of an artifact whose recipe learns from what it scores, without the learning."""

    stage = "frozen"


class ProveResult(ChargedResult):
    """A proof; its bpb is 8 · (all bytes a decoder opens besides the artifact) / text_bytes."""

    stage = "prove"
    stream_bytes: int
    stream_ideal_bits: float  # the sum of the integer code lengths
    lengths_sha256: str
    files: dict[str, int]
    lanes: int
    grade: Literal["device", "portable"]
    encode_s: float
    device: str

    @property
    def sentence(self) -> str:
        return (
            f"{sum(self.files.values()):,} bytes for {self.text_bytes:,} bytes of text, "
            f"{self.bpb:.4f} bits per byte ({self.encode_s:.0f} s)"
        )


class Decoded(DecodedProof):
    """What one artifact and one proof hold, as computed by the process that decoded them.

    Every field follows from the bytes of the two files; no result file is read for it.
    """

    artifact_sha256: str
    artifact_bytes: int
    parts: dict[str, int]  # of the artifact, in bytes; they sum to artifact_bytes
    parameters: int
    bits_per_weight: float  # of the coded matrices
    proof_sha256: str
    proof_bytes: int
    vocab_size: int
    text_rule: TextRule

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


class Verdict(Result):
    """The verdict on a proof. No number in it comes from a file that the claimant wrote."""

    stage = "verify"
    verified: bool
    reason: str  # why not; empty when verified
    bpb: float  # 0 when nothing was decoded
    decoded: Decoded | None  # None: the proof could not be decoded
    compared_with: str  # the text that the decoded one equals; empty: there was none to compare
    decode_s: float  # of the decoding; 0 where the user's own state directory remembers it
    decoded_twice: bool = False  # the second decoder, in JavaScript, found the same text

    def __bool__(self) -> bool:
        """Return whether the proof holds."""
        return self.verified

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
