"""Variants of a recipe against it: who gains how much, at equal bytes, data and budget.

A table (TOML) names a recipe, what all runs have in common, and one technique per row, or a grid.
Every run is a process of its own: it trains and packs, and is scored in separate windows on text
that was held out of the training text, so that a sweep never looks at the validation text. Runs
of one seed see the same batches, so differences are paired by seed. docs/sweep.md.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from queue import Queue
from statistics import fmean
from typing import Any

from pydantic import Field, ValidationError

from fairway import console, distributed
from fairway.config import toml
from fairway.config.schema import Recipe, Section
from fairway.errors import BadInput, Interrupted
from fairway.io import atomic, foreign
from fairway.io.atomic import write_atomic
from fairway.pipeline import directory, runner
from fairway.pipeline.command_results import SweepResult, SweepRow
from fairway.pipeline.directory import RunDirectory
from fairway.pipeline.results import PackResult, PrepareResult, Result, TrainResult
from fairway.report.charts import Dots, dots
from fairway.significance import paired
from fairway.train.loop import commit

BASE = "base"
COLUMNS = ["row", "bpb", "gain/1000", "se", "bytes", "seconds", "parameters"]
_STOPPED = 130  # exit code of a run after Ctrl-C


class Row(Section):
    name: str = Field(min_length=1)
    set: tuple[str, ...] = ()  # overrides, as of --set
    published: str = ""  # what others measured, for the reader


class Variants(Section):
    """Runs that are compared with each other."""

    recipe: str
    set: tuple[str, ...] = ()  # of all runs, the base too
    seeds: tuple[int, ...] = Field((1,), min_length=1)
    held_out_bytes: int = Field(1_000_000, ge=256)  # at most, of the end of the training text
    pack: bool = True  # score the packed network; all have one byte budget
    row: tuple[Row, ...] = ()
    grid: dict[str, tuple[Any, ...]] = Field({})  # every combination of these values is a row

    def rows(self) -> list[Row]:
        """Return the base, the rows, and the combinations of the grid. Raises BadInput."""
        found = [Row(name=BASE), *self.row]
        for values in product(*self.grid.values()) if self.grid else ():
            pairs = zip(self.grid, values, strict=True)
            sets = tuple(f"{key}={toml.as_toml(value)}" for key, value in pairs)
            found.append(Row(name=" ".join(sets), set=sets))
        names = [row.name for row in found]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise BadInput(f"the table has more than one row {', '.join(twice)}")
        return found


@dataclass(frozen=True)
class Job:
    """One run: a row and a seed."""

    row: Row
    seed: int
    recipe: Recipe
    run: RunDirectory


def load(path: Path, seeds: str = "", sets: Sequence[str] = ()) -> Variants:
    """Return a table from a file, with more overrides. Raises BadInput.

    seeds: instead of its own, as in 1,2,3.
    """
    try:
        table = Variants.model_validate(foreign.read_toml(path, "the table"))
        given = tuple(int(seed) for seed in seeds.split(",")) if seeds else table.seeds
        if len(set(given)) < len(given):
            raise ValueError("a seed stands twice")
    except ValidationError as error:
        problems = [".".join(map(str, e["loc"])) + ": " + e["msg"] for e in error.errors()]
        raise BadInput(f"the table {path} has problems: {'; '.join(problems)}") from None
    except ValueError as error:  # int's
        raise BadInput(f"the seeds {seeds} cannot be read: {error}") from None
    return table.model_copy(update={"seeds": given, "set": (*table.set, *sets)})


def sweep(variants: Variants, out: Path, at_once: int = 1) -> SweepResult:
    """Run what is not finished, seed by seed, and compare. Raises BadInput, Interrupted.

    at_once: runs side by side on a CPU, which share its cores; on GPUs, one run on each.
    """
    rows = variants.rows()
    jobs = [_job(variants, row, seed, out) for seed in variants.seeds for row in rows]
    held_out = [runner.perform(job.recipe, job.run, PrepareResult) for job in jobs]
    places = _places(at_once)
    failures: dict[str, str] = {}
    free: Queue[dict[str, str]] = Queue()
    for place in places:
        free.put(place)
    with console.track("sweep", len(jobs), "runs") as task, ThreadPoolExecutor(len(places)) as pool:
        task.update(0)
        try:
            problems = pool.map(lambda job: _perform(job, variants.pack, free), jobs)
            for done, (job, problem) in enumerate(zip(jobs, problems, strict=True)):
                if problem:
                    failures.setdefault(job.row.name, problem)
                    console.warn(problem)
                task.update(done + 1, row=job.row.name, seed=job.seed)
                _write(_compared(variants, rows, jobs, held_out[0], failures, places), out)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    result = _compared(variants, rows, jobs, held_out[0], failures, places)
    show(result)
    console.say(f"picture: {out / 'sweep.svg'}")
    return result


def show(result: SweepResult) -> None:
    """Print the table: gains in thousandths of a bit per byte."""
    base = result.rows[0]
    console.table(
        f"{result.recipe}: {base.artifact_bytes:,.0f} bytes, {base.steps:,.0f} steps, "
        f"{base.train_s:.0f} s, {base.parameters:,} parameters, {len(base.seeds)} seeds",
        COLUMNS,
        [_cells(row, base) for row in result.rows],
    )


def _cells(row: SweepRow, base: SweepRow) -> list[str]:
    if row.gain is None:
        return [row.name, *["-"] * (len(COLUMNS) - 1)]
    return [
        row.name,
        f"{fmean(row.bpb):.4f}",
        f"{1000 * row.gain:+.1f}",
        "-" if row.gain_se is None else f"{1000 * row.gain_se:.1f}",
        f"{row.artifact_bytes - base.artifact_bytes:+,.0f}",
        f"{row.train_s / base.train_s - 1:+.0%}",
        f"{row.parameters - base.parameters:+,}",
    ]


def _markdown(result: SweepResult) -> str:
    """Return the table in Markdown, with the gains that others published."""
    rows = [[*_cells(row, result.rows[0]), row.published] for row in result.rows]
    lines = [[*COLUMNS, "published"], ["---"] * (len(COLUMNS) + 1), *rows]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


def _job(variants: Variants, row: Row, seed: int, out: Path) -> Job:
    held_out = f"data.held_out_bytes={variants.held_out_bytes}"
    sets = [*variants.set, *row.set, f"train.seed={seed}", held_out]
    try:
        loaded = toml.load(variants.recipe, sets)
    except BadInput as error:
        raise BadInput(f"row {row.name}: {error}") from None
    run = RunDirectory(out / f"{atomic.short_hash(row.name)}-{seed}")
    run.create(loaded)
    return Job(row, seed, loaded, run)


def _places(at_once: int) -> list[dict[str, str]]:
    """Return what each run's environment has besides ours: a GPU, or a share of the cores."""
    import torch

    gpus = torch.cuda.device_count()
    if gpus:
        return [{"CUDA_VISIBLE_DEVICES": str(i)} for i in range(gpus)]
    threads = max(1, torch.get_num_threads() // at_once)
    return [{"OMP_NUM_THREADS": str(threads)}] * at_once


def _perform(job: Job, packs: bool, free: Queue[dict[str, str]]) -> str:
    """Train and pack in a process of its own, unless that is done; return the problem, if any.

    free: places that no other run uses; the run takes one.
    """
    if _is_done(job, packs):
        return ""
    words = ["train", str(job.run.recipe), "--out", str(job.run.path), *["--pack"] * packs]
    place = free.get()
    try:
        with open(job.run.path / "log.txt", "a") as log:
            done = subprocess.run(
                [sys.executable, "-P", "-m", "fairway", *words],
                env=os.environ | place, stdout=log, stderr=log,
            )  # fmt: skip
    finally:
        free.put(place)
    if done.returncode == _STOPPED:
        raise Interrupted("stopped; the same command goes on from there")
    if _is_done(job, packs):
        return ""
    return f"{job.row.name}, seed {job.seed}, did not finish: see {log.name}"


def _compared(
    variants: Variants,
    rows: list[Row],
    jobs: list[Job],
    prepared: PrepareResult,
    failures: dict[str, str],
    places: list[dict[str, str]],
) -> SweepResult:
    done = {(job.row.name, job.seed): job for job in jobs if _is_done(job, variants.pack)}
    found = [_row(row, variants, done, failures.get(row.name, "")) for row in rows]
    found[1:] = sorted(found[1:], key=lambda r: float("-inf") if r.gain is None else r.gain)[::-1]
    return SweepResult(
        recipe=variants.recipe,
        seeds=list(variants.seeds),
        held_out_bytes=prepared.val_bytes,
        packed=variants.pack,
        device=distributed.describe(distributed.start())["device"],
        commit=commit(),
        at_once=len(places),
        threads=int(places[0].get("OMP_NUM_THREADS", "0")),
        rows=found,
    )


def _is_done(job: Job, packs: bool) -> bool:
    """Return whether the run has current results."""
    kinds: list[type[Result]] = [TrainResult, *[PackResult] * packs]
    asked = directory.Job(job.recipe, job.run)
    return all(runner.state(asked, kind).current for kind in kinds)


def _row(row: Row, variants: Variants, done: dict[tuple[str, int], Job], failed: str) -> SweepRow:
    seeds = [s for s in variants.seeds if (row.name, s) in done and (BASE, s) in done]
    bpb = [_bpb(done[row.name, seed], variants.pack) for seed in seeds]
    base = [_bpb(done[BASE, seed], variants.pack) for seed in seeds]
    gains = [b - r for b, r in zip(base, bpb, strict=True)]
    gain = fmean(gains) if gains else None
    error = paired(gains).standard_error if len(gains) > 1 else None
    trained = [done[row.name, seed].run.require(TrainResult) for seed in seeds]
    packed = [done[row.name, seed].run.require(PackResult) for seed in seeds if variants.pack]
    return SweepRow(
        name=row.name,
        sets=list(row.set),
        published=row.published,
        seeds=seeds,
        bpb=bpb,
        gain=gain,
        gain_se=error,
        artifact_bytes=fmean(p.artifact_bytes for p in packed) if packed else 0,
        train_s=fmean(t.train_s for t in trained) if trained else 0,
        steps=fmean(t.steps for t in trained) if trained else 0,
        parameters=trained[0].parameters if trained else 0,
        failed=failed,
    )


def _bpb(job: Job, packs: bool) -> float:
    run = job.run
    return run.require(PackResult).val_bpb_after if packs else run.require(TrainResult).val_bpb


def _write(result: SweepResult, out: Path) -> None:
    """Write OUT/sweep.json, .md and .svg of what is finished."""
    write_atomic(out / "sweep.json", (result.model_dump_json(indent=2) + "\n").encode())
    write_atomic(out / "sweep.md", _markdown(result).encode())
    shown = [row for row in result.rows[1:] if row.gain is not None]
    rows = [Dots(r.name, [1000 * (r.gain or 0)], 2000 * (r.gain_se or 0)) for r in shown]
    title = "Gain in thousandths of a bit per byte, with two standard errors"
    drawn = dots([Dots(BASE, [0.0]), *rows], 640, title).file(
        title, f"Rows: {', '.join(r.name for r in shown)}"
    )
    write_atomic(out / "sweep.svg", drawn.encode())
