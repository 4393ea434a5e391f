"""What scoring costs and what learning while scoring gains.

    python bench/score.py tune --model RUN --held TEXT.jsonl --out TUNED.json
    python bench/score.py gains --model RUN --tuned TUNED.json --text val=A.jsonl --text web=B.jsonl
    python bench/score.py protocols --model RUN [--text-bytes 200000] [--stride 16]
    python bench/score.py peer --peer peer.py

tune: every method's own grid, all of one length, in left-to-right order on held-out training text
of at most 300,000 bytes, of the network alone or with the artifact's document memory; the best of
each goes to `gains`, which never looks at that text. gains: bits per byte of whole texts with each
method in both orders, and beside the document memory; differences to the network alone with
standard errors by document. protocols: one pass with a rolling cache against overlapping windows.
peer: evaluation of one shape by the original script's functions (bench/peer.py), eager, fp32.

Rows go to stdout as JSON with --json, and to --out as soon as they are there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from math import log
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import peer as peers
from fairway import console, distributed
from fairway.coding import artifact, online
from fairway.coding.artifact import Artifact
from fairway.coding.bits import bits_per_byte
from fairway.coding.float_model import FloatModel
from fairway.coding.model import CodingModel
from fairway.coding.online import ORDERS
from fairway.coding.protocols import text_costs
from fairway.coding.session import open_model
from fairway.config.schema import NO_MEMORY, Adapt, Memory, Model, Prove, Score
from fairway.data.documents import read_documents
from fairway.io import atomic
from fairway.model.gpt import GPT, build
from fairway.pipeline import texts
from fairway.pipeline.data_folder import load_val
from fairway.pipeline.directory import RunDirectory
from fairway.pipeline.results import PrepareResult
from fairway.train.loop import commit

Tokens = NDArray[np.uint16]
Row = dict[str, Any]

HELD_BYTES = 300_000  # of training text, at most, to tune on
ROLLING = Score(protocol="rolling")
MEMORY = "document memory"  # what begins so is learned beside them, and begins with much of it
# The starting system's own: two epochs in batches of 32 rows, made legal (REFERENCE A8).
PUBLISHED = "sgd as published"
PUBLISHED_SETTINGS = {"lr": 0.002, "momentum": 0.9, "epochs": 2, "clip": 1.0, "rows": 32}
GRIDS: dict[str, list[dict[str, Any]]] = {
    "sgd": [
        {"block_tokens": 32, "lr": 0.03},
        {"block_tokens": 32, "lr": 0.1},
        {"block_tokens": 64, "lr": 0.1},
        {"block_tokens": 16, "lr": 0.05},
        {"block_tokens": 32, "lr": 0.1, "cosine": True},
        {"block_tokens": 32, "lr": 0.1, "clip": 1.0},
        {"block_tokens": 32, "lr": 0.02, "momentum": 0.5},
        {"block_tokens": 64, "lr": 0.05, "epochs": 2},
        {"block_tokens": 16, "lr": 0.1},
        {"block_tokens": 8, "lr": 0.03},
        {"block_tokens": 8, "lr": 0.06},
        {"block_tokens": 16, "lr": 0.03, "momentum": 0.5},
    ],
    "dynamic": [
        {"block_tokens": 32, "lr": 1e-3, "beta": 0.999, "decay": 1e-2},
        {"block_tokens": 32, "lr": 1e-3, "beta": 0.9999, "decay": 1e-2},
        {"block_tokens": 16, "lr": 1e-3, "beta": 0.9999, "decay": 1e-2},
        {"block_tokens": 16, "lr": 7e-4, "beta": 0.9999, "decay": 5e-3},
        {"block_tokens": 16, "lr": 5e-4, "beta": 0.9999, "decay": 5e-3},
        {"block_tokens": 24, "lr": 1e-3, "beta": 0.9999, "decay": 7e-3},
        {"block_tokens": 16, "lr": 7e-4, "beta": 0.9999, "decay": 1e-2},
        {"block_tokens": 32, "lr": 1.5e-3, "beta": 0.9999, "decay": 1e-2},
        {"block_tokens": 16, "lr": 1.5e-3, "beta": 0.9999, "decay": 1.5e-2},
        {"block_tokens": 8, "lr": 1e-3, "beta": 0.9999, "decay": 1e-2},
        {"block_tokens": 8, "lr": 7e-4, "beta": 0.9999, "decay": 5e-3},
        {"block_tokens": 16, "lr": 1e-3, "beta": 0.9999, "decay": 2e-2},
    ],
    "lora": [
        {"block_tokens": 32, "lr": 1e-3, "rank": 8},
        {"block_tokens": 32, "lr": 3e-3, "rank": 8},
        {"block_tokens": 32, "lr": 3e-3, "rank": 8, "reset": False},
        {"block_tokens": 16, "lr": 3e-3, "rank": 8, "reset": False},
        {"block_tokens": 32, "lr": 3e-3, "rank": 16, "reset": False},
        {"block_tokens": 16, "lr": 1e-3, "rank": 32, "reset": False, "beta": 0.999},
        {"block_tokens": 32, "lr": 3e-3, "rank": 8, "reset": False, "decay": 3e-3},
        {"block_tokens": 16, "lr": 3e-3, "rank": 8, "reset": True, "beta": 0.999},
        {"block_tokens": 16, "lr": 3e-3, "rank": 32, "reset": True, "beta": 0.999},
        {"block_tokens": 16, "lr": 5e-3, "rank": 16, "reset": True, "beta": 0.999},
        {"block_tokens": 8, "lr": 3e-3, "rank": 16, "reset": True, "beta": 0.999},
        {"block_tokens": 16, "lr": 2e-3, "rank": 64, "reset": True, "beta": 0.9999, "decay": 3e-3},
    ],
    f"{MEMORY}, sgd": [
        {"block_tokens": 8, "lr": 0.03},
        {"block_tokens": 8, "lr": 0.01},
        {"block_tokens": 8, "lr": 0.003},
        {"block_tokens": 8, "lr": 0.001},
        {"block_tokens": 16, "lr": 0.01},
        {"block_tokens": 16, "lr": 0.003},
    ],
    f"{MEMORY}, dynamic": [
        {"block_tokens": 16, "lr": 1e-3, "beta": 0.9999, "decay": 1e-2},
        {"block_tokens": 16, "lr": 5e-4, "beta": 0.9999, "decay": 1e-2},
        {"block_tokens": 16, "lr": 3e-4, "beta": 0.9999, "decay": 1e-2},
        {"block_tokens": 16, "lr": 3e-4, "beta": 0.9999, "decay": 2e-2},
        {"block_tokens": 16, "lr": 3e-4, "beta": 0.9999, "decay": 3e-3},
        {"block_tokens": 32, "lr": 3e-4, "beta": 0.9999, "decay": 1e-2},
    ],
    f"{MEMORY}, lora": [
        {"block_tokens": 16, "lr": 2e-3, "rank": 64, "beta": 0.9999, "decay": 3e-3},
        {"block_tokens": 16, "lr": 1e-3, "rank": 64, "beta": 0.9999, "decay": 3e-3},
        {"block_tokens": 16, "lr": 5e-4, "rank": 64, "beta": 0.9999, "decay": 3e-3},
        {"block_tokens": 16, "lr": 2e-4, "rank": 64, "beta": 0.9999, "decay": 3e-3},
        {"block_tokens": 16, "lr": 5e-4, "rank": 64, "beta": 0.9999, "decay": 1e-2},
        {"block_tokens": 16, "lr": 5e-4, "rank": 64, "beta": 0.9999, "decay": 3e-3, "reset": False},
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["tune", "gains", "protocols", "peer"])
    parser.add_argument("--model", type=Path, default=Path("runs/mini"))
    parser.add_argument("--held", type=Path, help="training text that the model has not seen")
    parser.add_argument("--tuned", type=Path, nargs="+", default=[], help="what tune wrote")
    parser.add_argument("--text", action="append", default=[], metavar="NAME=FILE")
    names = [PUBLISHED, MEMORY, *GRIDS]
    parser.add_argument("--methods", nargs="+", default=names, help="of tune and gains")
    parser.add_argument("--trials", type=int, default=12, help="per method")
    parser.add_argument("--after", type=int, default=0, help="trials that an earlier call made")
    parser.add_argument("--orders", nargs="+", default=ORDERS, help="of gains")
    parser.add_argument("--lanes", type=int, default=8, help="of the order `lanes`")
    parser.add_argument("--text-bytes", type=int, default=200_000)
    parser.add_argument("--stride", type=int, default=16)
    parser.add_argument("--peer", type=Path, default=Path("peer.py"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    place = distributed.start()
    torch.set_num_threads(args.threads)
    work = {"tune": tune, "gains": gains, "protocols": protocols, "peer": peer}[args.what]
    about = {
        "machine": distributed.describe(place), "commit": commit(),
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(sys.argv),
    }  # fmt: skip
    rows = []
    for row in work(args):
        rows.append(row)
        if args.out:  # after every row: some take a quarter of an hour
            report = json.dumps({**about, "rows": rows}, indent=1) + "\n"
            atomic.write_atomic(args.out, report.encode())
    if args.json:
        sys.stdout.write(json.dumps(rows) + "\n")


# Adaptation --------------------------------------------------------------------------------------


def read(file: Path, opened: Artifact) -> tuple[Tokens, int]:
    tokens = opened.tokenizer.encode_documents(read_documents(file, "text"))
    return tokens, texts.describe(tokens, opened.tokenizer).text_bytes


def network(opened: Artifact) -> GPT:
    place = distributed.start()
    return opened.build_model(place.device, place.dtype)


def adapted(
    opened: Artifact, tokens: Tokens, how: Adapt, memory: Memory = NO_MEMORY
) -> tuple[NDArray[np.float64], float]:
    """Nats of every token, float64[N], 0 for the first; seconds."""
    nats, place = np.zeros(len(tokens)), distributed.start()
    opened = replace(opened, memory=memory)
    model = open_model(
        opened, "float", how, device=place.device, dtype=place.dtype, tokens=len(tokens)
    )
    began = time.perf_counter()
    for costs in text_costs(model, tokens, ROLLING, online.division(how, Prove().lanes)):
        nats[costs.positions] = costs.nats
    return nats, time.perf_counter() - began


def memory_of(opened: Artifact, name: str) -> Memory:
    return opened.memory if name.startswith(MEMORY) else NO_MEMORY


def tune(args: argparse.Namespace) -> Iterator[Row]:
    opened = artifact.read(RunDirectory(args.model).artifact)
    tokens, size = read(args.held, opened)
    if size > HELD_BYTES:
        raise SystemExit(f"{args.held} has {size:,} bytes: tuning may see {HELD_BYTES:,}")
    for name in [n for n in args.methods if n in GRIDS]:
        memory = memory_of(opened, name)
        none, _ = adapted(opened, tokens, Adapt(), memory)
        for settings in GRIDS[name][args.after : args.trials]:
            nats, seconds = adapted(opened, tokens, learning(name, settings, lanes=32), memory)
            gain = 1 - float(nats.sum() / none.sum())
            bpb = bits_per_byte(float(nats.sum()), size)
            yield {
                "method": name, "settings": settings, "bpb": bpb, "gain": gain,
                "seconds": seconds, "text_bytes": size,
            }  # fmt: skip
            console.say(f"{name} {settings}: {bpb:.4f} ({gain:.2%}, {seconds:.0f} s)")


def learning(name: str, settings: dict[str, Any], **common: Any) -> Adapt:
    method = name.removeprefix(f"{MEMORY}, ").partition(" ")[0]
    return Adapt.model_validate({"method": method, method: settings, **common})


def best(tuned: list[Path]) -> dict[str, dict[str, Any]]:
    """Each method's best settings."""
    rows = [row for file in tuned for row in json.loads(file.read_text())["rows"]]
    rows.sort(key=lambda row: float(row["gain"]))
    return {row["method"]: row["settings"] for row in rows}


