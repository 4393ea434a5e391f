"""What is known about a run: its current results, and the verdict on its proof."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fairway.config.schema import Recipe
from fairway.errors import BadInput
from fairway.io import foreign
from fairway.pipeline import runner, verdicts
from fairway.pipeline.directory import Job, RunDirectory
from fairway.pipeline.results import (
    Decoded,
    FrozenResult,
    PackResult,
    PrepareResult,
    ProveResult,
    ScoreResult,
    TrainResult,
)
from fairway.pipeline.stage import stages_of

CLAIMED = "claimed"


@dataclass(frozen=True)
class Proof:
    """A proof beside the text that it holds and the artifact that decodes it."""

    proof_bytes: int
    text_bytes: int
    text_sha256: str
    artifact_bytes: int


class Results:
    """What a run directory claims, and which verdict on its proof is known here.

    A stale result is None, and so is what was made from one; `stale` says why, by stage. The
    verdict on a stale proof is about something else, and is None, too.
    """

    def __init__(self, run: RunDirectory) -> None:
        found = runner.states(run)
        self.stale: dict[str, str] = {}
        for name, state in found.items():  # in their order
            needs = [need.stage for need in runner.stage_of(name).needs if need.stage in self.stale]
            if why := state.why_stale:
                self.stale[name] = why
            elif needs and state.current:
                self.stale[name] = f"made from a stale {needs[0]}.json"
        current = {name: s.current for name, s in found.items() if name not in self.stale}
        self.prepare: PrepareResult | None = current.get("prepare")
        self.train: TrainResult | None = current.get("train")
        self.pack: PackResult | None = current.get("pack")
        self.frozen: FrozenResult | None = current.get("frozen")
        self.score: ScoreResult | None = current.get("score")
        self.prove: ProveResult | None = current.get("prove")
        self.run = run
        # None: nobody here has decoded this proof
        self.verdict = None if "prove" in self.stale else verdicts.known(run)
        decoded = self.verdict.decoded if self.verdict is not None else None
        # bytes of the artifact as it lies there now, whatever pack.json says; None: it is damaged
        self.parts = decoded.parts if decoded else _parts(run)

    @property
    def proved_bpb(self) -> float | None:
        """Bits per byte of the proof: as decoded, or else as claimed."""
        if self.verdict is not None:
            return self.verdict.bpb if self.verdict else None
        return self.prove.bpb if self.prove else None

    @property
    def proof(self) -> Proof | None:
        """Sizes of the proof and its text: as decoded, or else as claimed."""
        if self.verdict is not None:
            d = self.verdict.decoded
            if not (self.verdict.verified and d):
                return None
            return Proof(d.proof_bytes, d.text_bytes, d.text_sha256, d.artifact_bytes)
        if not (self.prove and self.parts and self.prove.text_bytes > 0):
            return None
        claimed = self.prove
        size = sum(self.parts.values())
        return Proof(sum(claimed.files.values()), claimed.text_bytes, claimed.text_sha256, size)

    @property
    def evidence(self) -> str:
        """How the bits per byte are known: "verified", "NOT VERIFIED", "stale" or "claimed"."""
        if self.verdict is None:
            return "stale" if "prove" in self.stale else CLAIMED
        return "verified" if self.verdict.verified else "NOT VERIFIED"


def _parts(run: RunDirectory) -> dict[str, int] | None:
    if not run.artifact.is_file():
        return None
    from fairway.pipeline.inspect import inspect

    try:
        return inspect(run.artifact).parts
    except BadInput:  # damaged, or no artifact: no figure of it is shown
        return None


def read_documents(run: RunDirectory, score: ScoreResult) -> NDArray[np.float64]:
    """Return nats and bytes of each document that a score charged, float64[D, 2].

    Raises BadInput.
    """
    file, total = run.score_documents, score.nats_per_token * score.tokens
    try:
        data = foreign.read_bytes(file, "the documents' scores", 1 << 30)
        found: NDArray[np.float64] = np.load(io.BytesIO(data), allow_pickle=False)
        if found.dtype != np.float64 or found.shape != (len(found), 2):
            raise ValueError("it is no float64[documents, 2]")
        wrong = abs(found[:, 0].sum() - total) > 1e-6 * total
        if wrong or found[:, 1].sum() != score.text_bytes:
            raise ValueError("it is not of the score beside it")
    except foreign.Missing as error:
        raise BadInput(f"{error}: run fairway score on it again") from None
    except (ValueError, TypeError, AttributeError, EOFError, OverflowError, SyntaxError) as error:
        raise BadInput(f"{file} is damaged: {error}; run fairway score on it again") from None
    return found


@dataclass(frozen=True)
class Proved:
    """A finished run whose results are current and whose proof holds."""

    run: RunDirectory
    recipe: Recipe
    train: TrainResult
    score: ScoreResult
    decoded: Decoded


def proved(run: RunDirectory) -> Proved:
    """Return what is known about a proved run; decode the proof unless this user has done so.

    Raises BadInput where a result is missing or stale, or the proof does not hold.
    """
    recipe = run.load()
    runner.require_current(Job(recipe, run), [s.result for s in stages_of(recipe) if s.cached])
    verdict = verdicts.known(run)
    if verdict is None:
        verdict = verdicts.verify(Job(recipe, run))
    if not (verdict.verified and verdict.decoded):
        raise BadInput(f"the proof of {run.path} does not hold: {verdict.reason}")
    return Proved(run, recipe, run.require(TrainResult), run.require(ScoreResult), verdict.decoded)
