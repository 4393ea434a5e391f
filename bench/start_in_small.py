"""The starting system in small against `mini`: same corpus, tokenizer, tokens and byte budget.

    python bench/start_in_small.py --data ../shared/data/corpus [--seeds 1337,42,2025]
        [--only start|mini] [--threads 1] [--at-once 2] [--json] [--out FILE]

The starting system is pull request 264's mathematics at `mini`'s shape: its quirks on (documents
ignored, shards in order, decay on gains), its learning rates, schedule and SWA. Its own rules, none
of Fairway's, then make its file and its score: every matrix rounded by its row's largest weight
(int5 MLP, int6 attention and bigrams, int8 embedding), all else in fp16; torch.save and zstd-22,
with neither tokenizer nor script counted; the rounded network scored on sliding windows, stride 64.
(The original leaves tensors of up to 65,536 values in fp16; at this size that would be most of
them, and the file over its budget.) `mini` is scored by its proof, all bytes of the file counted.

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

import torch
import zstandard
from torch import Tensor

from fairway import console, recipe, world
from fairway.course import Run, sha256_file, write_atomic
from fairway.model.gpt import GPT
from fairway.pack.quantize import bits_of, part_of, rtn, weights_from_codes
from fairway.results import ProveResult, TrainResult
from fairway.score import texts
from fairway.score.bits import bits_per_byte
from fairway.score.score import charges
from fairway.text.prepare import load_tokenizer
from fairway.train import checkpoint
from fairway.train.loop import commit

START = recipe.load("pr264")
QUIRKS = [
    "model.document_aware=false",
    "train.order=sequential",
    "optim.decay_gains=true",
    "train.average=swa",
]
SIDES = ("mini", "start")
Figures = dict[str, float]


def overrides_of_the_start() -> list[str]:
    """pr264's own values for everything that is not `mini`'s shape or text."""
    sets = list(QUIRKS)
    sets += [f"optim.{k}={json.dumps(v)}" for k, v in START.optim if k != "decay_gains"]
    kept = ("mlp_mult", "qk_gain", "softcap", "rope_base", "embed_std", "output_init")
    sets += [f"model.{k}={json.dumps(getattr(START.model, k))}" for k in kept]
    return [*sets, "model.bigram_rows=2048", "model.bigram_dim=64", "train.compile=false"]


def measure(side: str, seed: int, args: argparse.Namespace) -> Figures:
    """Train one side with one seed, unless an earlier call has; {bpb, bytes, train_s}."""
    run = Run(args.root / f"{side}-{seed}")
    sets = ["data.source=files", f"data.path={args.data}", *args.set, f"train.seed={seed}"]
    if side == "start":
        sets += overrides_of_the_start()
    for verb in ("data", "train"):
        options = [word for s in sets for word in ("--set", s)]
        call(args.threads, verb, "mini", "--out", str(run.path), *options)
    trained = run.need("train")
    assert isinstance(trained, TrainResult)
    if side == "start":
        return {**scored_by_the_original(run), "train_s": trained.train_s}
    for verb in ("pack", "prove"):
        call(args.threads, verb, str(run.path))
    proved = run.need("prove")
    assert isinstance(proved, ProveResult)
    size = run.artifact.stat().st_size
    return {"bpb": proved.bpb, "bytes": size, "train_s": trained.train_s}


def call(threads: int, *arguments: str) -> None:
    """A verb in a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run([sys.executable, "-m", "fairway", *arguments], env=environment)
    if done.returncode not in (0, 1):  # 1: over a budget; bytes and seconds are in the table
        raise SystemExit(done.returncode)


def scored_by_the_original(run: Run) -> Figures:
    """{bpb, bytes} of the rounded weights; kept in the run folder for as long as they are these."""
    kept, sha256 = run.path / "start.json", sha256_file(run.weights)
    if kept.exists() and (found := json.loads(kept.read_text()))["weights_sha256"] == sha256:
        return {"bpb": found["bpb"], "bytes": found["bytes"]}
    weights, _ = checkpoint.load(run.weights)
    saved, rounded = rounded_by_the_original(weights)
    figures: Figures = {"bpb": sliding_bpb(run, rounded), "bytes": container_bytes(saved)}
    write_atomic(kept, json.dumps({**figures, "weights_sha256": sha256}).encode())
    return figures


