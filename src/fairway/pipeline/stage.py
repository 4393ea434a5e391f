"""The table of stages: documents, tokens, weights, artifact, score, proof, verdict.

A new stage is one row here and one function. The runner (runner.py) reads nothing else.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fairway.config.schema import Recipe
from fairway.pipeline.directory import Job, RunDirectory
from fairway.pipeline.results import (
    FrozenResult,
    PackResult,
    PrepareResult,
    ProveResult,
    Result,
    ScoreResult,
    TrainResult,
    Verdict,
)


@dataclass(frozen=True)
class Stage:
    """One stage of the pipeline; its name is that of the result, `result.stage`."""

    function: Callable[..., Result]  # of a Job, and of options of the command
    result: type[Result]
    keys: tuple[str, ...]  # sections or keys of the recipe that the result depends on
    needs: tuple[type[Result], ...]  # results that it depends on; the table is in that order
    version: int  # of the code: raise it when the same inputs give another result
    outputs: tuple[str, ...] = ()  # paths in RunDirectory
    hashes: tuple[str, ...] = ()  # fields of the result that stand for the outputs
    partial: tuple[str, ...] = ()  # paths in RunDirectory of unfinished work
    documents: Callable[[Recipe], str] | None = None  # hash of inputs outside the run directory
    is_complete: Callable[[Job, Any], bool] = lambda job, result: True  # outputs elsewhere
    remove: Callable[[RunDirectory], None] = lambda run: None  # delete these
    shared: Callable[[Recipe], bool] = lambda recipe: False  # whether all ranks work on it together
    applies: Callable[[Recipe], bool] = lambda recipe: True  # whether a recipe has the stage
    cached: bool = True  # whether a result in the run directory may stand for the work

    @property
    def name(self) -> str:
        return self.result.stage


# The functions import their modules late: most need torch, and this table does not.


def _prepare(job: Job) -> PrepareResult:
    from fairway.pipeline.prepare import prepare

    return prepare(job)


def _documents(recipe: Recipe) -> str:
    from fairway.pipeline.prepare import fingerprint

    return fingerprint(recipe.data)


def _is_prepared(job: Job, result: PrepareResult) -> bool:
    from fairway.pipeline.data_folder import is_complete

    return is_complete(job.run.data_folder(result))


def _remove_data(run: RunDirectory) -> None:
    result = run.recorded(PrepareResult)
    folder = run.data_folder(result).resolve() if result else None
    if folder and folder.parent == run.data_root.resolve():
        shutil.rmtree(folder, ignore_errors=True)


def _train(job: Job, **options: Any) -> TrainResult:
    from fairway.pipeline.train import train

    return train(job, **options)


def _pack(job: Job) -> PackResult:
    from fairway.pipeline.pack import pack

    return pack(job)


def _frozen(job: Job) -> FrozenResult:
    from fairway.pipeline.score import frozen

    return frozen(job)


def _score(job: Job) -> ScoreResult:
    from fairway.pipeline.score import score

    return score(job)


def _prove(job: Job) -> ProveResult:
    from fairway.pipeline.prove import prove

    return prove(job)


def _verify(job: Job) -> Verdict:
    from fairway.pipeline.verdicts import verify

    return verify(job)


STAGES: tuple[Stage, ...] = (
    Stage(
        _prepare, PrepareResult, keys=("data",), needs=(), version=1,
        documents=_documents, is_complete=_is_prepared, remove=_remove_data,
    ),
    Stage(
        _train, TrainResult, keys=("model", "optim", "train"), needs=(PrepareResult,), version=2,
        outputs=("weights",), hashes=("weights_sha256",), partial=("checkpoint",),
        shared=lambda recipe: True,
    ),
    Stage(
        _pack, PackResult, keys=("pack", "memory"), needs=(TrainResult,), version=2,
        outputs=("artifact",), hashes=("artifact_sha256",),
    ),
    Stage(
        _frozen, FrozenResult, keys=("score", "prove.lanes"), needs=(PackResult,), version=2,
        applies=lambda recipe: recipe.adapt.method != "none",
    ),
    Stage(
        _score, ScoreResult, keys=("adapt", "score", "prove.lanes"), needs=(PackResult,), version=5,
        outputs=("score_documents",), partial=("score_learned",),
        shared=lambda recipe: recipe.adapt.method != "none",
    ),
    Stage(
        _prove, ProveResult, keys=("adapt", "prove"), needs=(PackResult,), version=3,
        outputs=("proof_file",), partial=("prove_checkpoint", "prove_learned"),
    ),
    Stage(_verify, Verdict, keys=(), needs=(ProveResult,), version=1, cached=False),
)  # fmt: skip


def stages_of(recipe: Recipe) -> list[Stage]:
    """Return the stages that a recipe has, in order."""
    return [stage for stage in STAGES if stage.applies(recipe)]
