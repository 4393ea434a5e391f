"""The command `audit run`: where an artifact came from, which no round trip can show.

A chain: the data's hash, a replay of the first training steps, the calibration computed anew from
the weights, the artifact packed anew from both. What lies between the replayed steps and the
weights is taken on trust, unless all steps are replayed.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Mapping, Sequence
from math import sqrt
from pathlib import Path

import numpy as np
import torch

from fairway import console, distributed
from fairway.audit import twin_test as twins
from fairway.audit.experiment import evidence_of, finding, result_of
from fairway.config.schema import Recipe
from fairway.errors import BadInput
from fairway.io import atomic, checkpoint, foreign
from fairway.pipeline import runner
from fairway.pipeline.command_results import AuditFinding, AuditResult
from fairway.pipeline.data_folder import load_tokenizer, load_train
from fairway.pipeline.directory import RunDirectory
from fairway.pipeline.pack import pack_weights
from fairway.pipeline.results import PackResult, PrepareResult, TrainResult, is_allowed
from fairway.pipeline.seeds import distinct_seeds
from fairway.pipeline.train import trainer_of
from fairway.train import calibrate
from fairway.train.loop import Trainer, recorded_readings

_LOSS_TOLERANCE = 1e-3  # relative: another machine's rounding, over a few steps
_STRICT, _RECENT, _SHARE = 8, 8, 0.5
_SAME = "all bytes, exact"


def audit_run(folders: Sequence[Path], steps: int, twin: Path | None) -> AuditResult:
    """Audit finished runs. Several are taken for seeds of one recipe. Raises BadInput."""
    began = time.monotonic()
    collected: list[AuditFinding] = []
    runs = [RunDirectory(folder) for folder in folders]
    for run in runs:
        prefix = f"{run.path}: " if len(runs) > 1 else ""
        for one in _of_run(run, steps, twin):
            collected.append(one.model_copy(update={"summary": prefix + one.summary}))
    if len(runs) > 1:
        collected.append(_seeds(runs))
    return result_of(", ".join(map(str, folders)), collected, began)


def _of_run(run: RunDirectory, steps: int, twin: Path | None) -> list[AuditFinding]:
    recipe = run.load()
    data, trained = run.require(PrepareResult), run.require(TrainResult)
    packed = run.require(PackResult)
    findings = [
        _data(run, data),
        _recipe(recipe, run, trained),
        _files(run, trained, packed),
        _training(recipe, run, trained, steps),
    ]
    if recipe.pack.quantizer == "gptq":
        findings.append(_calibration(recipe, run, trained))
    findings += [_packing(recipe, run, packed), _budgets(recipe, run, trained)]
    if twin is not None:
        findings.append(twins.compare(recipe, run, twin))
    return findings


def _compared(
    condition: str, pairs: Mapping[str, tuple[object, object]], what: str
) -> AuditFinding:
    """Return a finding that holds where the two of each pair are equal."""
    wrong = [f"{k}: {a} is written, {b} is there" for k, (a, b) in pairs.items() if a != b]
    summary = "; ".join(wrong) if wrong else what
    return finding(condition, bool(wrong), summary, _SAME)


def _data(run: RunDirectory, data: PrepareResult) -> AuditFinding:
    """Check that the shards are those that the result names."""
    digest = hashlib.sha256()
    for shard in load_train(run.data_folder(data)):
        digest.update(shard.data)
    pairs = {"train_sha256": (data.train_sha256, digest.hexdigest())}
    return _compared("data", pairs, f"{data.train_tokens:,} training tokens have their hash")


def _recipe(recipe: Recipe, run: RunDirectory, trained: TrainResult) -> AuditFinding:
    """Check that each result was made with the recipe beside it, and by this code."""
    wrong = [
        f"{name}.json was {state.why_stale}"
        for name, state in runner.states(run).items()
        if state.why_stale
    ]
    if recipe.train.seed != trained.seed:
        wrong.append(f"the recipe's seed is {recipe.train.seed}, training says {trained.seed}")
    if wrong:
        return finding("recipe", True, "; ".join(wrong), _SAME)
    try:
        environment = foreign.read_json(run.env, "the file")
    except foreign.Missing:
        environment = {}
    same = isinstance(environment, dict) and environment.get("code_sha256") == atomic.code_sha256()
    said = "the results are this recipe's; trained by "
    said += "this code" if same else "other code, or code that left no hash"
    return finding("recipe", False if same else None, said, _SAME)


def _files(run: RunDirectory, trained: TrainResult, packed: PackResult) -> AuditFinding:
    """Check that weights, artifact and proof are the files that the results name."""
    pairs: dict[str, tuple[object, object]] = {
        "weights": (trained.weights_sha256, atomic.sha256_file(run.weights)),
        "artifact": (packed.artifact_sha256, atomic.sha256_file(run.artifact)),
        "artifact_bytes": (packed.artifact_bytes, run.artifact.stat().st_size),
    }
    return _compared("files", pairs, f"{', '.join(pairs)} are what the results say")


def _training(recipe: Recipe, run: RunDirectory, trained: TrainResult, steps: int) -> AuditFinding:
    """Repeat the first steps and compare their losses with those of metrics.jsonl."""
    lines = console.read_metrics(run.metrics)
    written = {line["step"]: line["loss"] for line in lines if "loss" in line}
    count = min(steps or trained.steps, trained.steps)
    trainer = _trainer(recipe, run)
    again: list[float] = []
    expected: list[float] = []
    strength = (
        f"the first {count:,} of {trained.steps:,} steps: other data, another start or seed in "
        "them; nothing later"
    )
    with console.track("replay", count, "steps") as task:
        for _ in range(count):
            again.append(trainer.advance())
            expected.append(float(written.get(trainer.step, np.nan)))
            if _other_loss(again, expected):
                wrong = evidence_of([trainer.step], expected[-1], again[-1])
                summary = f"step {trainer.step} has another loss when it is done again"
                return finding("training", True, summary, strength, wrong)
            task.update(trainer.step, loss=f"{again[-1]:.3f}")
    apart = np.abs(np.subtract(again, expected))
    summary = (
        f"{count:,} steps have the losses that were written down, {int((apart == 0).sum()):,} to "
        "the bit"
    )
    if apart.any():
        summary += f", the others up to {apart.max():.1e} nats, which rounding grows to"
    if count < trained.steps:
        return finding("training", False, summary, strength)
    trainer.average.apply()
    same = _weights_sha256(trainer) == trained.weights_sha256
    summary += "; the weights are these to the bit" if same else "; the weights are others"
    return finding("training", None if not same else False, summary, "all steps")


def _other_loss(again: list[float], written: list[float]) -> bool:
    """Say whether the loss of the last step differs from the one that was written down.

    Rounding is another where the machine is, or compiled code, and what begins at the last bit
    grows from step to step. So after _STRICT steps the last _RECENT losses together are judged, by
    what losses differ by from batch to batch: on other text they are 1.4 times that apart.
    """
    apart = np.subtract(again, written)[-_RECENT:]
    if len(again) <= _STRICT or np.isnan(apart[-1]):
        return not abs(apart[-1]) <= _LOSS_TOLERANCE * abs(written[-1])
    between_batches = float(np.diff(again).std()) / sqrt(2)
    allowed = max(_SHARE * between_batches, _LOSS_TOLERANCE * abs(written[-1]))
    return float(np.sqrt(np.square(apart).mean())) > allowed


def _weights_sha256(trainer: Trainer) -> str:
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "weights.safetensors"
        checkpoint.save(file, dict(trainer.model.state_dict()), {})
        return atomic.sha256_file(file)


def _trainer(recipe: Recipe, run: RunDirectory) -> Trainer:
    """Return a trainer that starts at step 0 and writes nothing into the run."""
    return trainer_of(recipe, run, distributed.start(), replay=bool(recipe.train.seconds))


def _calibration(recipe: Recipe, run: RunDirectory, trained: TrainResult) -> AuditFinding:
    """Compute the calibration again: what packing knows of text must come from training text."""
    trainer = _trainer(recipe, run)
    tensors, _ = checkpoint.load(run.weights)
    trainer.model.dtype = trainer.process.dtype  # as at the end of training
    trainer.model.load_state_dict(tensors)
    trainer.step = trained.steps
    written, note = calibrate.load(run.calibration)
    tokens = note.get("tokens")
    again, _ = trainer.curvatures(tokens if isinstance(tokens, int) and tokens > 0 else 0)
    apart = max(_apart(again[name], written[name]) for name in written)
    strength = f"{len(written)} matrices, all entries"
    if set(again) != set(written) or not apart < _LOSS_TOLERANCE:
        summary = f"the calibration is not that of the training text: it is {apart:.1%} off"
        return finding("calibration", True, summary, strength)
    summary = f"the calibration is that of the training text, up to {apart:.1e}"
    return finding("calibration", False, summary, strength)


def _apart(one: calibrate.Curvature, two: calibrate.Curvature) -> float:
    """Return the largest relative distance of a pair."""
    pairs = ((one.inputs, two.inputs), (one.outputs, two.outputs))
    return max(float(torch.dist(a, b) / b.norm().clamp(min=1e-30)) for a, b in pairs)


def _packing(recipe: Recipe, run: RunDirectory, packed: PackResult) -> AuditFinding:
    """Pack the weights again and compare the artifact."""
    tensors, _ = checkpoint.load(run.weights)
    weights = {name: t.float().numpy() for name, t in tensors.items()}
    curved = recipe.pack.quantizer == "gptq"
    curvatures = calibrate.load(run.calibration)[0] if curved else {}
    tokenizer = load_tokenizer(run.data_folder(run.require(PrepareResult)))
    again = pack_weights(recipe.model, tokenizer, weights, curvatures, recipe.pack, recipe.memory)
    if again.artifact.sha256 == packed.artifact_sha256:
        return finding("packing", False, "the weights pack to this artifact", _SAME)
    state, there = again.artifact.state, atomic.sha256_file(run.artifact)
    summary = f"the weights pack to another artifact than {there[:12]} ({len(state)} tensors)"
    return finding("packing", True, summary, _SAME)


def _budgets(recipe: Recipe, run: RunDirectory, trained: TrainResult) -> AuditFinding:
    """Check size and training time against their budgets, by the files where they can tell."""
    wrong = []
    limit = f" of {recipe.run.train_limit_s:.0f}" if recipe.run.train_limit_s else ", no limit"
    if not is_allowed(trained.train_s, recipe):
        wrong.append(f"training took {trained.train_s:.0f} s{limit}")
    size = run.artifact.stat().st_size
    if size > recipe.pack.budget_bytes:
        wrong.append(f"the artifact has {size:,} bytes of {recipe.pack.budget_bytes:,}")
    readings = recorded_readings(run.clock) if run.clock.exists() else []
    if readings and (np.diff(readings).min(initial=0.0) < 0 or readings[-1] > trained.train_s):
        wrong.append("the clock's readings run backwards, or on after the end of training")
    summary = "; ".join(wrong) or (
        f"{trained.train_s:.0f} s{limit}, {size:,} bytes of {recipe.pack.budget_bytes:,}"
    )
    strength = "size: the file; time: what the run's clock wrote down, on trust"
    return finding("budgets", bool(wrong), summary, strength)


def _seeds(runs: Sequence[RunDirectory]) -> AuditFinding:
    """Check that runs of one recipe differ in the seed alone."""
    strength = "the recipes, exact; that these were not the best of more seeds cannot be seen"
    try:
        seeds = sorted(distinct_seeds(runs))
    except BadInput as error:
        return finding("seeds", True, str(error), strength)
    said = f"{len(seeds)} runs differ in the seed alone: {seeds}"
    return finding("seeds", False, said, strength)
