"""One pass with a rolling cache against overlapping windows: the same bits, how many times faster.

    python bench/rolling.py --model runs/mini [--text-bytes 200000] [--stride 16] [--json]

Scores the first documents of the run's validation text with its artifact: rolling and sliding at
the window that it was trained with, and, for the time alone, sliding at 512. Also checks that each
protocol charges every token but the first exactly once.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

from fairway import console, world
from fairway.course import Run
from fairway.pack import artifact
from fairway.recipe import Score
from fairway.score import texts
from fairway.score.bits import bits_per_byte
from fairway.score.score import charges
from fairway.text.prepare import load_val

WIDE = 512  # tokens; the window at which the time of overlapping windows is also measured


def first_documents(tokens: np.ndarray, bos_id: int, lengths: np.ndarray, limit: int) -> np.ndarray:
    """Whole documents of about `limit` bytes together."""
    starts = np.flatnonzero(tokens == bos_id)
    ends = np.append(starts[1:], len(tokens))
    reached = np.cumsum(np.add.reduceat(lengths, starts))
    return tokens[: ends[min(int(np.searchsorted(reached, limit)), len(ends) - 1)]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("runs/mini"))
    parser.add_argument("--text-bytes", type=int, default=200_000)
    parser.add_argument("--stride", type=int, default=16)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    run, place = Run(args.model), world.start()
    opened = artifact.read(run.artifact)
    tokens = np.array(load_val(run.data_folder(run.need("data"))))
    tokens = first_documents(
        tokens, opened.tokenizer.bos_id, opened.tokenizer.byte_lengths(tokens), args.text_bytes
    )
    text_bytes = texts.describe(tokens, opened.tokenizer).text_bytes
    trained = opened.model.window
    rows = []
    for protocol, window in (("rolling", trained), ("sliding", trained), ("sliding", WIDE)):
        model = opened.build_model(place.device)
        model.shape = opened.model.model_copy(update={"window": window})
        start, nats, times = time.perf_counter(), 0.0, np.zeros(len(tokens), np.int64)
        for positions, costs in charges(
            model, tokens, Score(protocol=protocol, stride=args.stride)
        ):
            np.add.at(times, positions, 1)
            nats += float(costs.sum())
        if times[0] != 0 or (times[1:] != 1).any():
            raise SystemExit(f"{protocol}: a token is not charged exactly once")
        bpb = bits_per_byte(nats, text_bytes)
        seconds = time.perf_counter() - start
        rows.append({"protocol": protocol, "window": window, "bpb": bpb, "seconds": seconds})
    console.table(
        f"{text_bytes:,} bytes, {len(tokens) - 1:,} tokens, stride {args.stride}, "
        f"{world.describe(place)['device']}, {torch.get_num_threads()} threads",
        ["protocol", "window", "bits per byte", "seconds", "times rolling"],
        [
            [
                r["protocol"], r["window"], f"{r['bpb']:.5f}", f"{r['seconds']:.1f}",
                f"{r['seconds'] / rows[0]['seconds']:.1f}",
            ]
            for r in rows
        ],
    )  # fmt: skip
    if args.json:
        sys.stdout.write(json.dumps(rows) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
