"""Predicted and real bytes of small artifacts: python bench/fit.py [--root FOLDER] [--json]

Trains five shapes for 300 steps each on the standard library's documentation, about six minutes of
one core, packs each with steps of 0.35 standard deviations and with the original's rule, and
compares what pack/fit.py predicts. Exit 1 when a file is off by more than a percent. Runs are
kept, so that a second call only packs.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from fairway import console
from fairway.config import toml
from fairway.config.schema import Recipe
from fairway.io import checkpoint
from fairway.pipeline.data_folder import load_tokenizer
from fairway.pipeline.directory import RunDirectory
from fairway.pipeline.pack import pack_weights
from fairway.pipeline.results import PrepareResult, TrainResult
from fairway.pipeline.runner import perform
from fairway.quantize.size import predicted_parts

SHAPES = [  # layers, width, vocabulary, bigram rows and width
    (2, 48, 512, 512, 16),
    (3, 64, 1024, 1024, 32),
    (2, 96, 512, 0, 16),
    (4, 96, 1024, 2048, 32),
    (3, 128, 768, 2048, 64),
]
QUANTIZERS = {
    "uniform": ["pack.quantizer=uniform", "pack.step=0.35"],
    "rtn": ["pack.quantizer=rtn"],
}
LARGEST_ERROR = 0.01


def trained(shape: tuple[int, ...], root: Path) -> RunDirectory:
    layers, width, vocabulary, bigram_rows, bigram_dim = shape
    loaded = toml.load(
        "demo",
        [
            f"model.num_layers={layers}",
            f"model.dim={width}",
            f"model.bigram_rows={bigram_rows}",
            f"model.bigram_dim={bigram_dim}",
            f"data.vocab_size={vocabulary}",
            "data.val_fraction=0.01",
            "train.batch_tokens=1024",
            "train.steps=300",
            "train.calibration_tokens=0",
        ],
    )
    run = RunDirectory(root / f"{layers}x{width}")
    run.create(loaded)
    perform(loaded, run, PrepareResult)
    perform(loaded, run, TrainResult)
    return run


def packed_parts(loaded: Recipe, run: RunDirectory) -> dict[str, int]:
    """Real bytes of the parts."""
    tokenizer = load_tokenizer(run.data_folder(run.require(PrepareResult)))
    weights = {name: t.numpy() for name, t in checkpoint.load(run.weights)[0].items()}
    return pack_weights(loaded.model, tokenizer, weights, {}, loaded.pack).artifact.parts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path("runs/fit"))
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for shape in SHAPES:
        run = trained(shape, args.root)
        for name, sets in QUANTIZERS.items():
            loaded = toml.load(str(run.recipe), sets)
            predicted, real = predicted_parts(loaded), packed_parts(loaded, run)
            total, size = sum(predicted.values()), sum(real.values())
            ratios = {part: predicted[part] / real[part] for part in real}
            rows.append(
                {
                    "shape": run.path.name,
                    "quantizer": name,
                    "predicted": round(total),
                    "real": size,
                    "ratio": total / size,
                    "parts": ratios,
                }
            )
    shown = ("embedding", "attention", "mlp")
    console.table(
        "predicted bytes over real ones",
        ["run", "predicted", "real", "ratio", *shown],
        [
            [
                f"{r['shape']} {r['quantizer']}", f"{r['predicted']:,}", f"{r['real']:,}",
                f"{r['ratio']:.4f}", *(f"{r['parts'][part]:.3f}" for part in shown),
            ]
            for r in rows
        ],
    )  # fmt: skip
    if args.json:
        sys.stdout.write(json.dumps(rows) + "\n")
    return 0 if all(abs(r["ratio"] - 1) <= LARGEST_ERROR for r in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
