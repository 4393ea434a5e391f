"""The command size: what an artifact will take, before anything is trained."""

from __future__ import annotations

from fairway.config.schema import Recipe
from fairway.formats.artifact import MATRIX_PARTS
from fairway.model.sizes import flops_per_token
from fairway.pipeline.results import Result
from fairway.quantize.size import (
    GOOD_BITS_PER_WEIGHT,
    Shape,
    matrix_weights,
    nearby_shapes,
    predicted_parts,
)

_KEYS = {  # of a recipe, that make the matrices of a part smaller
    "embedding": "data.vocab_size or model.dim",
    "attention": "model.num_layers or model.dim",
    "mlp": "model.mlp_mult, model.num_layers or model.dim",
    "bigram": "model.bigram_rows or model.bigram_dim",
}


class SizeResult(Result):
    """What the recipe's artifact will take, and which shapes near it fit its budget."""

    quantizer: str
    budget_bytes: int
    artifact_bytes: int  # predicted
    parts: dict[str, int]  # predicted; they sum to artifact_bytes
    weights: dict[str, int]  # of the matrices, by part
    flops_per_token: float  # of training
    shapes: list[Shape]  # the recipe's first

    @property
    def failure(self) -> str:
        """Return by how much the artifact exceeds the budget; empty: it fits."""
        over = self.artifact_bytes - self.budget_bytes
        if over <= 0:
            return ""
        too_big = f"the artifact will be about {over:,} bytes over pack.budget_bytes"
        others = sum(size for part, size in self.parts.items() if part not in MATRIX_PARTS)
        if others > self.budget_bytes:
            too_big += (
                f" {self.budget_bytes:,}: the parts other than weights take about {others:,}, the "
                f"tokenizer alone {self.parts['tokenizer']:,}"
            )
        return too_big

    @property
    def advice(self) -> str:
        """Return which is the largest shape that fits, or why none does and what to change."""
        fitting = [shape for shape in self.shapes if shape.fits]
        if fitting:
            best, own = max(fitting, key=lambda shape: shape.weights), self.shapes[0]
            keys = {
                "model.num_layers": (best.num_layers, own.num_layers),
                "model.dim": (best.dim, own.dim),
                "data.vocab_size": (best.vocab_size, own.vocab_size),
                "model.bigram_rows": (best.bigram_rows, own.bigram_rows),
            }
            sets = [f" --set {key}={new}" for key, (new, old) in keys.items() if new != old]
            which = "".join(sets) or " the recipe's own"
            return f"{len(fitting)} of {len(self.shapes)} shapes fit; the largest:{which}"
        weights, part = sum(self.weights.values()), max(self.weights, key=self.weights.__getitem__)
        others = sum(size for part, size in self.parts.items() if part not in MATRIX_PARTS)
        needed = others + int(weights * GOOD_BITS_PER_WEIGHT / 8)
        return (
            f"no shape fits: the recipe needs about {needed:,} bytes, {GOOD_BITS_PER_WEIGHT} "
            f"bits for each of {weights:,} weights and {others:,} bytes of other parts; {part} "
            f"has {self.weights[part] / weights:.0%} of the weights: make {_KEYS[part]} smaller, "
            "or raise the budget"
        )


def predict(recipe: Recipe) -> SizeResult:
    """Predict the parts of the recipe's artifact, and what its budget leaves shapes near it."""
    parts = {name: int(size) for name, size in predicted_parts(recipe).items()}
    return SizeResult(
        quantizer=recipe.pack.quantizer,
        budget_bytes=recipe.pack.budget_bytes,
        artifact_bytes=sum(parts.values()),
        parts=parts,
        weights=matrix_weights(recipe),
        flops_per_token=flops_per_token(recipe.model, recipe.data.vocab_size),
        shapes=nearby_shapes(recipe),
    )
