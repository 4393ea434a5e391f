"""Training speed of the pr264 shape on this GPU, beside the original's, in under ten minutes.

    python bench/gpu/speed.py [--peer peer.py] [--json]
    python bench/gpu/speed.py --dry-run [--peer peer.py]      the same code on a CPU, tiny shapes

Steps of 786,432 random tokens in bf16, ours and the original's in turns, medians. Prints tokens/s,
TFLOP/s by F = 6·N + 6·L·W·d (REFERENCE C), the share of the matrix products that this GPU reaches
in the same run, seconds per part of the step, of compilation, peak memory, engines of attention,
and where the time of one micro-batch goes by kernel.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from fairway import console, distributed
from fairway.config import toml
from fairway.model import attention_backends
from fairway.model.sizes import flops_per_token
from steps import VOCAB, Shape, Step, batch, ours, theirs

_KINDS = {  # of kernels, by what their names contain
    "attention": ("flash", "fmha", "flex", "attention", "cudnn"),
    "products": ("gemm", "cutlass", "nvjet", "cublas", "sgemm", "mm_"),
    "fused": ("triton",),
    "copies": ("memcpy", "memset", "copy"),
}


def shape_of(dry: bool) -> Shape:
    if dry:
        tiny = toml.load("tiny").model
        return Shape("tiny", tiny, rows=4, steps=2, pieces=2, dtype=torch.bfloat16)
    model = toml.load("pr264").model
    return Shape("pr264", model, 48, 5, 8, torch.bfloat16, "cuda")


class Stopwatch:
    """Seconds of work on a device, its queue included."""

    def __init__(self, device: str) -> None:
        self._wait: Callable[[], Any] = torch.cuda.synchronize if device == "cuda" else lambda: None

    def __call__(self, work: Callable[[], object]) -> float:
        self._wait()
        start = time.perf_counter()
        work()
        self._wait()
        return time.perf_counter() - start


def ceiling(shape: Shape, seconds: Stopwatch) -> float:
    """Operations per second of the largest product of the network, and of a large square one."""
    tokens = shape.rows * shape.model.window
    side = 8192 if shape.device == "cuda" else 512
    best = 0.0
    for m, k, n in ((tokens, shape.model.dim, shape.model.mlp_hidden), (side, side, side)):
        a, b = (torch.randn(s, device=shape.device, dtype=shape.dtype) for s in ((m, k), (k, n)))
        took = min(seconds(partial(torch.matmul, a, b)) for _ in range(10))
        console.say(f"product [{m}, {k}] x [{k}, {n}]: {2 * m * k * n / took / 1e12:,.1f} TFLOP/s")
        best = max(best, 2 * m * k * n / took)
    return best


def train(shape: Shape, peer: Path | None, dry: bool, seconds: Stopwatch) -> dict[str, Any]:
    """Both sides' steps in turns; the row that --json prints."""
    sides: dict[str, Step] = {}
    row: dict[str, Any] = {"shape": shape.name, "tokens": shape.tokens}
    for name in ("ours", "peer") if peer else ("ours",):
        reset(shape)
        made = ours(shape, not dry) if name == "ours" else theirs(shape, not dry, peer)  # type: ignore[arg-type]
        row[f"{name}_compile_s"] = seconds(made)
        made()
        row[f"{name}_peak_gb"] = peak(shape)
        sides[name] = made
    times: dict[str, list[float]] = defaultdict(list)
    for _ in range(shape.steps):
        for name, step in sides.items():
            times[f"{name} piece"].append(seconds(step.piece))
            times[f"{name} step"].append(seconds(step))
            step.piece()
            times[f"{name} update"].append(seconds(step.update))
    for name, taken in times.items():
        row[f"{name.replace(' ', '_')}_ms"] = 1e3 * statistics.median(taken)
    flops, limit = flops_per_token(shape.model, VOCAB), ceiling(shape, seconds)
    for name in sides:
        rate = shape.tokens / row[f"{name}_step_ms"] * 1e3
        row["tokens_per_s" if name == "ours" else "peer_tokens_per_s"] = rate
        row[f"{name}_tflops"] = rate * flops / 1e12
        row[f"{name}_share_of_products"] = rate * flops / limit
    if peer:
        row["ratio"] = row["tokens_per_s"] / row["peer_tokens_per_s"]
    if shape.device == "cuda":
        row["kernels_ms"] = kernels(sides["ours"].piece)
    return row


