"""`mini` against the starting system in small: same text, bytes and seconds of training.

    python bench/start_in_small.py --data ../shared/data/corpus [--seeds 1337,42,2025]
        [--text web=../shared/data/fineweb_sample.jsonl] [--only mini|pr264] [--set KEY=VALUE]
        [--threads 2] [--at-once 1] [--json] [--out FILE]

The starting system is the recipe pr264-small: pull request 264's mathematics at a shape that its
rule brings to a million bytes. Its quirks are on (documents ignored, shards in order, decay on
gains); it is compiled and computes in bf16 as `mini` does. Its own rules, none of Fairway's, then
make its file and its score: every matrix rounded by its row's largest weight (int5 MLP, int6
attention and bigrams, int8 embedding), all else in fp16; torch.save and zstd-22, with neither
tokenizer nor script counted; the rounded network scored on sliding windows, stride 64. (The
original leaves tensors of up to 65,536 values in fp16; at this size that would be most of them,
and the file over its budget.) `mini` is scored by its proof, all
bytes of the artifact counted. The texts are the validation text and those of --text.

Runs are kept, so that a second call goes on where the first was stopped.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import torch
import zstandard
from torch import Tensor

from fairway import console, distributed
from fairway.coding import online
from fairway.coding.bits import bits_per_byte
from fairway.coding.float_model import FloatModel
from fairway.coding.protocols import text_costs
from fairway.config import toml
from fairway.formats.tensors import weights_from_codes
from fairway.io import checkpoint
from fairway.io.atomic import sha256_file, write_atomic
from fairway.model.gpt import GPT
from fairway.model.parameters import kind_of
from fairway.pipeline import texts
from fairway.pipeline.data_folder import load_tokenizer
from fairway.pipeline.directory import Job, RunDirectory
from fairway.pipeline.results import PrepareResult, ProveResult, TrainResult
from fairway.quantize.grids import bits_of, rtn
from fairway.train.loop import commit

ORIGINAL = toml.load("pr264")
QUIRKS = [
    "model.document_aware=false",
    "train.order=sequential",
    "optim.decay_gains=true",
    "train.calibration_tokens=0",  # its quantizer needs none
]
SIDES = ("mini", "pr264")
VAL = "val"
COSTS = {"bytes": "{:,}", "train_s": "{:.0f}", "steps": "{:,}"}
Figures = dict[str, float]


def measure(side: str, seed: int, args: argparse.Namespace) -> Figures:
    """Train one side with one seed, unless an earlier call has, and score every text."""
    run = RunDirectory(args.root / f"{side}-{seed}")
    sets = ["data.source=files", f"data.path={args.data}", *args.set, f"train.seed={seed}"]
    if side == "pr264":
        sets += QUIRKS
    recipe = {"mini": "mini", "pr264": "pr264-small"}[side]
    for verb in ("prepare", "train"):
        options = [word for s in sets for word in ("--set", s)]
        call(args.threads, verb, recipe, "--out", str(run.path), *options)
    trained = run.require(TrainResult)
    figures = {"train_s": trained.train_s, "steps": trained.steps}
    texts_of = {**dict(text.split("=", 1) for text in args.text), VAL: ""}
    if side == "pr264":
        return figures | scored_by_the_original(run, texts_of)
    call(args.threads, "pack", str(run.path))
    for name, path in texts_of.items():
        call(args.threads, "prove", str(run.path), *(["--text", path] if path else []))
        proved = run.for_text(Path(path) if path else None).require(ProveResult)
        figures[f"{name}_bpb"] = proved.bpb
    return figures | {"bytes": run.artifact.stat().st_size}


def call(threads: int, *arguments: str) -> None:
    """A verb in a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run([sys.executable, "-m", "fairway", *arguments], env=environment)
    if done.returncode not in (0, 1):  # 1: over a budget; bytes and seconds are in the table
        raise SystemExit(done.returncode)


def scored_by_the_original(run: RunDirectory, texts_of: Mapping[str, str]) -> Figures:
    """Bytes, and the rounded weights' BPB of every text; kept in the run directory, with a hash."""
    kept, sha256 = run.path / "original.json", sha256_file(run.weights)
    known: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    figures: Figures = known["figures"] if known.get("weights_sha256") == sha256 else {}
    if missing := [name for name in texts_of if f"{name}_bpb" not in figures]:
        weights, _ = checkpoint.load(run.weights)
        saved, rounded = rounded_by_the_original(weights)
        figures["bytes"] = container_bytes(saved)
        for name in missing:
            figures[f"{name}_bpb"] = sliding_bpb(run, rounded, texts_of[name])
        write_atomic(kept, json.dumps({"weights_sha256": sha256, "figures": figures}).encode())
    return figures


