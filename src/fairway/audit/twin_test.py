"""The twin test: is the validation text cheaper than a second text of the same distribution?

A leak that is baked into weights makes validation documents cheaper, and not their twins. Bits per
byte differ between documents far more than a leak is worth. So one regression line over both texts
predicts each document's bits from those of brotli, which learned nothing. The test compares the
means of the residuals, with their standard error over documents (Welch).
"""

from __future__ import annotations

from math import sqrt
from pathlib import Path

import brotli
import numpy as np

from fairway.audit.experiment import evidence_of, finding
from fairway.audit.scorer import Floats
from fairway.coding import artifact, online
from fairway.coding.lanes import documents_of
from fairway.coding.model import CodingModel
from fairway.coding.protocols import text_costs
from fairway.coding.session import open_model
from fairway.config.schema import Recipe
from fairway.data.tokenizer import Tokenizer
from fairway.errors import BadInput
from fairway.pipeline import texts
from fairway.pipeline.command_results import AuditFinding
from fairway.pipeline.directory import Job, RunDirectory

_Z_BROKEN = 3.09  # one-sided, p = 0.001
_Z_FOUND = 2.33  # with probability 0.99
_LEAST_DOCUMENTS, _LEAST_BYTES = 20, 200


def compare(recipe: Recipe, run: RunDirectory, twin: Path) -> AuditFinding:
    """Compare the validation text with the documents of `twin`. Raises BadInput."""
    opened = artifact.read(run.artifact)
    model = open_model(opened)
    ours, theirs = (_documents(recipe, run, opened.tokenizer, model, file) for file in (None, twin))
    for rows, name in ((ours, "the validation text"), (theirs, str(twin))):
        if len(rows) < _LEAST_DOCUMENTS:
            raise BadInput(f"{name} has {len(rows)} documents of {_LEAST_BYTES} bytes or more: "
                           f"a twin test needs {_LEAST_DOCUMENTS}")  # fmt: skip
    difference, error = difference_of(ours, theirs)
    z = difference / error
    strength = (
        f"{len(ours):,} and {len(theirs):,} documents: with probability 0.99 a leak worth "
        f"{(_Z_BROKEN + _Z_FOUND) * error:.4f} bits per byte"
    )
    said = (
        f"validation documents take {abs(difference):.4f} ± {error:.4f} bits per byte "
        f"{'less' if difference < 0 else 'more'} than their twins, after brotli's measure of "
        f"both (z = {z:.1f})"
    )
    evidence = evidence_of([-1], 0.0, difference)
    return finding("twin", z < -_Z_BROKEN, said, strength, evidence)


def difference_of(ours: Floats, theirs: Floats) -> tuple[float, float]:
    """Return the difference of the mean residuals, ours less theirs, and its standard error.

    ours, theirs: float64[D, 2], bits per byte of each document under the model and under brotli.
    """
    both = np.concatenate([ours, theirs])
    group = np.repeat([1.0, 0.0], [len(ours), len(theirs)])
    design = np.stack([np.ones(len(both)), both[:, 1], group], 1)
    weights, *_ = np.linalg.lstsq(design, both[:, 0], rcond=None)
    residual = both[:, 0] - design @ weights
    parts = residual[group == 1], residual[group == 0]
    error = sqrt(sum(float(p.var(ddof=2)) / len(p) for p in parts))
    return float(weights[2]), error


def _documents(
    recipe: Recipe, run: RunDirectory, tokenizer: Tokenizer, model: CodingModel, file: Path | None
) -> Floats:
    """Return bits per byte under the model and under brotli of each document: float64[D, 2].

    Each document is scored from its beginning, without the documents before it.
    """
    text = texts.load(Job(recipe, run, file), tokenizer)
    nats = np.zeros(len(text.tokens))
    how = recipe.score.model_copy(update={"protocol": "rolling"})
    for costs in text_costs(model, text.tokens, how, online.USUAL_DIVISION):
        nats[costs.positions] = costs.nats
    starts = documents_of(text.tokens, tokenizer.bos_id)
    nats[starts] = 0.0  # boundaries say nothing about a document
    bits = np.add.reduceat(nats, starts) / np.log(2)
    documents = tokenizer.decode(text.tokens)
    rows = [
        (b / len(d), 8 * len(brotli.compress(d)) / len(d))
        for b, d in zip(bits.tolist(), documents, strict=True)
        if len(d) >= _LEAST_BYTES
    ]
    return np.array(rows).reshape(-1, 2)
