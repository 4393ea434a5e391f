"""Training as a GPU sees it: on a pretended device, which counts what the host waits for."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fairway.config.toml import load
from fairway.distributed import Process
from fairway.pipeline.directory import RunDirectory
from fairway.train.loop import Text, Trainer
from fake_cuda import CUDA, FakeCuda

STEPS, ROWS = 2, 2  # rows of a batch
SHALLOW = ["model.num_layers=3"]  # the other layers would show the same again
STAGED = [  # windows of 1024 tokens, then the rest of the softmax, then layers that are repeated
    *SHALLOW,
    "model.exclusive_layers=3",
    "model.parallel_layers=1",
    "model.repeat_first=1",
    "model.repeat_last=1",
    "train.sampled_tokens=2000",
    "train.sampled_until=0.2",
    "train.calibration_tokens=4096",
]


def trainer(folder: Path, name: str, sets: list[str]) -> Trainer:
    """Return the trainer of a shipped recipe, uncompiled, on noise."""
    batch = ROWS * load(name).model.window
    budget = ["train.seconds=0", f"train.steps={STEPS}", f"train.batch_tokens={batch}"]
    recipe = load(name, [*budget, "train.compile=false", *sets])
    tokens = np.random.default_rng(1).integers(2, 1000, 8 * batch).astype(np.uint16)
    tokenizer = SimpleNamespace(
        vocab_size=recipe.data.vocab_size, bos_id=1, byte_lengths=np.ones_like
    )
    text = Text(tokenizer, [tokens], tokens[:5000])  # type: ignore[arg-type]
    process = Process(0, 1, CUDA, torch.bfloat16)
    return Trainer(recipe, text, RunDirectory(folder), process, False, "stamp")


@pytest.mark.parametrize(
    ("name", "sets"),
    [
        ("pr264", SHALLOW),
        ("frontier", STAGED),
        pytest.param("pr264", [], marks=pytest.mark.slow),
        pytest.param("frontier", ["train.calibration_tokens=4096"], marks=pytest.mark.slow),
    ],
)
def test_steps_never_wait_for_the_device(tmp_path: Path, name: str, sets: list[str]) -> None:
    """But for the loss of the step before, with all of the next step queued behind it."""
    with FakeCuda() as cuda:
        trainer(tmp_path, name, sets)._save()
        training = trainer(tmp_path, name, sets)  # resumes
        cuda.waits.clear()
        training.run_steps()
        steps = dict(cuda.waits)
        cuda.waits.clear()
        trained = training.finish()
    assert steps == {
        ("distributed.py read", "event"): STEPS,
        ("distributed.py synchronize", "synchronize"): 2,  # before the clock starts, and at the end
    }
    assert min(cuda.queued_after[:-1]) > 500
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["loss"] for line in lines] == [1.0] * STEPS
    assert trained.val_nats_per_token == pytest.approx(1.0)
    assert {place.partition(" ")[0] for place, _ in cuda.waits} <= {
        "distributed.py",
        "io/checkpoint.py",
        "train/calibrate.py",
        "train/validate.py",
    }