def reset(shape: Shape) -> None:
    if shape.device == "cuda":
        torch.cuda.reset_peak_memory_stats()


def peak(shape: Shape) -> float:
    return torch.cuda.max_memory_allocated() / 1e9 if shape.device == "cuda" else 0.0


def kernels(work: Callable[[], object]) -> dict[str, float]:
    """Milliseconds on the GPU by kind of kernel, the ten longest by name, and idle time."""
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        wall = time.perf_counter() - start
    spent: dict[str, float] = defaultdict(float)
    events = sorted(seen.key_averages(), key=lambda e: -e.self_device_time_total)
    for event in events:
        name = event.key.lower()
        kind = next((k for k, words in _KINDS.items() if any(w in name for w in words)), "other")
        spent[kind] += event.self_device_time_total / 1e3
    for event in events[:10]:
        spent[event.key[:60]] = event.self_device_time_total / 1e3
    spent["wall"] = wall * 1e3
    return dict(spent)


def attention(shape: Shape, seconds: Stopwatch) -> dict[str, float]:
    """Milliseconds of one layer's attention, forward and backward, by engine."""
    m, device = shape.model, shape.device
    tokens, _ = batch(shape)
    position = torch.arange(m.window, device=device)
    starts = torch.where(tokens == 0, position, 0).cummax(1).values
    mask = ((position >= starts[..., None]) & (position <= position[:, None]))[:, None]
    made = {
        "library, plain causal": attention_backends.library(None),
        "library, mask": attention_backends.library(mask),
    }
    if device == "cuda":
        made["flexible, documents"] = torch.compile(
            lambda *x: attention_backends.flexible(starts)(*x), dynamic=False
        )
        if three := attention_backends.flash3():
            made["FlashAttention 3, plain causal"] = three
    else:
        made["sliced, documents"] = attention_backends.sliced(mask, shape.dtype)
    inputs = [
        torch.randn(
            shape.rows, heads, m.window, m.head_dim, device=device, dtype=shape.dtype
        ).requires_grad_()
        for heads in (m.num_heads, m.num_kv_heads, m.num_kv_heads)
    ]
    found = {}
    for name, engine in made.items():

        def once(engine: attention_backends.Attend = engine) -> None:
            torch.autograd.grad(engine(*inputs).sum(), inputs)

        once()
        found[name] = 1e3 * statistics.median(seconds(once) for _ in range(5))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", type=Path, help="the original train_gpt.py")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--dry-run", action="store_true")
    args = parser.parse_args()
    if not args.dry_run and not torch.cuda.is_available():
        raise SystemExit("no CUDA device: give --dry-run to try the code on a CPU")
    shape = shape_of(args.dry_run)
    place = distributed.start(shape.device)
    seconds = Stopwatch(shape.device)
    row = train(shape, args.peer, args.dry_run, seconds)
    row["attention_ms"] = attention(shape, seconds)
    row["device"] = distributed.describe(place)["device"]
    flat = {k: v for k, v in row.items() if not isinstance(v, dict)}
    nested = {f"{k}: {n}": v for k, d in row.items() if isinstance(d, dict) for n, v in d.items()}
    console.table(
        f"{shape.name} on {row['device']}",
        ["what", "value"],
        [
            [k, v if isinstance(v, str) else f"{v:,.4g}" if v < 1e4 else f"{v:,.0f}"]
            for k, v in {**flat, **nested}.items()
        ],
    )
    if args.json:
        sys.stdout.write(json.dumps([row]) + "\n")


if __name__ == "__main__":
    main()
