"""Is somebody else's score valid? Experiments on scorers, data and runs (docs/audit.md).

enter.py needs this package before numpy starts threads: only the standard library is imported here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Charges"]


@dataclass(frozen=True)
class Charges:
    """What a scorer charged for N tokens. Only `nats` must be given."""

    nats: Any  # [N]: for each token, all that it was charged; of several charges their sum
    times_charged: Any = None  # [N]: how often
    bytes: Any = None  # [N]: what each token adds to the denominator of bits per byte
    total_nats: float | None = None  # the numerator that the score was computed from
    total_tokens: int | None = None
    total_bytes: int | None = None  # the denominator
    order: Any = None  # [N]: positions in the order in which a decoder would know the tokens
    side_bytes: int = 0  # told to a decoder besides the code (where lanes start); in total_nats
