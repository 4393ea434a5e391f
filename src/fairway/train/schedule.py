"""Learning rate and momentum as functions of progress in [0, 1], so that any hardware trains alike.

Progress follows the clock when the budget is in seconds, and the step count otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from fairway.config.schema import Optim

T = TypeVar("T")


def learning_rate(progress: float, recipe: Optim) -> float:
    """Return the share of every peak rate: linear warmup, plateau, warmdown to the floor.

    A fall as 1 - √t (Hägele et al., arXiv 2405.18392) is steep at first.
    """
    rise = min(1.0, progress / recipe.warmup) if recipe.warmup else 1.0
    left = 1.0 - progress
    fall = max(0.0, min(1.0, left / recipe.warmdown)) if recipe.warmdown else 1.0
    if recipe.warmdown_shape == "sqrt":
        fall = 1.0 - (1.0 - fall) ** 0.5
    return rise * (recipe.lr_floor + (1 - recipe.lr_floor) * fall)


def momentum(progress: float, recipe: Optim) -> float:
    """Return Muon's μ: linear from its start to its peak over the warmup."""
    share = min(1.0, progress / recipe.momentum_warmup) if recipe.momentum_warmup else 1.0
    return recipe.momentum_start + share * (recipe.momentum - recipe.momentum_start)


def staged(progress: float, stages: Sequence[tuple[float, T]], last: T) -> T:
    """Return the value of the first stage that ends after `progress`, or `last`."""
    return next((value for end, value in stages if progress < end), last)
