"""Is somebody else's score valid? Experiments on scorers, data and runs (docs/audit.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fairway.audit.scorer import Charges

__all__ = ["Charges"]


def __getattr__(name: str) -> Any:
    """Import on use: enter.py needs this package before numpy starts threads."""
    if name == "Charges":
        from fairway.audit.scorer import Charges

        return Charges
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