def gains(args: argparse.Namespace) -> Iterator[Row]:
    opened = artifact.read(RunDirectory(args.model).artifact)
    chosen = best(args.tuned)
    chosen[PUBLISHED] = PUBLISHED_SETTINGS | {"block_tokens": 32 * opened.model.window}
    hows = {(MEMORY, "left-to-right"): Adapt()} if MEMORY in args.methods else {}
    for order in args.orders:
        for name in [n for n in args.methods if n in chosen]:
            if order == "left-to-right" or name in (PUBLISHED, "sgd", "dynamic"):
                lanes = 64 if name.endswith("lora") else args.lanes
                hows[name, order] = learning(name, chosen[name], order=order, lanes=lanes)
    rows = []
    for text, file in (word.split("=", 1) for word in args.text):
        tokens, size = read(Path(file), opened)
        documents = np.flatnonzero(tokens == opened.tokenizer.bos_id)
        none, seconds = adapted(opened, tokens, Adapt())
        rows.append(row(text, size, "none", "left-to-right", none, none, documents, seconds))
        yield rows[-1]
        for (name, order), how in hows.items():
            nats, seconds = adapted(opened, tokens, how, memory_of(opened, name))
            rows.append(row(text, size, name, order, nats, none, documents, seconds))
            yield rows[-1]
            console.say(f"{text}, {name}, {order}: {rows[-1]['bpb']:.4f}, {seconds:.0f} s")
    console.table(
        f"{args.model.name}, {args.threads} thread(s)",
        ["text", "method", "order", "bits per byte", "gained", "error", "seconds"],
        [
            [r["text"], r["method"], r["order"], f"{r['bpb']:.4f}", f"{r['gained_bpb']:.4f}",
             f"{r['error_bpb']:.4f}", f"{r['seconds']:.0f}"]
            for r in rows
        ],
    )  # fmt: skip


