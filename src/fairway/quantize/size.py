"""Predict how large an artifact becomes, from the recipe alone, before anything is trained.

Trained rows are close to Gaussian. A Gaussian of spread σ that is rounded to multiples of Δ has
about log2(√(2πe)·σ/Δ) bits of entropy per weight while Δ is small against σ; `entropy_bits` is
exact. What is not weights is small: the tokenizer, steps and vectors. Where trained weights differ
from Gaussian ones in a way that does not depend on the shape, a constant says so; bench/fit.py
trains small networks and compares.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import NormalDist

from pydantic import BaseModel

from fairway.config.schema import Data, Recipe
from fairway.formats.artifact import HEADER_BYTES, MATRIX_PARTS, PARTS
from fairway.formats.tensors import Part
from fairway.model.parameters import tensors_of
from fairway.model.sizes import flops_per_token
from fairway.quantize.quantizers import QUANTIZERS

GOOD_BITS_PER_WEIGHT = 2.4  # below, rounding costs more than more weights give (docs/packing.md)

_NORMAL = NormalDist()
_RECIPE_BYTES = 190
_VECTOR_BITS = 8.2  # a value of a gain, mix or gate
_CODER_SHARE = 1.002  # of the entropy: what adaptive contexts take
_LEARNING_BYTES = 50.0  # ... and what they take to learn, for each part
# Rows of `down` belong to outputs, columns to hidden units, which end up with unequal strengths.
_MLP_SAVED_BITS = 0.085  # per weight of up and down together
# Tokens that the text never holds, mostly bytes: their rows are all driven in one direction, which
# leaves little but signs to code, and one dimension that stands out has most of it.
_SILENT_ROWS = {"stdlib": 143, "stdlib-code": 143, "files": 69, "shards": 200}
_SILENT_SAVED_BITS = 1.75  # per weight
_SILENT_REACH = 0.63  # of the square root of the width: a silent row's largest weight


class Shape(BaseModel):
    """A shape near the recipe's, and what the budget leaves it."""

    num_layers: int
    dim: int
    vocab_size: int
    bigram_rows: int
    weights: int  # of the coded matrices
    bits_per_weight: float  # of these, codes and steps, when the artifact fills the budget
    relative_flops: float  # per token, the recipe's are 1
    fits: bool  # at least GOOD_BITS_PER_WEIGHT


def nearby_shapes(recipe: Recipe) -> list[Shape]:
    """Return the recipe's shape and shapes near it, with what the byte budget leaves each."""
    flops = flops_per_token(recipe.model, recipe.data.vocab_size)
    return [_shape(near, flops) for near in _near(recipe)]


def _shape(recipe: Recipe, flops: float) -> Shape:
    model, data = recipe.model, recipe.data
    weights = sum(matrix_weights(recipe).values())
    left_bytes = recipe.pack.budget_bytes - sum(_besides_matrices(recipe).values())
    bits = 8 * max(left_bytes, 0) / weights
    return Shape(
        num_layers=model.num_layers,
        dim=model.dim,
        vocab_size=data.vocab_size,
        bigram_rows=model.bigram_rows,
        weights=weights,
        bits_per_weight=bits,
        relative_flops=flops_per_token(model, data.vocab_size) / flops,
        fits=bits >= GOOD_BITS_PER_WEIGHT,
    )


