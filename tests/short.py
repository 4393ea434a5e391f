"""The recipe `tiny` with a shorter validation text: its proofs decode several times as fast."""

from collections.abc import Sequence

from fairway.config.schema import Recipe
from fairway.config.toml import load

TRAIN_TEXT = "data.train_bytes=191_000"  # so that it ends with two short documents
SETS = [TRAIN_TEXT, "data.held_out_bytes=4_000"]
WORDS = [word for value in SETS for word in ("--set", value)]


def load_short(sets: Sequence[str] = ()) -> Recipe:
    """Return the recipe of the fixture `finished_tiny`, with values of its own set."""
    return load("tiny", [*SETS, *sets])
