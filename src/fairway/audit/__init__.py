"""Is somebody else's score valid? Experiments on scorers, data and run folders (docs/audit.md)."""

from fairway.audit.scorer import Charges

__all__ = ["Charges"]