def row(
    text: str, size: int, method: str, order: str, nats: Any, none: Any, documents: Any, s: float
) -> Row:
    gained = np.add.reduceat(none - nats, documents)
    error = float(np.sqrt(len(gained) * gained.var(ddof=1))) if len(gained) > 1 else 0.0
    return {
        "text": text, "text_bytes": size, "method": method, "order": order,
        "bpb": bits_per_byte(float(nats.sum()), size),
        "gained_bpb": float(gained.sum()) / log(2) / size,
        "error_bpb": error / log(2) / size, "seconds": s,
    }  # fmt: skip


# Protocols ---------------------------------------------------------------------------------------

WIDE = 512  # tokens; the window at which the time of overlapping windows is also measured


def protocols(args: argparse.Namespace) -> Iterator[Row]:
    """The first documents of the run's validation text; every token is charged exactly once."""
    run = RunDirectory(args.model)
    opened = artifact.read(run.artifact)
    tokens = np.array(load_val(run.data_folder(run.require(PrepareResult))))
    tokens = first_documents(tokens, opened, args.text_bytes)
    size = texts.describe(tokens, opened.tokenizer).text_bytes
    trained = opened.model.window
    rows: list[Row] = []
    for protocol, window in (("rolling", trained), ("sliding", trained), ("sliding", WIDE)):
        model = network(opened)
        model.shape = opened.model.model_copy(update={"window": window})
        how = Score.model_validate({"protocol": protocol, "stride": args.stride})
        began, nats, times = time.perf_counter(), 0.0, np.zeros(len(tokens), np.int64)
        for costs in text_costs(FloatModel(model), tokens, how, online.USUAL_DIVISION):
            np.add.at(times, costs.positions, 1)
            nats += float(costs.nats.sum())
        if times[0] != 0 or (times[1:] != 1).any():
            raise SystemExit(f"{protocol}: a token is not charged exactly once")
        seconds = time.perf_counter() - began
        bpb = bits_per_byte(nats, size)
        rows.append({"protocol": protocol, "window": window, "bpb": bpb, "seconds": seconds})
        yield rows[-1]
    console.table(
        f"{size:,} bytes, {len(tokens) - 1:,} tokens, stride {args.stride}",
        ["protocol", "window", "bits per byte", "seconds", "times rolling"],
        [
            [r["protocol"], r["window"], f"{r['bpb']:.5f}", f"{r['seconds']:.1f}",
             f"{r['seconds'] / rows[0]['seconds']:.1f}"]
            for r in rows
        ],
    )  # fmt: skip


