"""A run's chain from data to artifact holds; every cut link is named."""

import json

import numpy as np
import pytest
import torch

from fairway.audit.provenance import audit_run
from fairway.audit.twin_test import difference_of
from fairway.config.toml import load
from fairway.data.shards import write_shard
from fairway.io import checkpoint
from fairway.pipeline.data_folder import load_val
from fairway.pipeline.results import (
    PackResult,
    PrepareResult,
    ProveResult,
    ScoreResult,
    TrainResult,
    Verdict,
)
from fairway.pipeline.runner import perform
from fairway.train import calibrate


def broken(run, steps=2):
    result = audit_run([run.path], steps, None)
    return {f.condition for f in result.findings if f.verdict == "broken"}


def edit(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_an_honest_run_holds_to_the_bit(tiny):
    result = audit_run([tiny.path], 0, None)
    assert result.valid, result.failure
    training = next(f for f in result.findings if f.condition == "training")
    assert "40 to the bit; the weights are these to the bit" in training.summary


def test_a_run_in_seconds_holds_to_the_bit(tiny):
    """By its clock's readings; what calibration had no time for is left out again."""
    asked = ["train.seconds=2", "run.train_limit_s=10", "train.calibration_tokens=1000000"]
    recipe = load(str(tiny.recipe), ["train.steps=0", *asked])
    for kind in (ScoreResult, ProveResult, Verdict):  # of other weights
        tiny.invalidate(kind)
    tiny.create(recipe)
    perform(recipe, tiny, TrainResult)
    assert calibrate.load(tiny.calibration)[1]["tokens"] < 1_000_000
    perform(recipe, tiny, PackResult)
    result = audit_run([tiny.path], 0, None)
    assert result.valid, result.failure
    training = next(f for f in result.findings if f.condition == "training")
    assert "the weights are these to the bit" in training.summary


def test_training_on_other_text_is_seen_in_the_first_steps(tiny):
    """V7 and V10: the text that is scored is in the training text, and the hash is of that."""
    folder = tiny.data_folder(tiny.require(PrepareResult))
    (shard,) = folder.parent.glob("*/train_000000.bin")
    before = shard.read_bytes()
    val = np.array(load_val(folder))
    write_shard(shard, np.resize(val, (len(before) - 1024) // 2))
    recipe = load(str(tiny.recipe), [])
    tiny.invalidate(TrainResult)
    perform(recipe, tiny, TrainResult)
    perform(recipe, tiny, PackResult)
    shard.write_bytes(before)
    assert "training" in broken(tiny)


@pytest.mark.parametrize(("noise", "others", "holds"), [(0.2, 0, True), (0, 9, False)])
def test_rounding_grows_and_other_batches_are_seen(tiny, noise, others, holds):
    """Losses a fifth of what batches differ by from the replay's, and losses of other steps."""
    lines = [json.loads(line) for line in tiny.metrics.read_text("utf-8").splitlines()]
    losses = [line for line in lines if "loss" in line]
    values = np.array([line["loss"] for line in losses])
    fluctuation = np.diff(values).std() / np.sqrt(2)
    random = np.random.default_rng(3)
    moved = values + noise * fluctuation * random.normal(size=len(values))
    moved[20 : 20 + others] = moved[20 : 20 + others][::-1].copy()
    moved[:8] = values[:8]
    for line, value in zip(losses, moved.tolist(), strict=True):
        line["loss"] = value
    tiny.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert ("training" not in broken(tiny, steps=40)) is holds


def test_a_loss_that_was_not_written_down(tiny):
    lines = tiny.metrics.read_text("utf-8").splitlines(keepends=True)
    tiny.metrics.write_text("".join(line for line in lines if json.loads(line)["step"] != 15))
    assert "training" in broken(tiny, steps=20)


def test_weights_that_moved_after_training(tiny):
    """V7: fine-tuned on something else, then packed."""
    tensors, note = checkpoint.load(tiny.weights)
    name = next(n for n, t in tensors.items() if t.ndim == 2)
    tensors[name] = tensors[name] + 0.01 * torch.randn(tensors[name].shape)
    checkpoint.save(tiny.weights, tensors, note)
    assert {"files", "calibration", "packing"} <= broken(tiny)


def test_calibration_on_other_text(tiny):
    """V12."""
    tensors, note = checkpoint.load(tiny.calibration)
    checkpoint.save(tiny.calibration, {n: 1.1 * t for n, t in tensors.items()}, note)
    assert "calibration" in broken(tiny)


def test_time_and_size(tiny):
    """V13 and V14."""
    edit(tiny.path / "train.json", train_s=9999.0)
    assert "budgets" in broken(tiny)
    tiny.artifact.write_bytes(tiny.artifact.read_bytes() + b"\0" * 3000)
    assert {"budgets", "files"} <= broken(tiny)


def test_seeds_of_another_recipe(tiny, tmp_path):
    """V15."""
    text = tiny.recipe.read_text()
    other = tmp_path / "runs" / "other"
    other.symlink_to(tiny.path)
    result = audit_run([tiny.path, other], 1, None)
    assert "seeds" in {f.condition for f in result.findings if f.verdict == "broken"}
    tiny.recipe.write_text(text.replace("seed = 1337", "seed = 1"))
    assert "recipe" in broken(tiny)


@pytest.mark.parametrize(("leak", "is_found"), [(0.0, False), (0.1, True)])
def test_a_twin_shows_a_leak_and_its_error(leak, is_found):
    random = np.random.default_rng(1)

    def texts(count, gain):
        hard = random.normal(2.5, 0.4, count)
        return np.stack([0.7 * hard + random.normal(0, 0.1, count) - gain, hard], 1)

    difference, error = difference_of(texts(400, leak), texts(300, 0.0))
    assert abs(difference + leak) < 4 * error
    assert (difference / error < -3.09) is is_found
    assert 0.005 < error < 0.01


def test_twin_errors_are_calibrated():
    random = np.random.default_rng(2)
    z = []
    for _ in range(400):
        rows = random.normal(size=(2, 60, 2))
        difference, error = difference_of(*rows)
        z.append(difference / error)
    assert np.std(z) == pytest.approx(1.0, abs=0.12)
