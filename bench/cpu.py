"""Training speed on this CPU, ours against the original's classes, in one run: fp32, then bf16.

    python bench/cpu.py --peer peer.py [--json]

Each variant has a process of its own, as it would in use; steps alternate, one at a time, and the
figures are medians. Each side may take the faster of eager and compiled. bf16 is autocast for the
original; Newton-Schulz is in bf16 for both, always.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from fairway import console, distributed
from fairway.config.schema import Model
from steps import Shape, ours, theirs

SHAPES = [
    Shape(f"{name} {label}", model, rows, steps, dtype=dtype)
    for label, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))
    for name, model, rows, steps in (
        ("4L/128d T256 B16", Model(num_layers=4, dim=128, window=256), 16, 15),
        ("6L/256d T256 B16", Model(num_layers=6, dim=256, window=256), 16, 9),
        (
            "11L/512d T512 B8",
            Model(num_layers=11, dim=512, num_heads=8, num_kv_heads=4, window=512),
            8,
            5,
        ),
    )
]


def serve(pipe: Connection, shape: Shape, compiled: bool, path: Path | None) -> None:
    """A worker: build, warm up, then time one step per request until told to stop."""
    if path is None:
        distributed.start("cpu")
        step = ours(shape, compiled)
    else:
        step = theirs(shape, compiled, path)
    for _ in range(3):
        step()
    pipe.send("ready")
    while pipe.recv():
        start = time.perf_counter()
        step()
        pipe.send(time.perf_counter() - start)


def measure(shape: Shape, variants: dict[str, tuple[bool, Path | None]]) -> dict[str, float]:
    """Median seconds per step of each variant (compiled?, script), taken in turns."""
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    for name, (compiled, path) in variants.items():
        here, there = context.Pipe()
        context.Process(target=serve, args=(there, shape, compiled, path), daemon=True).start()
        assert here.recv() == "ready"
        pipes[name] = here
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(shape.steps):
        for name, pipe in pipes.items():
            pipe.send(True)
            times[name].append(pipe.recv())
    for pipe in pipes.values():
        pipe.send(False)
    return {name: statistics.median(t) for name, t in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", type=Path, help="the original train_gpt.py")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--shape", help="only the shapes whose name contains this")
    parser.add_argument("--eager", action="store_true", help="leave the compiler out")
    args = parser.parse_args()
    results = []
    for shape in SHAPES:
        if args.shape and args.shape not in shape.name:
            continue
        modes = {"eager": False} if args.eager else {"eager": False, "compiled": True}
        sides = {"ours": None, "peer": args.peer} if args.peer else {"ours": None}
        variants = {f"{s} {m}": (c, path) for s, path in sides.items() for m, c in modes.items()}
        seconds = measure(shape, variants)
        rates = {name: shape.tokens / s for name, s in seconds.items()}
        best = max(r for n, r in rates.items() if n.startswith("ours"))
        row: dict[str, object] = {"shape": shape.name, "tokens_per_s": best, "all": rates}
        if args.peer:
            other = max(r for n, r in rates.items() if n.startswith("peer"))
            row |= {"peer_tokens_per_s": other, "ratio": best / other}
        results.append(row)
        console.say(f"{shape.name}: " + "  ".join(f"{n} {r:,.0f}/s" for n, r in rates.items()))
        if args.peer:
            console.say(f"  ratio {best / other:.2f}")
    if args.json:
        sys.stdout.write(json.dumps(results) + "\n")


if __name__ == "__main__":
    main()
