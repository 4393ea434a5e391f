"""Train a language model under a byte budget, and prove its score with a file that decodes.

Everything public is listed in `__all__` (docs/interface.md). The import is light: torch is imported
when a name of `fairway.library` is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from fairway.errors import BadInput, Damaged, Interrupted

if TYPE_CHECKING:
    from fairway.library import LogProbs, Model, NextToken, Proof, Run, load, run, verify
    from fairway.pipeline.results import ScoreResult, Verdict

__version__ = "1.0.0.dev0"
__all__ = [
    "BadInput",
    "Damaged",
    "Interrupted",
    "LogProbs",
    "Model",
    "NextToken",
    "Proof",
    "Run",
    "ScoreResult",
    "Verdict",
    "load",
    "run",
    "verify",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'fairway' has no attribute {name!r}")
    return getattr(import_module("fairway.library"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
