"""The stage `train`: shards → weights and calibration, within a budget, resumable at any moment."""

from __future__ import annotations

import torch

from fairway import console, distributed
from fairway.config.schema import Recipe
from fairway.distributed import Process
from fairway.errors import BadInput
from fairway.io import atomic
from fairway.pipeline.data_folder import load_tokenizer, load_train, load_val
from fairway.pipeline.directory import Job, RunDirectory
from fairway.pipeline.pack import check_budget
from fairway.pipeline.results import PrepareResult, TrainResult, is_allowed
from fairway.train.loop import Text, Trainer

_STARVED = 0.8  # warn when the process got less CPU than this share of wall time


def train(job: Job, *, device: str = "", replay: bool = False) -> TrainResult:
    """Train a recipe in its run directory, or go on where an earlier process stopped.

    With `replay`, a budget in seconds follows the clock readings of the finished run instead of
    the clock. Raises BadInput; Interrupted after Ctrl-C, when everything is saved.
    """
    process = distributed.start(device)
    if not process.is_main:
        console.silence()
    try:
        trainer = trainer_of(job.recipe, job.run, process, replay, job.stamp)
        job.resumed = trainer.step > 0
        return _finish(trainer, job, trainer.run_steps())
    except torch.OutOfMemoryError:
        raise BadInput(
            "out of GPU memory: is another process on it? else make the model or its window smaller"
        ) from None
    finally:
        distributed.stop()


def trainer_of(
    recipe: Recipe, run: RunDirectory, process: Process, replay: bool, stamp: str = ""
) -> Trainer:
    """Return a trainer on the data of a run. It resumes only a checkpoint that has this stamp.

    Raises BadInput.
    """
    folder = run.data_folder(run.require(PrepareResult))
    text = Text(load_tokenizer(folder), load_train(folder), load_val(folder))
    check_budget(recipe.model, text.tokenizer, recipe.pack, recipe.memory)
    return Trainer(recipe, text, run, process, replay, stamp)


def _finish(trainer: Trainer, job: Job, cpu_share: float) -> TrainResult:
    """Write the weights and return the result. cpu_share: CPU seconds per second of wall time."""
    recipe, process = job.recipe, trainer.process
    trained = trainer.finish()
    result = TrainResult(
        **vars(trained),
        within_limit=is_allowed(trained.train_s, recipe),
        weights_sha256=atomic.sha256_file(job.run.weights),
        seed=recipe.train.seed,
        device=distributed.describe(process)["device"],
        world_size=process.size,
        peak_memory_bytes=process.peak_memory_bytes(),
    )
    if process.is_main:
        if cpu_share < _STARVED:
            console.warn(
                f"training got {cpu_share:.2f} CPU seconds per second of wall time: "
                "other work slowed it, its clock is no measure of this machine"
            )
        if not result.within_limit:
            console.warn(result.failure)
    return result
