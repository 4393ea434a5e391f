"""Training speed on this CPU, ours against the original's classes, fp32, in one run.

    python bench/cpu.py --peer peer.py [--json]

Each variant has a process of its own, as it would in use; steps alternate, one at a time, and the
figures are medians. Each side may take the faster of eager and compiled.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch

import peer as peers
from fairway import console, world
from fairway.model.gpt import build
from fairway.recipe import Model, Optim
from fairway.train.optim import Optimizer

VOCAB = 1024


@dataclass(frozen=True)
class Shape:
    name: str
    model: Model
    rows: int
    steps: int


SHAPES = [
    Shape("4L/128d T256 B16", Model(num_layers=4, dim=128, window=256), 16, 15),
    Shape("6L/256d T256 B16", Model(num_layers=6, dim=256, window=256), 16, 9),
    Shape(
        "11L/512d T512 B8",
        Model(num_layers=11, dim=512, num_heads=8, num_kv_heads=4, window=512),
        8,
        5,
    ),
]  # fmt: skip


def ours(shape: Shape, compiled: bool) -> Callable[[], None]:
    model = build(shape.model, VOCAB, 0, seed=0)
    optimizer = Optimizer(model, Optim(), torch.float32)
    loss_of = torch.compile(model.loss, dynamic=False) if compiled else model.loss

    def step() -> None:
        tokens = torch.randint(1, VOCAB, (shape.rows, shape.model.window + 1))
        loss_of(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()).backward()
        optimizer.step(1.0, 0.95)

    return step


def theirs(shape: Shape, compiled: bool, path: Path) -> Callable[[], None]:
    script = peers.load(path)
    model = peers.build(script, shape.model, VOCAB)
    stepper = peers.Stepper(script, model, Optim())
    loss_of = torch.compile(model, dynamic=False, fullgraph=True) if compiled else model

    def step() -> None:
        tokens = torch.randint(1, VOCAB, (shape.rows, shape.model.window + 1))
        loss_of(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()).backward()
        stepper.step(1.0, 0.95)

    return step


def serve(pipe: Connection, shape: Shape, compiled: bool, path: Path | None) -> None:
    """A worker: build, warm up, then time one step per request until told to stop."""
    if path is None:
        world.start("cpu")
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
        tokens = shape.rows * shape.model.window
        rates = {name: tokens / s for name, s in seconds.items()}
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
