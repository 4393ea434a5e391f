"""Train a language model under a byte budget, and prove its score with a file that decodes."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from fairway.library import Model

__version__ = "0.1.0"


def load(path: str | Path) -> Model:
    """Open an artifact: .logprobs(text), .compress(bytes), .generate(...). Raises BadInput."""
    model: Model = import_module("fairway.library").Model(path)
    return model