def _near(recipe: Recipe) -> Iterator[Recipe]:
    """Yield the recipe, other depths and widths, then half and twice its vocabulary and bigrams."""
    model, data = recipe.model, recipe.data
    unit = 8 * model.num_heads
    depths = {max(1, round(model.num_layers * share)) for share in (0.5, 0.75, 1.25, 1.5)}
    widths = {unit * max(1, round(model.dim * share / unit)) for share in (0.5, 0.75, 1.25, 1.5)}
    yield recipe
    for depth in sorted(depths | {model.num_layers}):
        for width in sorted(widths | {model.dim}):
            if (depth, width) != (model.num_layers, model.dim):
                yield _changed(recipe, num_layers=depth, dim=width)
    if data.source != "shards":  # whose tokenizer is given
        for vocab_size in (data.vocab_size // 2, data.vocab_size * 2):
            if 258 <= vocab_size <= 65535:
                yield recipe.model_copy(
                    update={"data": data.model_copy(update={"vocab_size": vocab_size})}
                )
    if model.bigram_rows:
        yield _changed(recipe, bigram_rows=model.bigram_rows // 2)
        yield _changed(recipe, bigram_rows=model.bigram_rows * 2)


def _changed(recipe: Recipe, **values: int) -> Recipe:
    return recipe.model_copy(update={"model": recipe.model.model_copy(update=values)})


def predicted_bytes(recipe: Recipe) -> float:
    """Return the bytes of the artifact, to about a percent once a network has trained a while."""
    return sum(predicted_parts(recipe).values())


def predicted_parts(recipe: Recipe) -> dict[str, float]:
    """Return the bytes of each part of the artifact, in its order.

    A quantizer that fills the budget is predicted to; how it divides the matrices' bytes among
    their parts depends on the training, and is known to about a fifth.
    """
    pack, others = recipe.pack, _besides_matrices(recipe)
    quantizer = QUANTIZERS[pack.quantizer]
    fills = quantizer.fills(pack)
    bits, weights = dict.fromkeys(MATRIX_PARTS, 0.0), 0
    for part, shape in _matrices(recipe):
        size = math.prod(shape)
        weights += size
        if not fills:
            bits[part] = bits[part] or 8 * _LEARNING_BYTES
            bits[part] += _matrix_bits(recipe, part, shape)
        else:
            bits[part] += size * quantizer.part_shares.get(part, 1.0)
    if fills:
        room = 8 * max(pack.budget_bytes - sum(others.values()), 0)
        share = min(room, quantizer.most_bits * weights) / sum(bits.values())
        bits = {part: share * value for part, value in bits.items()}
    parts = others | {part: value / 8 for part, value in bits.items()}
    return {name: parts[name] for name in ("header", *PARTS)}


def _besides_matrices(recipe: Recipe) -> dict[str, float]:
    """Return the bytes of the parts that do not depend on how finely weights are stored."""
    tensors = tensors_of(recipe.model, recipe.data.vocab_size)
    values = sum(math.prod(tensor.shape) for tensor in tensors if tensor.part == "small")
    return {
        "header": HEADER_BYTES,
        "recipe": _RECIPE_BYTES,
        "tokenizer": tokenizer_bytes(recipe.data),
        "small": _VECTOR_BITS * values / 8,
    }


def tokenizer_bytes(data: Data) -> float:
    """Return the bytes of the tokenizer: Fairway's own, or one of the challenge's.

    Fitted to vocabularies of 512 to 4,096 tokens of stdlib and FineWeb, within 6 %; and to the
    challenge's of 1,024 and 8,192 tokens, within 5 %.
    """
    pieces = max(data.vocab_size - 257, 1)
    share = 0.9 if data.source == "shards" else 1.0
    return share * pieces * (0.875 + 0.141 * math.log2(pieces))


def _matrices(recipe: Recipe) -> Iterator[tuple[Part, tuple[int, ...]]]:
    for tensor in tensors_of(recipe.model, recipe.data.vocab_size):
        if tensor.part != "small":
            yield tensor.part, tensor.shape


def matrix_weights(recipe: Recipe) -> dict[str, int]:
    """Return the number of weights of the matrices, by part."""
    weights: dict[str, int] = {}
    for part, shape in _matrices(recipe):
        weights[part] = weights.get(part, 0) + math.prod(shape)
    return weights


def _matrix_bits(recipe: Recipe, part: Part, shape: tuple[int, ...]) -> float:
    """Return the bits of codes and steps of one matrix where no budget is filled."""
    pack, (rows, columns) = recipe.pack, shape
    quantizer = QUANTIZERS[pack.quantizer]
    silent = min(_SILENT_ROWS.get(recipe.data.source, 143), rows) if part == "embedding" else 0
    per_row = quantizer.code_bits(pack, part, expected_maximum(columns))
    if part == "mlp":
        per_row -= _MLP_SAVED_BITS
    reach = max(expected_maximum(columns), _SILENT_REACH * math.sqrt(columns))
    per_silent_row = quantizer.code_bits(pack, part, reach) - _SILENT_SAVED_BITS
    bits = columns * ((rows - silent) * max(per_row, 0) + silent * max(per_silent_row, 0))
    steps = quantizer.row_bits * rows + quantizer.column_bits * columns
    return _CODER_SHARE * bits + steps


def expected_maximum(columns: int) -> float:
    """Return the median of the largest of a number of |Gaussian values|, in standard deviations."""
    return _NORMAL.inv_cdf((1 + 0.5 ** (1 / max(columns, 1))) / 2)
