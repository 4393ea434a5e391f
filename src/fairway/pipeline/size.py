"""The command size: what an artifact will take, before anything is trained."""

from __future__ import annotations

from fairway.config.schema import Recipe
from fairway.formats.artifact import MATRIX_PARTS
from fairway.model.sizes import flops_per_token
from fairway.pipeline.results import Result
from fairway.quantize.size import Shape, nearby_shapes, predicted_parts


class SizeResult(Result):
    """What the recipe's artifact will take, and which shapes near it fit its budget."""

    quantizer: str
    budget_bytes: int
    artifact_bytes: int  # predicted
    parts: dict[str, int]  # predicted; they sum to artifact_bytes
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


def predict(recipe: Recipe) -> SizeResult:
    """Predict the parts of the recipe's artifact, and what its budget leaves shapes near it."""
    parts = {name: int(size) for name, size in predicted_parts(recipe).items()}
    return SizeResult(
        quantizer=recipe.pack.quantizer,
        budget_bytes=recipe.pack.budget_bytes,
        artifact_bytes=sum(parts.values()),
        parts=parts,
        flops_per_token=flops_per_token(recipe.model, recipe.data.vocab_size),
        shapes=nearby_shapes(recipe),
    )