def rounded_by_the_original(
    weights: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What the original's file holds (REFERENCE A7), and the float32 weights that come of it."""
    saved: dict[str, Tensor] = {}
    rounded: dict[str, Tensor] = {}
    for name, weight in weights.items():
        part = part_of(name)
        if part == "small":
            saved[name] = weight.half()
            rounded[name] = saved[name].float()
        else:
            matrix = rtn(weight.numpy(), bits_of(part, START.pack), "max")
            saved[name + ".q"] = torch.from_numpy(matrix.codes).to(torch.int8)
            saved[name + ".scale"] = torch.from_numpy(matrix.rows).to(torch.int16).view(torch.half)
            rounded[name] = torch.from_numpy(weights_from_codes(matrix))
    return saved, rounded


def container_bytes(saved: dict[str, Tensor]) -> int:
    """Of the original's file, without the script that reads it."""
    buffer = io.BytesIO()
    torch.save({"w": saved}, buffer)
    return len(zstandard.ZstdCompressor(level=22).compress(buffer.getvalue()))


def sliding_bpb(run: Run, weights: Mapping[str, Tensor]) -> float:
    """Bits per byte of the validation text by the original's protocol."""
    loaded, here = recipe.load(str(run.recipe)), world.start()
    tokenizer = load_tokenizer(run.data_folder(run.need("data")))
    text = texts.load(loaded, run, tokenizer, None)
    model = GPT(loaded.model, tokenizer.vocab_size, tokenizer.bos_id)
    model.load_state_dict(weights)
    model.to(here.device).dtype = here.dtype
    nats = sum(float(each.sum()) for _, each in charges(model, text.tokens, START.score))
    return bits_per_byte(nats, text.text_bytes)


def rows_of(measured: dict[tuple[str, int], Figures], seeds: list[int]) -> list[Figures]:
    """One row per seed: the figures of the sides that were measured; `lower` is mini's gain."""
    rows = []
    for seed in seeds:
        row: Figures = {"seed": seed}
        for side in SIDES:
            row |= {f"{side}_{k}": v for k, v in measured.get((side, seed), {}).items()}
        if "mini_bpb" in row and "start_bpb" in row:
            row["lower"] = 1 - row["mini_bpb"] / row["start_bpb"]
        rows.append(row)
    return rows


def show(rows: list[Figures]) -> None:
    columns = {  # heading: key and format
        "seed": ("seed", "{}"),
        "mini": ("mini_bpb", "{:.4f}"),
        "start": ("start_bpb", "{:.4f}"),
        "lower by": ("lower", "{:.2%}"),
        "mini B": ("mini_bytes", "{:,}"),
        "start B": ("start_bytes", "{:,}"),
        "mini s": ("mini_train_s", "{:.0f}"),
        "start s": ("start_train_s", "{:.0f}"),
    }
    console.table(
        "mini (proved) and the starting system in small: bits per byte, bytes, train seconds",
        list(columns),
        [[form.format(r[key]) if key in r else "" for key, form in columns.values()] for r in rows],
    )
    if lower := [r["lower"] for r in rows if "lower" in r]:
        console.say(f"mean: {statistics.mean(lower):.2%} lower")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--seeds", default="1337,42,2025")
    parser.add_argument("--root", type=Path, default=Path("runs/start-in-small"))
    parser.add_argument("--set", action="append", default=[], help="for both sides")
    parser.add_argument("--only", choices=SIDES, help="one side alone")
    parser.add_argument("--threads", type=int, default=1, help="of each run")
    parser.add_argument("--at-once", type=int, default=2, help="runs side by side")
    parser.add_argument("--json", action="store_true")
    parser.add_argument(
        "--out", type=Path, help="write rows, machine, commit and date to this file"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    seeds = [int(s) for s in args.seeds.split(",")]
    jobs = [(side, seed) for seed in seeds for side in SIDES if args.only in (None, side)]
    with ThreadPoolExecutor(args.at_once) as pool:
        figures = pool.map(lambda job: measure(*job, args), jobs)
        rows = rows_of(dict(zip(jobs, figures, strict=True)), seeds)
    show(rows)
    if args.json:
        sys.stdout.write(json.dumps(rows) + "\n")
    if args.out:
        about = {
            "machine": world.describe(world.start()),
            "cores": os.cpu_count(),
            "threads": args.threads,
            "at_once": args.at_once,
            "commit": commit(),
            "date": date.today().isoformat(),
            "rows": rows,
        }
        args.out.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(args.out, (json.dumps(about, indent=2) + "\n").encode())


if __name__ == "__main__":
    main()
