"""The stage `pack`: weights → artifact, read back and compared before it gets its name."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fairway import console, distributed
from fairway.coding import artifact
from fairway.coding.artifact import Artifact
from fairway.config.schema import NO_MEMORY, Memory, Model, Pack, Recipe
from fairway.data.tokenizer import Tokenizer
from fairway.errors import BadInput
from fairway.exact import operands
from fairway.formats.artifact import HEADER_BYTES, MATRIX_PARTS, check_shapes
from fairway.formats.tensors import Quantized, TensorSpec, Weights
from fairway.io import atomic, checkpoint
from fairway.model.parameters import tensors_of
from fairway.pipeline.data_folder import load_tokenizer, load_val
from fairway.pipeline.directory import Job
from fairway.pipeline.results import PackResult, PrepareResult, TrainResult
from fairway.quantize import allocate, gptq
from fairway.quantize.quantizers import QUANTIZERS
from fairway.train import calibrate
from fairway.train.calibrate import Curvature
from fairway.train.validate import validate

_RECIPE_BYTES = 4096  # at most, of the recipe in an artifact


@dataclass(frozen=True)
class Packed:
    """An artifact's bytes, what they were read back as, and what the rounding should cost."""

    data: bytes
    artifact: Artifact
    predicted_nats: float  # per token; 0 where nothing is known of the curvature


def pack(job: Job) -> PackResult:
    """Write run.artifact from run.weights, whole or not at all. Raises BadInput."""
    recipe, run = job.recipe, job.run
    place, start = distributed.start(), time.perf_counter()
    trained = run.require(TrainResult)
    folder = run.data_folder(run.require(PrepareResult))
    tokenizer = load_tokenizer(folder)
    tensors, _ = checkpoint.load(run.weights)
    weights = {name: t.float().numpy() for name, t in tensors.items()}
    curvatures: dict[str, Curvature] = {}
    if QUANTIZERS[recipe.pack.quantizer].needs_curvature:
        curvatures, _ = calibrate.load(run.calibration)
    packed = pack_weights(recipe.model, tokenizer, weights, curvatures, recipe.pack, recipe.memory)
    _check_exactness(packed, recipe)
    atomic.write_atomic(run.artifact, packed.data)
    pack_s = time.perf_counter() - start
    size = len(packed.data)
    console.say(f"packed {size:,} bytes in {pack_s:.1f} s; measuring them")
    model = packed.artifact.build_model(place.device, place.dtype)
    nats, after = validate(model, tokenizer, load_val(folder))
    return PackResult(
        quantizer=recipe.pack.quantizer,
        artifact_bytes=size,
        parts=packed.artifact.parts,
        bits_per_weight=packed.artifact.bits_per_weight,
        val_bpb_before=trained.val_bpb,
        val_bpb_after=after,
        nats_lost=nats - trained.val_nats_per_token,
        predicted_nats_lost=packed.predicted_nats,
        calibration_s=trained.calibration_s if curvatures else 0.0,
        budget_bytes=recipe.pack.budget_bytes,
        within_budget=size <= recipe.pack.budget_bytes,
        artifact_sha256=packed.artifact.sha256,
        pack_s=pack_s,
    )


