"""The whole course of `pr264` on one GPU in under ten minutes, on real text.

    python bench/gpu/course.py --data FOLDER [--seconds 300] [--out runs/gpu] [--json]
    python bench/gpu/course.py --dry-run        the same code on a CPU at the size of a test

Trains for --seconds, packs, scores (rolling and sliding) and proves a part of the validation text;
prints tokens/s, seconds per stage, bits per byte and peak memory. FOLDER holds documents (.jsonl,
.txt, also .zst). A machine without a network needs constriction, pydantic and zstandard as wheels.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch

from fairway import console, distributed
from fairway.config import toml
from fairway.pipeline.directory import Job, RunDirectory
from fairway.pipeline.results import (
    PackResult,
    PrepareResult,
    ProveResult,
    Result,
    ScoreResult,
    TrainResult,
)
from fairway.pipeline.runner import perform
from fairway.pipeline.verdicts import verify

T = TypeVar("T", bound=Result)


def settings(args: argparse.Namespace) -> tuple[str, list[str]]:
    """Recipe name and overrides."""
    if args.dry_run:
        return "tiny", ["train.seconds=2"]
    if args.data is None:
        raise SystemExit("--data FOLDER is needed (or --dry-run)")
    return "pr264", [
        "data.source=files",
        f"data.path={args.data}",
        "data.tokenizer=",
        f"train.seconds={args.seconds}",
        "train.compile=true",
        f"prove.lanes={args.lanes}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--lanes", type=int, default=512)
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if not args.dry_run and not torch.cuda.is_available():
        raise SystemExit("no CUDA device: give --dry-run to try the code on a CPU")
    name, sets = settings(args)
    loaded, run = toml.load(name, sets), RunDirectory(args.out)
    run.create(loaded)
    rows: dict[str, dict[str, float]] = {}

    def timed(what: str, verb: Callable[[], T], **figures: Callable[[T], float]) -> None:
        start = time.perf_counter()
        result = verb()
        rows[what] = {"seconds": time.perf_counter() - start}
        rows[what] |= {label: float(figure(result)) for label, figure in figures.items()}
        console.say(f"{what}: {rows[what]}")

    timed(
        "data", lambda: perform(loaded, run, PrepareResult), train_tokens=lambda r: r.train_tokens
    )
    timed(
        "train",
        lambda: perform(loaded, run, TrainResult),
        tokens_per_s=lambda r: r.tokens_per_s,
        compile_s=lambda r: r.compile_s,
        steps=lambda r: r.steps,
        bpb=lambda r: r.val_bpb,
        peak_memory_gb=lambda r: r.peak_memory_bytes / 1e9,
    )
    timed(
        "pack",
        lambda: perform(loaded, run, PackResult),
        bytes=lambda r: r.artifact_bytes,
        bpb=lambda r: r.val_bpb_after,
    )
    for protocol in ("rolling", "sliding"):
        chosen = toml.load(name, [*sets, f"score.protocol={protocol}"])
        timed(
            f"score {protocol}",
            partial(perform, chosen, run, ScoreResult),
            bpb=lambda r: r.bpb,
            tokens_per_s=lambda r: r.tokens / r.seconds,
        )
    timed(
        "prove",
        lambda: perform(loaded, run, ProveResult),
        bpb=lambda r: r.bpb,
        tokens_per_s=lambda r: r.tokens / r.encode_s,
    )
    timed("verify", lambda: verify(Job(loaded, run)), verified=lambda r: r.verified)
    columns = sorted({k for row in rows.values() for k in row}, key=lambda k: (k != "seconds", k))
    console.table(
        f"{name} on {distributed.describe(distributed.start())['device']}",
        ["stage", *columns],
        [
            [what, *(f"{row[c]:,.4g}" if c in row else "" for c in columns)]
            for what, row in rows.items()
        ],
    )
    if args.json:
        sys.stdout.write(json.dumps(rows) + "\n")


if __name__ == "__main__":
    main()
