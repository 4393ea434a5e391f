"""Training as a user meets it: killed, stopped, repeated, spread over two processes."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import processes
from fairway.config.schema import Recipe
from fairway.config.toml import load
from fairway.data.batches import Batches
from fairway.errors import BadInput
from fairway.io import checkpoint
from fairway.model.gpt import build
from fairway.pipeline import directory
from fairway.pipeline.results import TrainResult
from fairway.pipeline.runner import perform
from fairway.train.loop import trust_no_headers_of_others
from fairway.train.optim import Optimizer
from fairway.train.schedule import learning_rate, momentum
from short import WORDS, load_short

STEPS = ["train.steps=60", "run.checkpoint_every_s=0.05", "train.sampled_tokens=400"]


def words(run: directory.RunDirectory, sets: list[str]) -> list[str]:
    values = [word for value in sets for word in ("--set", value)]
    return ["train", "tiny", "--out", str(run.path), *WORDS, *values]


def weights(run: directory.RunDirectory) -> torch.Tensor:
    tensors, _ = checkpoint.load(run.weights)
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)])


def again(run: directory.RunDirectory, name: str) -> directory.RunDirectory:
    """A run folder beside `run`, with the same data and nothing trained."""
    other = directory.RunDirectory(run.path.parent / name)
    other.path.mkdir()
    for file in ("prepare.json", "recipe.toml"):
        (other.path / file).write_bytes((run.path / file).read_bytes())
    return other


def reference(run: directory.RunDirectory, recipe: Recipe) -> torch.Tensor:
    """Trained in this process, with one thread as in those that `start` makes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        perform(recipe, run, TrainResult)
    finally:
        torch.set_num_threads(threads)
    return weights(run)


def test_killed_at_any_moment_it_ends_with_the_same_weights(tiny: directory.RunDirectory) -> None:
    killed = again(tiny, "killed")
    expected = reference(again(tiny, "whole"), load_short(STEPS))
    kills = 0
    for seed in range(4):
        process = processes.command(*words(killed, STEPS))
        processes.until(killed.metrics.exists, process)
        time.sleep(random.Random(seed).uniform(0.0, 0.4))
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    process = processes.command(*words(killed, STEPS))
    assert process.wait() == 0, process.stderr
    assert "steps" in process.stderr
    assert kills
    assert torch.equal(weights(killed), expected)
    lines = [json.loads(line)["step"] for line in killed.metrics.read_text().splitlines()]
    assert lines == list(range(1, 61))


def test_ctrl_c_saves_and_exits_130(tiny: directory.RunDirectory) -> None:
    run = again(tiny, "stopped")
    sets = ["train.steps=100000", "run.train_limit_s=1e6"]
    process = processes.command(*words(run, sets))
    processes.until(
        lambda: run.metrics.exists() and run.metrics.read_text().count("\n") > 3, process
    )
    assert process.poll() is None, process.stderr
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130, process.stderr
    assert "the same command goes on" in process.stderr
    _, note = checkpoint.load(run.checkpoint)
    assert note["step"] >= 3


def test_a_checkpoint_of_another_recipe_is_not_continued(tiny: directory.RunDirectory) -> None:
    run = again(tiny, "changed")
    checkpoint.save(run.checkpoint, {"readings": torch.zeros(0)}, {"stamp": "other", "step": 9})
    result = perform(load_short(["train.steps=3"]), run, TrainResult)
    assert result.steps == 3


def test_two_processes_train_the_same_weights_as_one(tiny: directory.RunDirectory) -> None:
    sets = ["train.steps=20"]
    one = reference(again(tiny, "one"), load_short(sets))
    pair = again(tiny, "pair")
    for process in processes.ranks(*words(pair, sets)):
        assert process.wait() == 0, process.stderr
    two = weights(pair)
    assert (two - one).norm() / one.norm() < 1e-5
    result = pair.require(TrainResult)
    assert result.world_size == 2


def test_products_in_bfloat16_learn_what_products_in_float32_learn(
    tiny: directory.RunDirectory,
) -> None:
    """Both networks are scored in fp32 at the end."""
    run = again(tiny, "bfloat16")
    result = perform(load_short(["train.dtype=bfloat16"]), run, TrainResult)
    assert json.loads(run.env.read_text())["dtype"] == "bfloat16"
    whole = tiny.require(TrainResult)
    assert result.val_bpb == pytest.approx(whole.val_bpb, rel=2e-3)
    assert result.val_bpb != whole.val_bpb