def pack_weights(
    model: Model,
    tokenizer: Tokenizer,
    weights: Mapping[str, Weights],
    curvatures: Mapping[str, Curvature],
    recipe: Pack,
    memory: Memory = NO_MEMORY,
) -> Packed:
    """Quantize, fill the budget, write, read back and compare. Raises BadInput.

    weights: float32, by parameter; curvatures: of every matrix, for the quantizer `gptq`.
    """
    check_budget(model, tokenizer, recipe, memory)
    tensors = tensors_of(model, tokenizer.vocab_size)
    check_shapes({name: w.shape for name, w in weights.items()}, tensors)
    quantizer_class = QUANTIZERS[recipe.quantizer]
    factors = {}
    if quantizer_class.needs_curvature:
        _check_curvatures(curvatures, tensors)
        factors = gptq.factor(curvatures)
    quantizer = quantizer_class(weights, factors, recipe)

    def write(quantized: Quantized) -> bytes:
        return artifact.write(model, tokenizer, quantized, memory)

    if quantizer.fills(recipe):
        fixed_bytes = (
            len(tokenizer.to_bytes()) + 300 + sum(c.size for c, _ in quantizer.vectors.values())
        )
        quantized, data = allocate.fill(
            quantizer, recipe.budget_bytes, fixed_bytes, write,
            lambda tries, size: console.say(
                f"pack: try {tries} takes {size:,} of {recipe.budget_bytes:,} bytes"
            ),
        )  # fmt: skip
        if len(data) > recipe.budget_bytes:
            raise BadInput(
                f"the coarsest steps that were tried take {len(data):,} bytes, and "
                f"pack.budget_bytes is {recipe.budget_bytes:,}: raise it, or train a smaller "
                "network or vocabulary"
            )
    else:
        quantized = quantizer.at(0.0)
        data = write(quantized)
    made = artifact.read(data)
    check_equal(made, quantized)
    cost = sum(
        gptq.predicted_nats(weights[name], made.weights[name], curvature)
        for name, curvature in curvatures.items()
    )
    return Packed(data, made, cost)


def check_budget(model: Model, tokenizer: Tokenizer, recipe: Pack, memory: Memory) -> None:
    """Raise BadInput when even a network whose weights are all 0 is over the budget.

    That depends on the shape and the tokenizer alone, so it is known before training.
    """
    budget = recipe.budget_bytes
    others = HEADER_BYTES + len(tokenizer.to_bytes())
    weights = sum(math.prod(t.shape) for t in tensors_of(model, tokenizer.vocab_size))
    if budget > others + weights // 16 + _RECIPE_BYTES:  # zeros take far less than half a bit
        return
    parts = artifact.smallest(model, tokenizer, memory)
    if sum(parts.values()) > budget:
        fixed = sum(size for part, size in parts.items() if part not in MATRIX_PARTS)
        raise BadInput(
            f"pack.budget_bytes {budget:,} is less than the smallest artifact of this shape takes, "
            f"{sum(parts.values()):,} bytes: the parts other than weights take {fixed:,}, the "
            f"tokenizer alone {parts['tokenizer']:,}; raise the budget, or choose a smaller "
            "vocabulary or network"
        )


def _check_exactness(packed: Packed, recipe: Recipe) -> None:
    """Raise BadInput when so few bits are left that scores cannot be computed exactly.

    Steps that are too coarse for exact arithmetic come from a budget that leaves next to nothing.
    """
    bits = packed.artifact.bits_per_weight
    if "exact" not in (recipe.score.arithmetic, recipe.prove.arithmetic) or bits >= 1:
        return
    try:
        operands.prepare(packed.artifact)
    except BadInput as error:
        raise BadInput(
            f"pack.budget_bytes {recipe.pack.budget_bytes:,} leaves {bits:.2f} bits per weight, "
            f"which is too little: raise it, or train a smaller network ({error})"
        ) from None


def _check_curvatures(curvatures: Mapping[str, Curvature], tensors: list[TensorSpec]) -> None:
    for name, shape, part, _ in tensors:
        if part == "small":
            continue
        known = curvatures.get(name)
        if known is None or (len(known.outputs), len(known.inputs)) != shape:
            raise BadInput(
                f"the calibration does not fit the network, {name} differs: train the recipe again "
                "with train.calibration_tokens above 0, or pack with another quantizer"
            )
        if not (known.inputs.isfinite().all() and known.outputs.isfinite().all()):
            raise BadInput(f"the calibration of {name} is not finite: the training diverged")


def check_equal(made: Artifact, quantized: Quantized) -> None:
    """Raise RuntimeError unless the artifact holds exactly these tensors."""
    for name, wanted in quantized.weights().items():
        if not np.array_equal(made.weights[name], wanted):
            raise RuntimeError(f"the artifact does not read back: {name} differs")
