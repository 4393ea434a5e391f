"""The verb pack: weights → artifact, read back and compared before it gets its name."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import Tensor

from fairway import console, course, world
from fairway.pack import artifact, quantize
from fairway.pack.artifact import Artifact, TensorRow
from fairway.recipe import Pack, Recipe
from fairway.results import PackResult, Result, TrainResult
from fairway.text.prepare import load_tokenizer, load_val
from fairway.train import checkpoint
from fairway.train.validate import validate


class Inspection(Result):
    """What is in an artifact, byte by byte."""

    artifact_bytes: int
    sha256: str
    weights: int
    bits_per_weight: float  # of the coded matrices
    parts: dict[str, int]  # bytes; they sum to artifact_bytes
    tensors: list[TensorRow]


def pack(recipe: Recipe, run: course.Run) -> PackResult:
    """Write run.artifact from run.weights. Raises BadInput; the file is written whole or not."""
    stamp = run.stamp("pack", recipe)
    done = run.fresh("pack", stamp, PackResult)
    if done is not None and _is_there(run, done):
        return done
    place, start = world.start(), time.perf_counter()
    trained = run.need("train")
    assert isinstance(trained, TrainResult)
    folder = run.data_folder(run.need("data"))
    tokenizer = load_tokenizer(folder)
    weights, _ = checkpoint.load(run.weights)
    data = artifact.write(recipe.model, tokenizer, weights, recipe.pack)
    made = artifact.read(data)
    check_equal(made, weights, recipe.pack)
    course.write_atomic(run.artifact, data)
    pack_s = time.perf_counter() - start
    console.say(f"packed {len(data):,} bytes in {pack_s:.1f} s; measuring them")
    model = made.build_model(place.device)
    model.dtype = place.dtype
    _, after = validate(model, tokenizer, load_val(folder))
    result = PackResult(
        stamp=stamp,
        artifact_bytes=len(data),
        parts=made.parts,
        bits_per_weight=bits_per_weight(made),
        val_bpb_before=trained.val_bpb,
        val_bpb_after=after,
        budget_bytes=recipe.pack.budget_bytes,
        within_budget=len(data) <= recipe.pack.budget_bytes,
        artifact_sha256=made.sha256,
        pack_s=pack_s,
    )
    run.finish("pack", result)
    return result


def inspect(path: Path | str) -> Inspection:
    """Sizes of an artifact's parts and tensors. Raises BadInput."""
    opened = artifact.read(Path(path))
    return Inspection(
        artifact_bytes=sum(opened.parts.values()),
        sha256=opened.sha256,
        weights=sum(t.numel() for t in opened.state.values()),
        bits_per_weight=bits_per_weight(opened),
        parts=opened.parts,
        tensors=opened.tensors,
    )


def bits_per_weight(opened: Artifact) -> float:
    """Coded bits of codes and scales per weight, over the quantized matrices."""
    weights = sum(
        t.numel() for name, t in opened.state.items() if quantize.part_of(name) != "small"
    )
    return 8 * sum(opened.parts[part] for part in artifact.MATRIX_PARTS) / weights


def check_equal(made: Artifact, weights: dict[str, Tensor], pack: Pack) -> None:
    """Raise RuntimeError unless the artifact holds exactly the weights rounded as it should."""
    for name, found in made.state.items():
        bits = quantize.bits_of(quantize.part_of(name), pack)
        wanted = quantize.rounded(weights[name].numpy(), bits, pack.row_scale)
        if not torch.equal(found, torch.from_numpy(wanted)):
            raise RuntimeError(f"the artifact does not read back: {name} differs")


def _is_there(run: course.Run, done: PackResult) -> bool:
    return run.artifact.is_file() and course.sha256_file(run.artifact) == done.artifact_sha256