def first_documents(tokens: Tokens, opened: Artifact, limit: int) -> Tokens:
    """Whole documents of about `limit` bytes together."""
    lengths = opened.tokenizer.byte_lengths(tokens)
    starts = np.flatnonzero(tokens == opened.tokenizer.bos_id)
    ends = np.append(starts[1:], len(tokens))
    reached = np.cumsum(np.add.reduceat(lengths, starts))
    return tokens[: ends[min(int(np.searchsorted(reached, limit)), len(ends) - 1)]]


# The original's evaluation -----------------------------------------------------------------------

VOCAB = 1024
SHAPES = {
    "4L/128d T256": Model(num_layers=4, dim=128, window=256, document_aware=False),
    "6L/256d T256": Model(num_layers=6, dim=256, window=256, document_aware=False),
    "11L/512d T512": Model(
        num_layers=11, dim=512, num_heads=8, num_kv_heads=4, window=512, document_aware=False
    ),
}


def all_costs(model: CodingModel, tokens: NDArray[np.uint16], how: Score) -> object:
    return list(text_costs(model, tokens, how, online.USUAL_DIVISION))


def peer(args: argparse.Namespace) -> Iterator[Row]:
    script = peers.load(args.peer)
    rows: list[Row] = []
    for name, shape in SHAPES.items():
        model = build(shape, VOCAB, 0, seed=0)
        theirs = peers.build(script, shape, VOCAB)
        for protocol, stride in (("plain", 0), ("sliding", 64)):
            windows = {"4L": 96, "6L": 32, "11": 8}[name[:2]] * (1 if protocol == "plain" else 2)
            count = windows * (stride or shape.window) + shape.window
            tokens = torch.randint(1, VOCAB, (count + 1,)).numpy().astype(np.uint16)
            how = Score.model_validate({"protocol": protocol, "stride": stride or 64})
            sides: dict[str, Callable[[], object]] = {
                "ours": partial(all_costs, FloatModel(model), tokens, how),
                "theirs": original(script, theirs, tokens, shape, stride),
            }
            spent: dict[str, list[float]] = {side: [] for side in sides}
            for _ in range(9):
                for side, run in sides.items():
                    began = time.perf_counter()
                    run()
                    spent[side].append(time.perf_counter() - began)
            medians = {side: statistics.median(s) for side, s in spent.items()}
            pairs = zip(spent["theirs"], spent["ours"], strict=True)
            rows.append(
                {
                    "shape": name, "protocol": protocol,
                    "tokens_per_s": count / medians["ours"],
                    "peer_tokens_per_s": count / medians["theirs"],
                    "ratio": statistics.median(a / b for a, b in pairs),
                }
            )  # fmt: skip
            yield rows[-1]
    console.table(
        f"scored tokens/s, {args.threads} thread(s), eager, fp32",
        ["shape", "protocol", "ours", "original", "ratio"],
        [
            [r["shape"], r["protocol"], f"{r['tokens_per_s']:,.0f}",
             f"{r['peer_tokens_per_s']:,.0f}", f"{r['ratio']:.2f}"]
            for r in rows
        ],
    )  # fmt: skip


def original(
    script: Any, model: Any, tokens: Tokens, shape: Model, stride: int
) -> Callable[[], Any]:
    """eval_val, or eval_val_sliding for a stride, as the script calls them."""
    # Our 8,192 positions per pass, as its own default of 524,288 over 8 ranks is a GPU's.
    args = SimpleNamespace(train_seq_len=shape.window, val_batch_size=8192)
    luts = (torch.ones(VOCAB, dtype=torch.int16), *torch.zeros((2, VOCAB), dtype=torch.bool))
    ids, cpu = torch.from_numpy(tokens.astype(np.int64)), torch.device("cpu")
    if stride:
        return lambda: script.eval_val_sliding(args, model, 0, 1, cpu, ids, *luts, stride=stride)
    return lambda: script.eval_val(args, model, 0, 1, cpu, 1, ids, *luts)


if __name__ == "__main__":
    main()