def test_replayed_clock_repeats_a_run_in_seconds(tiny: directory.RunDirectory) -> None:
    run = again(tiny, "seconds")
    recipe = load_short(["train.seconds=0.5"])
    first = perform(recipe, run, TrainResult)
    expected = weights(run)
    assert first.steps > 1
    second = perform(recipe, run, TrainResult, replay=True)
    assert second.steps == first.steps
    assert torch.equal(weights(run), expected)


def test_accumulation_does_not_change_the_result(
    tiny: directory.RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fairway.train import loop

    recipe = load_short(["train.steps=10"])
    whole = reference(again(tiny, "whole"), recipe)
    monkeypatch.setattr(loop, "_MICRO_TOKENS", {"cpu": 128, "cuda": 128})
    pieces = reference(again(tiny, "pieces"), recipe)
    assert (whole - pieces).norm() / whole.norm() < 1e-5


def test_two_processes_in_bfloat16_lose_what_one_loses(tiny: directory.RunDirectory) -> None:
    sets = ["train.steps=40", "train.dtype=bfloat16"]
    one = perform(load_short(sets), again(tiny, "one"), TrainResult)
    pair = again(tiny, "pair")
    for process in processes.ranks(*words(pair, sets)):
        assert process.wait() == 0, process.stderr
    two = pair.require(TrainResult)
    assert two.val_bpb == pytest.approx(one.val_bpb, rel=2e-3)


@pytest.mark.parametrize("fitting", [5, 1, 0])
def test_rows_that_do_not_fit_memory_are_taken_fewer_at_once(
    tiny: directory.RunDirectory, monkeypatch: pytest.MonkeyPatch, fitting: int
) -> None:
    """A GPU's allocator raises what is raised here; a CPU has no such limit to run into."""
    from fairway.model.gpt import GPT

    whole = reference(again(tiny, "fits"), load_short(["train.steps=4"]))
    loss, seen = GPT.loss, []

    def bounded(model: GPT, x: torch.Tensor, y: torch.Tensor, sample: None = None) -> torch.Tensor:
        if torch.is_grad_enabled():
            seen.append(len(x))
            if len(x) > fitting:
                raise torch.OutOfMemoryError
        return loss(model, x, y, sample)

    monkeypatch.setattr(GPT, "loss", bounded)
    monkeypatch.setattr(torch, "compile", lambda f, **_: f)
    run, recipe = again(tiny, "bounded"), load_short(["train.steps=4", "train.compile=true"])
    if not fitting:
        with pytest.raises(BadInput, match="one row of 32 tokens"):
            perform(recipe, run, TrainResult)
        return
    pieces = reference(run, recipe)
    assert max(seen[-4:]) == {5: 4, 1: 1}[fitting]
    assert (whole - pieces).norm() / whole.norm() < 1e-5


def test_what_no_compiler_can_run_is_trained_without_one(
    tiny: directory.RunDirectory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Inductor raises this at the first call of a kernel that fits into no GPU."""
    from torch._inductor.runtime.triton_heuristics import NoTritonConfigsError

    def compiled(loss):
        def call(*batch):
            loss(*batch).backward()
            raise NoTritonConfigsError("No valid triton configs")

        return call

    whole = reference(again(tiny, "plain"), load_short(["train.steps=4"]))
    monkeypatch.setattr(torch, "compile", lambda loss, **_: compiled(loss))
    run = again(tiny, "uncompiled")
    assert torch.equal(reference(run, load_short(["train.steps=4", "train.compile=true"])), whole)
    shown = " ".join(capsys.readouterr().err.split())
    assert "slower without it: No valid triton configs" in shown
    assert "memory: " in shown  # rehearsed without the compiler, too


def test_headers_are_not_taken_from_a_folder_of_others(tmp_path, monkeypatch) -> None:
    """torch keeps what it precompiles under a name that anybody can guess, and compiles with it."""
    from torch._inductor import config

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with config.patch(cpp_cache_precompile_headers=True):
        trust_no_headers_of_others()
        (folder,) = tmp_path.iterdir()
        assert folder.stat().st_mode & 0o777 == 0o700
        assert config.cpp_cache_precompile_headers
        folder.chmod(0o777)
        trust_no_headers_of_others()
        assert not config.cpp_cache_precompile_headers


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler
def test_all_that_steps_need_is_compiled_before_the_clock_starts(tiny) -> None:
    stages = "train.windows=[[0.5, 16]]"
    shape = ["model.num_layers=1", "model.bigram_rows=0"]  # compiling is most of the time
    recipe = load_short(["train.steps=8", "train.compile=true", stages, *shape])
    with torch._dynamo.config.patch(error_on_recompile=True):
        torch.compiler.reset()
        trained = perform(recipe, again(tiny, "compiled"), TrainResult)
    assert trained.steps == 8
    assert trained.compile_s > 1


@pytest.mark.parametrize("repeated", [False, True])
def test_one_layer_trains(tiny: directory.RunDirectory, repeated: bool) -> None:
    """Its skips are empty; repeated from half of the steps on, they have no part before."""
    sets = ["train.steps=6", "model.num_layers=1"]
    if repeated:
        sets += ["model.repeat_times=2", "train.repeat_from=0.5"]
    run = again(tiny, f"one-layer-{repeated}")
    trained = perform(load_short(sets), run, TrainResult)
    assert math.isfinite(trained.val_bpb)
    skips = checkpoint.load(run.weights)[0]["skips"]
    assert skips.shape == (int(repeated), 32)
    assert torch.all(skips != 1)  # they begin at 1


def test_losses_follow_the_golden_curve() -> None:
    """Losses on fixed batches: they change only on purpose, with a line in CHANGELOG.md."""
    golden = Path(__file__).parents[1] / "golden" / "tiny-losses.json"
    recipe = load("tiny")
    model = build(recipe.model, 300, 0, seed=7)
    optimizer = Optimizer(model, recipe.optim, torch.float32)
    tokens = np.random.default_rng(7).geometric(0.05, 20_000).clip(1, 299).astype(np.uint16)
    tokens[::97] = 0
    batches = Batches([tokens], recipe.model.window, 16, "shuffled", 7)
    losses = []
    for step in range(30):
        rows = torch.from_numpy(batches.batch(step)).long()
        loss = model.loss(rows[:, :-1], rows[:, 1:])
        loss.backward()
        optimizer.step(learning_rate(step / 30, recipe.optim), momentum(step / 30, recipe.optim))
        losses.append(round(loss.item(), 5))
    if not golden.exists():
        golden.write_text(json.dumps(losses) + "\n")
        pytest.fail(f"wrote {golden.name}: commit it if the change is meant")
    assert losses == pytest.approx(json.loads(golden.read_text()), rel=2e-3)


def test_a_damaged_checkpoint_is_one_sentence(tiny: directory.RunDirectory) -> None:
    run = again(tiny, "damaged")
    run.checkpoint.write_bytes(b"\x08\0\0\0\0\0\0\0nonsense")
    process = processes.command(*words(run, ["train.steps=3"]))
    assert process.wait() == 2
    assert "remove it to start again" in process.stderr


def test_torchrun_restarts_after_a_killed_rank_and_ends_with_the_same_weights(
    tiny: directory.RunDirectory,
) -> None:
    sets = ["train.steps=40", "run.checkpoint_every_s=0.01"]
    killed, whole = again(tiny, "killed"), reference(again(tiny, "whole"), load_short(sets))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launcher += ["--nproc-per-node=2", "--max-restarts=1", "-m", "fairway"]
    process = subprocess.Popen([*launcher, *words(killed, sets)], stderr=subprocess.PIPE, text=True)
    processes.until(killed.checkpoint.exists, process)
    listed = subprocess.run(
        ["ps", "--ppid", str(process.pid), "-o", "pid="], capture_output=True, text=True
    )
    os.kill(int(listed.stdout.split()[-1]), signal.SIGKILL)
    errors = process.communicate()[1]
    assert process.returncode == 0, errors
    assert "going on from step" in errors
    assert (weights(killed) - whole).norm() / whole.norm() < 1e-4  # rounding grows with the steps
