"""The training loop: batches → weights, within a budget, resumable at any moment."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fairway import console, distributed
from fairway.config.schema import Recipe
from fairway.data.batches import Batches
from fairway.data.tokenizer import Tokenizer
from fairway.distributed import Process
from fairway.errors import BadInput, Interrupted
from fairway.io import atomic, checkpoint, foreign
from fairway.model.gpt import build
from fairway.model.loss import Sample
from fairway.train import calibrate
from fairway.train.average import Average
from fairway.train.clock import Clock
from fairway.train.optim import Optimizer
from fairway.train.sampled import Sampler
from fairway.train.schedule import learning_rate, momentum, staged
from fairway.train.threads import Threads
from fairway.train.trained import Trained
from fairway.train.validate import validate

_MICRO_TOKENS = {"cpu": 8192, "cuda": 98304}  # tokens whose activations fit anywhere


class Files(Protocol):
    """Where a training run keeps its files; a run directory has these attributes."""

    path: Path  # the directory
    checkpoint: Path
    weights: Path
    calibration: Path
    clock: Path
    env: Path
    metrics: Path
    tensorboard: Path


class Text(NamedTuple):
    """What is trained on, and scored at the end: tokens uint16[N] of shards."""

    tokenizer: Tokenizer
    train: Sequence[NDArray[np.uint16]]
    val: NDArray[np.uint16]


@dataclass(frozen=True)
class StepOutcome:
    """What one step gave; the device may still be computing it."""

    step: int
    tokens: int  # trained on so far
    progress: float
    read: Callable[[], list[float]]  # waits for the mean loss in nats and the gradient's norm
    lr_scale: float  # share of the peak learning rates


class Trainer:
    """One training run in this process: model, optimizer, average, clock and where it stands."""

    def __init__(
        self,
        recipe: Recipe,
        text: Text,
        files: Files,
        process: Process,
        replay: bool,
        stamp: str = "",
    ) -> None:
        """Resume a checkpoint that has this stamp, if there is one. "": begin at step 0."""
        self.recipe, self.files, self.stamp, self.process = recipe, files, stamp, process
        self.tokenizer, self.val = text.tokenizer, text.val
        rows = recipe.train.batch_tokens // recipe.model.window
        if rows % process.size:
            raise BadInput(f"{rows} rows per batch do not divide over {process.size} ranks")
        self.batches = Batches(
            text.train, recipe.model.window, rows, recipe.train.order, recipe.train.seed
        )
        self.model = build(
            recipe.model, self.tokenizer.vocab_size, self.tokenizer.bos_id, recipe.train.seed
        ).to(process.device)
        V, targets = self.tokenizer.vocab_size, recipe.train.batch_tokens // process.size
        samples = recipe.train.sampled_tokens > 0
        self.sampler = Sampler(text.train, V, targets, recipe.train) if samples else None
        self._sent = lru_cache(maxsize=1)(self._send)
        self.model.dtype = distributed.training_dtype(recipe.train.dtype, process.device)
        self.parameters = list(self.model.parameters())
        self.optimizer = Optimizer(self.model, recipe.optim, self.model.dtype, process)
        self.average = Average([p.data for p in self.parameters], recipe.train)
        self.clock = Clock()
        self.step, self.tokens, self.compiled = 0, 0, False
        self.readings: list[float] = []  # of the train clock before each step
        self.recorded = recorded_readings(files.clock) if replay else None
        if files.checkpoint.exists() and stamp and not replay:
            self._resume()
        self.micro_rows = _divisor(
            rows // process.size, _MICRO_TOKENS[process.device.type] // recipe.model.window
        )

    # The schedule ---------------------------------------------------------------------------

    def progress(self) -> float:
        """Return the share of the budget spent before the next step, the same on every rank."""
        t = self.recipe.train
        if t.steps:
            return self.step / t.steps
        if t.tokens:
            return self.tokens / t.tokens
        seconds = t.stepping_s
        if self.recorded is not None:
            done = self.step >= len(self.recorded)
            reading = seconds if done else self.recorded[self.step]
        else:
            reading = self.process.broadcast(self.clock.read("train"))[0]
        self.readings.append(reading)
        return reading / seconds

    # The loop -------------------------------------------------------------------------------

    def run_steps(self) -> float:
        """Train until the budget is spent; return the process's CPU seconds per wall second."""
        loss_of = self._loss_function()
        metrics = self._metrics()
        saved, cpu_start, wall_start = time.monotonic(), time.process_time(), time.monotonic()
        self.clock.start("train")
        with (
            closing(metrics) if metrics else nullcontext(),
            closing(self._threads(loss_of)) as threads,
            console.ctrl_c() as stop_asked,
            console.track("train", 1.0, "") as task,
        ):
            shown: StepOutcome | None = None
            while (progress := self.progress()) < 1:
                before = self.clock.read("train")
                outcome = self._step(loss_of, progress)
                threads.step_took(self.clock.read("train") - before)
                # The next batch is made, and the last step is read, while a GPU computes this one.
                self._batch(self.step, progress)
                if shown:
                    self._show(shown, task, metrics)
                shown = outcome
                due = time.monotonic() - saved > self.recipe.run.checkpoint_every_s
                due, stop = map(bool, self.process.broadcast(due, stop_asked()))
                if due or stop or self._validates():
                    self._show(shown, task, metrics)
                    shown = None
                if due or stop:
                    with self.clock.during("pause"):
                        self._save()
                    saved = time.monotonic()
                if stop:
                    raise Interrupted(
                        f"stopped after step {self.step}; the same command goes on from there"
                    )
            if shown:
                self._show(shown, task, metrics)
        self.process.synchronize()
        self.clock.start("pause")
        return (time.process_time() - cpu_start) / max(time.monotonic() - wall_start, 1e-9)

    def _threads(self, loss_of: Any) -> Threads:
        """Return what sets the threads of steps: one process alone on a CPU chooses."""
        most = torch.get_num_threads() if self.process.device.type == "cpu" else 1
        return Threads(most if self.process.size == 1 else 1, lambda: self._prepare(loss_of))

    def _prepare(self, loss_of: Any) -> None:
        if self.compiled:
            with self.clock.during("compile"):
                self._rehearse(loss_of)

    def _validates(self) -> bool:
        """Return whether the validation text is scored after the step that was just taken."""
        every = self.recipe.run.validate_every
        return every > 0 and self.step % every == 0

    def _show(
        self, outcome: StepOutcome, task: console.Task, metrics: console.Metrics | None
    ) -> None:
        """Show the progress and write the metrics of a step."""
        mean_loss, grad_norm = outcome.read()
        values = {
            "loss": mean_loss,
            "lr_scale": outcome.lr_scale,
            "grad_norm": grad_norm,
            "tokens_per_s": outcome.tokens / self.clock.read("train"),
        }
        loss, rate = f"{values['loss']:.3f}", f"{values['tokens_per_s']:,.0f}"
        task.update(outcome.progress, step=outcome.step, loss=loss, tokens_s=rate)
        if self._validates() and outcome.step == self.step:
            values["val_bpb"] = self._validate(self.recipe.run.validate_tokens)[1]
        if metrics:
            metrics.log(outcome.step, **values)

    def advance(self) -> float:
        """Take one step, not compiled, with nothing written, and return its loss: for a replay."""
        return self._step(self.model.loss, self.progress()).read()[0]

    def _step(self, loss_of: Any, progress: float) -> StepOutcome:
        """Take one optimizer step."""
        optim = self.recipe.optim
        *batch, sample = self._batch(self.step, progress)
        x, y, micro_rows = self._staged(progress, *batch)
        self.model.repeating = progress >= self.recipe.train.repeat_from
        total = torch.zeros((), device=self.process.device)
        for xs, ys in zip(x.split(micro_rows), y.split(micro_rows), strict=True):
            share = len(xs) / (len(x) * self.process.size)
            loss = loss_of(xs, ys, sample) * share
            loss.backward()
            total += loss.detach()
        self.process.all_reduce_(total)
        lr_scale = learning_rate(progress, optim)
        norm = self.optimizer.step(lr_scale, momentum(progress, optim))
        self.step, self.tokens = self.step + 1, self.tokens + x.numel() * self.process.size
        self.average.update(self.step, lr_scale)
        read = self.process.fetch(total, norm)
        return StepOutcome(self.step, self.tokens, progress, read, lr_scale)

    def _staged(self, progress: float, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, int]:
        """Cut a batch [B, T] into rows of the stage's length; also return a micro-batch's rows."""
        window = self.recipe.model.window
        tokens = staged(progress, self.recipe.train.windows, window)
        x, y = (t.reshape(-1, tokens) for t in (x, y))
        return x, y, self.micro_rows * (window // tokens)

    def _batch(self, step: int, progress: float) -> tuple[Tensor, Tensor, Sample | None]:
        """Return a rank's rows and targets, and the sample in which targets are places, if any."""
        return self._sent(step, progress < self.recipe.train.sampled_until)

    def _send(self, step: int, sampled: bool) -> tuple[Tensor, Tensor, Sample | None]:
        rank, send = self.process.rank, self.process.send
        rows = self.batches.batch(step, rank, self.process.size)
        tokens = send(rows).long()
        x, y = tokens[:, :-1], tokens[:, 1:]
        drawn = self.sampler.draw(rows[:, 1:], step, rank) if self.sampler and sampled else None
        if not drawn:
            return x, y, None
        return x, send(drawn.places), Sample(send(drawn.tokens), send(drawn.odds))

    def _loss_function(self) -> Any:
        """Return the model's loss, compiled if the recipe says so, on a clock of its own."""
        if not self.recipe.train.compile:
            on_cuda = self.process.device.type == "cuda"
            return self._warm_up(self.model.loss) if on_cuda else self.model.loss
        trust_no_headers_of_others()
        with self.clock.during("compile"):
            for again in (False, True):
                if again:  # a compiler that was killed leaves an empty file in the usual cache
                    os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.mkdtemp(prefix="fairway-")
                    torch.compiler.reset()
                try:
                    compiled = self._warm_up(torch.compile(self.model.loss, dynamic=False))
                except RuntimeError as error:  # of Dynamo, or of a kernel that fits no GPU
                    reason = " ".join(str(error).split("\n\n")[0].split())  # then torch advises
                    self._forget_gradients()
                    continue
                self.compiled = True
                return compiled
            console.warn(f"torch.compile failed, training goes on slower without it: {reason}")
            return self._warm_up(self.model.loss)

    def _warm_up(self, loss_of: Any) -> Any:
        """Run `loss_of` with as many rows at once as memory holds on every rank, and return it.

        Raises BadInput when one row is too much. No state changes but `micro_rows`.
        """
        while True:
            try:
                self._rehearse(loss_of)
                lacking = 0.0
            except torch.OutOfMemoryError:
                lacking = 1.0
                self._forget_gradients()
            if not self.process.all_reduce_(torch.tensor(lacking)):
                break
            if self.micro_rows == 1:
                raise BadInput(
                    f"out of memory with one row of {self.recipe.model.window} tokens: make "
                    "model.window or the model smaller, or use a larger GPU"
                )
            self.micro_rows = _divisor(self.micro_rows, self.micro_rows // 2)
            console.say(f"out of memory: going on with {self.micro_rows} rows at once")
        used = self.process.peak_memory_bytes() / 1e9
        rows = f"{self.micro_rows} rows of {self.recipe.model.window} tokens at once"
        console.say(f"memory: {used:.1f} GB with {rows}")
        return loss_of

    def _rehearse(self, loss_of: Any) -> None:
        """Run forward and backward on one micro-batch of every stage.

        The rows have the strides that steps have: for other strides the compiler would start
        again, on the training's clock.
        """
        recipe = self.recipe.train
        ends = {end for end, _ in recipe.windows}
        ends |= {recipe.sampled_until} if self.sampler else set()
        for progress in sorted({0.0, recipe.repeat_from, *ends}):
            self.model.repeating = progress >= recipe.repeat_from
            *batch, sample = self._batch(self.step, progress)
            x, y, micro_rows = self._staged(progress, *batch)
            loss_of(x[:micro_rows], y[:micro_rows], sample).backward()
        self.process.synchronize()
        self._forget_gradients()

    def _forget_gradients(self) -> None:
        for p in self.parameters:
            p.grad = None

    def _validate(self, limit: int = 0) -> tuple[float, float]:
        with self.clock.during("score"):
            return validate(self.model, self.tokenizer, self.val, limit)

    # The end --------------------------------------------------------------------------------

    def finish(self) -> Trained:
        """Average, calibrate, score, and write weights, calibration and the clock's readings."""
        self.average.apply()
        self.model.dtype = self.process.dtype  # what follows is computed as scoring computes it
        self.model.repeating = True
        calibration_s = self._calibrate()
        nats, bpb = self._validate()
        spent = self.clock.spent
        self.files.path.mkdir(parents=True, exist_ok=True)
        if self.process.is_main:
            checkpoint.save(self.files.weights, dict(self.model.state_dict()), {})
            readings = json.dumps({"readings_s": self.readings[: self.step]})
            atomic.write_atomic(self.files.clock, readings.encode())
        self.process.barrier()
        return Trained(
            parameters=sum(p.numel() for p in self.parameters),
            steps=self.step,
            tokens=self.tokens,
            train_s=spent["train"],
            calibration_s=calibration_s,
            compile_s=spent["compile"],
            score_s=spent["score"],
            pause_s=spent["pause"],
            tokens_per_s=self.tokens / spent["train"],
            val_bpb=bpb,
            val_nats_per_token=nats,
        )

    def _calibrate(self) -> float:
        """Write the calibration for packing, and return the seconds that it took.

        It reads training text, so the train clock runs. Every rank takes its rows of the batches
        that the next steps would have trained on; the sums are added up over ranks.
        """
        wanted = self.recipe.train.calibration_tokens
        if not wanted:
            if self.process.is_main:
                self.files.calibration.unlink(missing_ok=True)  # of other weights
            return 0.0
        before = self.clock.read("train")
        with self.clock.during("train"):
            curvatures, tokens = self.curvatures()
        if self.process.is_main:
            calibrate.save(self.files.calibration, curvatures, {"tokens": tokens})
        return self.clock.read("train") - before

    def curvatures(self, tokens: int = 0) -> tuple[dict[str, calibrate.Curvature], int]:
        """Return the curvatures on the batches that would come next, and their number of tokens.

        tokens: the number that an earlier call gave; 0: the recipe's number, or as many as a
        budget in seconds leaves time for.
        """
        wanted = self.recipe.train.calibration_tokens
        wanted = min(tokens or wanted, wanted)
        collector = calibrate.Collector(self.model)
        ahead, longest_s = 0, 0.0
        while collector.tokens * self.process.size < wanted:
            began = self.clock.read("train")
            if ahead and not tokens and self._late(2 * longest_s):
                break
            x, y, _ = self._batch(self.step + ahead, 1.0)
            room = wanted // self.process.size - collector.tokens
            rows = max(1, min(len(x), -(-room // x.shape[1])))
            for xs, ys in zip(
                x[:rows].split(self.micro_rows), y[:rows].split(self.micro_rows), strict=True
            ):
                collector.add(xs, ys)
            ahead, longest_s = ahead + 1, max(longest_s, self.clock.read("train") - began)
        curvatures = collector.curvatures(self.process)
        self.process.synchronize()
        return curvatures, collector.tokens * self.process.size

    def _late(self, needed_s: float) -> bool:
        """Return whether a budget in seconds leaves less than this, the same on every rank."""
        seconds = self.recipe.train.seconds
        late = 0 < seconds < self.clock.read("train") + needed_s
        return bool(self.process.broadcast(late)[0])

    # Saving and resuming --------------------------------------------------------------------

    def _save(self) -> None:
        optim = self.optimizer.state()  # each rank has a share of it
        if not self.process.is_main:
            return
        tensors: dict[str, Tensor] = {f"model.{n}": p for n, p in self.model.named_parameters()}
        tensors |= {f"mean.{i}": m for i, m in enumerate(self.average.mean)}
        tensors |= {f"optim.{n}": t for n, t in optim.items()}
        tensors["readings"] = torch.tensor(self.readings[: self.step], dtype=torch.float64)
        note = {
            "stamp": self.stamp,
            "step": self.step,
            "tokens": self.tokens,
            "spent": self.clock.spent,
            "averaged": self.average.count,
        }
        checkpoint.save(self.files.checkpoint, tensors, note)

    @torch.no_grad()
    def _resume(self) -> None:
        tensors, note = checkpoint.load(self.files.checkpoint)
        if note.get("stamp") != self.stamp:
            console.say("the checkpoint belongs to another recipe or data: starting again")
            return
        for name, p in self.model.named_parameters():
            p.copy_(tensors[f"model.{name}"])
        for i, mean in enumerate(self.average.mean):
            mean.copy_(tensors[f"mean.{i}"])
        self.optimizer.load(
            {n.removeprefix("optim."): t for n, t in tensors.items() if n.startswith("optim.")}
        )
        self.readings = tensors["readings"].tolist()
        self.step, self.tokens = note["step"], note["tokens"]
        self.average.count = note["averaged"]
        self.clock = Clock(note["spent"])
        console.say(f"going on from step {self.step}")

    def _metrics(self) -> console.Metrics | None:
        if not self.process.is_main:
            return None
        env = distributed.describe(self.process) | {
            "commit": commit(),
            "code_sha256": atomic.code_sha256(),
            "compiled": self.compiled,
        }
        env["dtype"] = str(self.model.dtype).removeprefix("torch.")
        atomic.write_atomic(self.files.env, (json.dumps(env, indent=2) + "\n").encode())
        return console.Metrics(self.files.metrics, self.files.tensorboard, self.step)


def trust_no_headers_of_others() -> None:
    """Let torch precompile no C++ headers if others can write where it keeps them.

    They lie in a folder of temporary files whose name anybody can guess, not in torch's cache.
    """
    from torch._inductor import config
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    path = default_cache_dir()
    os.makedirs(path, 0o700, exist_ok=True)
    status = os.lstat(path)
    is_own = status.st_uid == os.getuid() and not status.st_mode & 0o22
    config.cpp_cache_precompile_headers &= is_own


def recorded_readings(file: Path) -> list[float]:
    """Return the readings of a run's clock.json, in seconds, one per step. Raises BadInput."""
    tree = foreign.read_json(file, "the clock's readings")
    readings = tree.get("readings_s") if isinstance(tree, dict) else None
    if not isinstance(readings, list) or not all(isinstance(r, int | float) for r in readings):
        raise BadInput(f"{file} holds no clock readings: train without --replay-clock")
    return readings


def _divisor(number: int, at_most: int) -> int:
    """Return the largest divisor of `number` that is at most `at_most`, and at least 1."""
    return next(d for d in range(max(1, min(number, at_most)), 0, -1) if number % d == 0)


def commit() -> str:
    """Return the commit of the source tree that runs, or an empty string outside one."""
    folder = os.path.dirname(os.path.abspath(__file__))
    # A repository above is another's, and its settings may name programs that git runs.
    above = os.path.abspath(os.path.join(folder, *[".."] * 4))
    try:
        asked = subprocess.run(
            ["git", "-C", folder, "describe", "--always", "--dirty"],
            env=os.environ | {"GIT_CEILING_DIRECTORIES": above},
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
    return asked.stdout.strip()