def rounded_by_the_original(
    weights: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What the original's file holds (REFERENCE A7), and the float32 weights that come of it."""
    saved: dict[str, Tensor] = {}
    rounded: dict[str, Tensor] = {}
    for name, weight in weights.items():
        part = kind_of(name).part
        if part == "small":
            saved[name] = weight.half()
            rounded[name] = saved[name].float()
        else:
            matrix = rtn(weight.numpy(), bits_of(part, ORIGINAL.pack), "max")
            saved[name + ".q"] = torch.from_numpy(matrix.codes).to(torch.int8)
            saved[name + ".scale"] = torch.from_numpy(matrix.rows).to(torch.int16).view(torch.half)
            rounded[name] = torch.from_numpy(weights_from_codes(matrix))
    return saved, rounded


def container_bytes(saved: dict[str, Tensor]) -> int:
    """Of the original's file, without the script that reads it."""
    buffer = io.BytesIO()
    torch.save({"w": saved}, buffer)
    return len(zstandard.ZstdCompressor(level=22).compress(buffer.getvalue()))


def sliding_bpb(run: RunDirectory, weights: Mapping[str, Tensor], path: str) -> float:
    """Bits per byte of a text, "" for the validation text, by the original's protocol."""
    loaded, here = toml.load(str(run.recipe)), distributed.start()
    tokenizer = load_tokenizer(run.data_folder(run.require(PrepareResult)))
    text = texts.load(Job(loaded, run, Path(path) if path else None), tokenizer)
    model = GPT(loaded.model, tokenizer.vocab_size, tokenizer.bos_id)
    model.load_state_dict(weights)
    model.to(here.device).dtype = here.dtype
    costs = text_costs(FloatModel(model), text.tokens, ORIGINAL.score, online.USUAL_DIVISION)
    nats = sum(float(some.nats.sum()) for some in costs)
    return bits_per_byte(nats, text.text_bytes)


def rows_of(
    measured: dict[tuple[str, int], Figures], seeds: list[int], names: list[str]
) -> list[Figures]:
    """One row per seed: the figures of the sides that were measured, and `mini`'s gains."""
    rows = []
    for seed in seeds:
        row: Figures = {"seed": seed}
        for side in SIDES:
            row |= {f"{side}_{k}": v for k, v in measured.get((side, seed), {}).items()}
        for name in names:
            if f"mini_{name}_bpb" in row and f"pr264_{name}_bpb" in row:
                row[f"{name}_lower"] = 1 - row[f"mini_{name}_bpb"] / row[f"pr264_{name}_bpb"]
        rows.append(row)
    return rows


def summary(rows: list[Figures], names: list[str]) -> dict[str, Any]:
    """Means over the seeds that both sides have: of the validation text, and of each other text."""
    both = [row for row in rows if f"{VAL}_lower" in row]
    if not both:
        return {}

    def means(name: str) -> Figures:
        keys = {f"{side}_bpb": f"{side}_{name}_bpb" for side in SIDES} | {"lower": f"{name}_lower"}
        return {key: statistics.mean(row[column] for row in both) for key, column in keys.items()}

    others = {name: means(name) for name in names if name != VAL}
    return {"seeds": [row["seed"] for row in both], **means(VAL), **others}


def show(rows: list[Figures], names: list[str]) -> None:
    def cell(row: Figures, key: str, form: str) -> str:
        return form.format(row[key]) if key in row else ""

    console.table(
        "bits per byte: mini proved, pr264 in small scored on sliding windows",
        ["seed", "text", *SIDES, "lower by"],
        [
            [
                str(row["seed"]),
                name,
                *(cell(row, f"{side}_{name}_bpb", "{:.4f}") for side in SIDES),
                cell(row, f"{name}_lower", "{:.2%}"),
            ]
            for row in rows
            for name in names
        ],
    )
    console.table(
        "what they took",
        ["seed", "side", "bytes", "seconds of training", "steps"],
        [
            [str(row["seed"]), side, *(cell(row, f"{side}_{k}", f) for k, f in COSTS.items())]
            for row in rows
            for side in SIDES
        ],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--seeds", default="1337,42,2025")
    parser.add_argument("--root", type=Path, default=Path("runs/start-in-small"))
    parser.add_argument("--set", action="append", default=[], help="for both sides")
    parser.add_argument("--text", action="append", default=[], help="NAME=FILE, besides val")
    parser.add_argument("--only", choices=SIDES, help="one side alone")
    parser.add_argument("--threads", type=int, default=2, help="of each run")
    parser.add_argument("--at-once", type=int, default=1, help="runs side by side")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path, help="write all of it to this file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    seeds = [int(s) for s in args.seeds.split(",")]
    names = [VAL, *(text.split("=", 1)[0] for text in args.text)]
    jobs = [(side, seed) for seed in seeds for side in SIDES if args.only in (None, side)]
    measured = {}
    with ThreadPoolExecutor(args.at_once) as pool:
        for job, figures in zip(
            jobs, pool.map(lambda job: measure(job[0], job[1], args), jobs), strict=True
        ):
            measured[job] = figures
            rows = rows_of(measured, seeds, names)
            found = {"kind": "mini-against-pr264", **summary(rows, names)}
            if args.out:
                about = {
                    "machine": distributed.describe(distributed.start()),
                    "cores": os.cpu_count(),
                    "threads": args.threads,
                    "at_once": args.at_once,
                    "commit": commit(),
                    "date": date.today().isoformat(),
                    "rows": rows,
                }
                args.out.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(args.out, (json.dumps(found | about, indent=2) + "\n").encode())
    show(rows, names)
    if args.json:
        sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
