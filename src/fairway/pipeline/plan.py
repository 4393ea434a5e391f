"""Predict which stages `fairway run` would run and why, and what each would cost (--dry-run).

Costs are predicted from the shape of the network and one short measurement of this machine; the
shares below were fitted to runs of the shipped recipes on two CPU cores and hold within a factor
of about two.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch

from fairway import distributed
from fairway.config.schema import Recipe
from fairway.model.parameters import tensors_of
from fairway.model.sizes import flops_per_token
from fairway.pipeline import verdicts
from fairway.pipeline.directory import Job, RunDirectory
from fairway.pipeline.prepare import check_source
from fairway.pipeline.results import PrepareResult
from fairway.pipeline.runner import downstream, state
from fairway.pipeline.stage import Stage, stages_of
from fairway.quantize.size import predicted_bytes

COLUMNS = ["stage", "what", "seconds", "memory", "writes"]

_TRAIN_SHARE = 0.35  # of the measured matrix-product rate that training reaches
_SCORE_SHARE = 0.5  # ... that scoring many tokens at once reaches
_STEP_SHARE = 0.15  # ... that coding one token per lane and step reaches
_MICRO_TOKENS = 8192  # the most tokens whose activations are held at once


@dataclass(frozen=True)
class Cost:
    """Predictions; None where nothing is known before the stage runs."""

    seconds: float | None = None
    memory_bytes: float | None = None
    output_bytes: float | None = None


@dataclass(frozen=True)
class Step:
    stage: str
    reason: str  # why it would run; empty: its result is current
    cost: Cost


def plan(recipe: Recipe, run: RunDirectory, force: str = "") -> list[Step]:
    """Return every stage in order. Raises BadInput when the documents cannot be read."""
    check_source(recipe.data)
    costs = predict(recipe, run)
    forced = downstream(force) if force else []
    steps: list[Step] = []
    running: list[Stage] = []
    for stage in stages_of(recipe):
        above = [other.name for other in running if other.result in stage.needs]
        if stage in forced:
            reason = f"--force {force}"
        elif above:
            reason = f"after {', '.join(above)}"
        else:
            reason = _why(Job(recipe, run), stage)
        if reason:
            running.append(stage)
        steps.append(Step(stage.name, reason, costs.get(stage.name, Cost())))
    return steps


def _why(job: Job, stage: Stage) -> str:
    """Return why the stage would run; empty: its result is current."""
    if not stage.cached:
        known = verdicts.known(job.run)
        return "" if known else "nobody here has decoded this proof"
    found = state(job, stage.result, inputs=True)
    if found.recorded is None:
        return "not finished"
    return f"changed: {', '.join(found.changed)}" if found.changed else ""


def rows(steps: list[Step]) -> list[list[str]]:
    """Return cells of a table under COLUMNS; costs only of what would run."""
    return [
        [
            step.stage,
            f"would run ({step.reason})" if step.reason else "finished",
            _cell(step.cost.seconds, 1, "s") if step.reason else "",
            _cell(step.cost.memory_bytes, 1e6, "MB") if step.reason else "",
            _cell(step.cost.output_bytes, 1e3, "kB") if step.reason else "",
        ]
        for step in steps
    ]


def _cell(value: float | None, unit: float, name: str) -> str:
    return "?" if value is None else f"{math.ceil(value / unit):,} {name}"


def predict(recipe: Recipe, run: RunDirectory) -> dict[str, Cost]:
    """Return the cost of each stage on this machine, and the artifact's size."""
    shape, budget = recipe.model, recipe.train
    tensors = tensors_of(shape, recipe.data.vocab_size)
    weights_bytes = 4 * sum(math.prod(tensor.shape) for tensor in tensors)
    activations_bytes = 4 * _MICRO_TOKENS * _activations(recipe)
    flops = flops_per_token(shape, recipe.data.vocab_size)
    rate = matmul_rate(shape.dim, shape.mlp_hidden)

    def seconds(tokens: float, share: float) -> float:
        return tokens * flops / (rate * share)

    tokens = budget.tokens or budget.steps * budget.batch_tokens
    prepared = run.recorded(PrepareResult)
    text = float(prepared.val_tokens) if prepared else None
    again = shape.window / recipe.score.stride if recipe.score.protocol == "sliding" else 1.0
    coding = Cost(seconds(text, _STEP_SHARE) / 3 if text else None, 3 * weights_bytes)
    scoring = Cost(
        seconds(text * again, _SCORE_SHARE) / 3 if text else None,
        weights_bytes + activations_bytes / 2,
    )
    return {
        "prepare": Cost(),
        "train": Cost(
            budget.seconds or seconds(tokens, _TRAIN_SHARE),
            5 * weights_bytes + activations_bytes,  # weights, gradients, two moments, average
            weights_bytes,
        ),
        "pack": Cost(None, 3 * weights_bytes, predicted_bytes(recipe)),
        "frozen": scoring,
        "score": scoring,
        "prove": coding,
        "verify": coding,
    }


def _activations(recipe: Recipe) -> int:
    """Return about how many values per token the backward pass needs."""
    shape = recipe.model
    return shape.num_layers * (8 * shape.dim + 3 * shape.mlp_hidden) + 3 * recipe.data.vocab_size


def matmul_rate(dim: int, hidden: int) -> float:
    """Return how many operations per second [4096, dim] @ [dim, hidden] reaches on this machine."""
    place = distributed.start()
    a = torch.randn(4096, dim, device=place.device, dtype=place.dtype)
    b = torch.randn(dim, hidden, device=place.device, dtype=place.dtype)
    best = math.inf
    for _ in range(8):
        place.synchronize()
        start = time.perf_counter()
        a @ b
        place.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * 4096 * dim * hidden / best
