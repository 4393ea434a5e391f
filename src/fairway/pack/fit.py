"""How large an artifact becomes, from the recipe alone, before anything is trained.

Trained rows are close to Gaussian. A Gaussian of spread σ that is rounded to multiples of Δ has
about log2(√(2πe)·σ/Δ) bits of entropy per weight while Δ is small against σ; `entropy_bits` is
exact. What is not weights is small: the tokenizer, steps and vectors.
"""

from __future__ import annotations

import math
from statistics import NormalDist

from fairway.model.gpt import skeleton
from fairway.pack.artifact import HEADER_BYTES
from fairway.pack.quantize import SPREADS, Part, bits_of, part_of
from fairway.recipe import Recipe

_NORMAL = NormalDist()
_TOKENIZER_BYTES_PER_PIECE = 2.36
_RECIPE_BYTES = 190
_ROW_BITS = {"rtn": 11.0, "uniform": 4.0, "gptq": 4.0}  # a row's scale or exponent, coded
_COLUMN_BITS = {"rtn": 0.0, "uniform": 0.1, "gptq": 3.0}
_VECTOR_BITS = 8.0  # a value of a gain, mix or gate
_CODER_SHARE = 1.003  # of the entropy: what adaptive contexts take to learn, less what they find


def predicted_bytes(recipe: Recipe) -> float:
    """Of the artifact, within about a percent once the network has trained for a while."""
    if recipe.pack.quantizer != "rtn" and not recipe.pack.step:
        return recipe.pack.budget_bytes
    bits = 0.0
    for name, shape in skeleton(recipe.model, recipe.data.vocab_size, 0).items():
        part = part_of(name)
        if part != "small":
            bits += math.prod(shape) * _CODER_SHARE * code_bits(recipe, part, shape[1])
    return fixed_bytes(recipe) + bits / 8


def fixed_bytes(recipe: Recipe) -> float:
    """What does not depend on how finely weights are stored."""
    quantizer, bits = recipe.pack.quantizer, 0.0
    for name, shape in skeleton(recipe.model, recipe.data.vocab_size, 0).items():
        if part_of(name) == "small":
            bits += _VECTOR_BITS * math.prod(shape)
        else:
            bits += _ROW_BITS[quantizer] * shape[0] + _COLUMN_BITS[quantizer] * shape[1]
    pieces = max(recipe.data.vocab_size - 257, 0)
    return HEADER_BYTES + _RECIPE_BYTES + _TOKENIZER_BYTES_PER_PIECE * pieces + bits / 8


def code_bits(recipe: Recipe, part: Part, columns: int) -> float:
    """Entropy of one code of a part's matrices under the recipe's quantizer."""
    pack = recipe.pack
    if pack.quantizer == "uniform":
        return entropy_bits(1 / pack.step)
    bits = bits_of(part, pack)
    fixed = pack.row_scale == "std" and bits < 8
    reach = SPREADS if fixed else expected_maximum(columns)
    return entropy_bits((2 ** (bits - 1) - 1) / reach)


def entropy_bits(spread: float) -> float:
    """Of the integers that a Gaussian is rounded to, `spread` standard deviation in steps."""
    total, k = 0.0, 0
    while k <= 8 * spread + 8:
        p = _NORMAL.cdf((k + 0.5) / spread) - _NORMAL.cdf((k - 0.5) / spread)
        if p > 0:
            total -= (1 if k == 0 else 2) * p * math.log2(p)
        k += 1
    return total


def expected_maximum(columns: int) -> float:
    """Median of the largest of so many |Gaussian values|, in standard deviations."""
    return _NORMAL.inv_cdf((1 + 0.5 ** (1 / max(columns, 1))) / 2)
