"""The starting system in small against `mini`: same corpus, tokenizer, tokens and byte budget.

    python bench/start_in_small.py --data ../shared/data/corpus [--seeds 1337,42,2025] [--json]

The starting system is pull request 264's mathematics at `mini`'s shape: its quirks on (documents
ignored, shards in order, decay on gains), its learning rates, schedule and SWA, its int5/int6/int8
rule, and its container (torch.save, zstd-22), counted with the script that reads it left out. Its
score is its own protocol, sliding windows of stride 64. `mini` is scored by its proof, all bytes of
the file counted. Runs are kept, so that a second call goes on where the first was stopped; seeds
train two at a time, one thread each, since budgets are in steps.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import zstandard

from fairway import console, recipe
from fairway.course import Run
from fairway.pack.quantize import FLOAT_BITS, bits_of, codes_from_weights, part_of
from fairway.results import ProveResult, ScoreResult
from fairway.train import checkpoint

QUIRKS = [
    "model.document_aware=false",
    "train.order=sequential",
    "optim.decay_gains=true",
    "train.average=swa",
    "score.protocol=sliding",
    "score.stride=64",
    "pack.row_scale=max",
]


def overrides_of_the_start() -> list[str]:
    """pr264's own values for everything that is not `mini`'s shape, text or budget."""
    start, sets = recipe.load("pr264"), list(QUIRKS)
    sets += [f"optim.{k}={json.dumps(v)}" for k, v in start.optim if k != "decay_gains"]
    sets += [
        f"pack.{k}={json.dumps(v)}" for k, v in start.pack if k not in ("budget_bytes", "row_scale")
    ]
    kept = ("mlp_mult", "qk_gain", "softcap", "rope_base", "embed_std", "output_init")
    sets += [f"model.{k}={json.dumps(getattr(start.model, k))}" for k in kept]
    return [*sets, "model.bigram_rows=2048", "model.bigram_dim=64", "train.compile=false"]


def play(name: str, seed: int, root: Path, sets: list[str]) -> Run:
    """data, train, pack and what scores it, in a process of one thread; returns the run folder."""
    out = root / f"{name}-{seed}"
    options = [o for s in [*sets, f"train.seed={seed}"] for o in ("--set", s)]
    verbs = [["data", "mini"], ["train", "mini"]]
    after = [["pack", str(out)], ["score" if name == "start" else "prove", str(out)]]
    for verb in verbs:
        call([*verb, "--out", str(out), *options])
    for verb in after:
        call(verb)
    return Run(out)


def call(arguments: list[str]) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "fairway", *arguments], env=environment)
    if done.returncode not in (0, 1):  # 1: over the byte budget; shown in the table
        raise SystemExit(done.returncode)


def container_bytes(run: Run) -> int:
    """Bytes of the original's file: integer codes and fp16 scales, torch.save, zstd-22."""
    loaded = recipe.load(str(run.recipe))
    tensors, _ = checkpoint.load(run.weights)
    saved: dict[str, torch.Tensor] = {}
    for name, weight in tensors.items():
        bits = bits_of(part_of(name), loaded.pack)
        if bits == FLOAT_BITS:
            saved[name] = weight.half()
        else:
            codes, scales = codes_from_weights(weight.numpy(), bits, loaded.pack.row_scale)
            saved[name + ".q"] = torch.from_numpy(codes)
            saved[name + ".scale"] = torch.from_numpy(scales)
    buffer = io.BytesIO()
    torch.save({"w": saved}, buffer)
    return len(zstandard.ZstdCompressor(level=22).compress(buffer.getvalue()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--seeds", default="1337,42,2025")
    parser.add_argument("--root", type=Path, default=Path("runs/start-in-small"))
    parser.add_argument("--set", action="append", default=[], help="for both sides")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    seeds = [int(s) for s in args.seeds.split(",")]
    text = ["data.source=files", f"data.path={args.data}", *args.set]
    jobs = [(name, seed) for seed in seeds for name in ("mini", "start")]
    start_sets = overrides_of_the_start()
    with ThreadPoolExecutor(2) as pool:
        runs = dict(
            zip(
                jobs,
                pool.map(
                    lambda job: play(
                        *job, args.root, text + (start_sets if job[0] == "start" else [])
                    ),
                    jobs,
                ),
                strict=True,
            )
        )
    rows = []
    for seed in seeds:
        ours, theirs = runs["mini", seed].need("prove"), runs["start", seed].need("score")
        assert isinstance(ours, ProveResult)
        assert isinstance(theirs, ScoreResult)
        rows.append(
            {
                "seed": seed,
                "mini_bpb": ours.bpb,
                "start_bpb": theirs.bpb,
                "mini_bytes": runs["mini", seed].artifact.stat().st_size,
                "start_bytes": container_bytes(runs["start", seed]),
                "lower": 1 - ours.bpb / theirs.bpb,
            }
        )
    console.table(
        "the starting system in small, and mini",
        ["seed", "mini BPB (proved)", "start BPB", "mini bytes", "start bytes", "lower by"],
        [
            [
                r["seed"], f"{r['mini_bpb']:.4f}", f"{r['start_bpb']:.4f}",
                f"{r['mini_bytes']:,}", f"{r['start_bytes']:,}", f"{r['lower']:.2%}",
            ]
            for r in rows
        ],
    )  # fmt: skip
    console.say(f"mean: {statistics.mean(float(r['lower']) for r in rows):.2%} lower")
    if args.json:
        sys.stdout.write(json.dumps(rows) + "\n")


if __name__ == "__main__":
    main()
