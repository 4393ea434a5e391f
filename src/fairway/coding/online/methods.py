"""What follows from the method that adapts: lanes and chunks, arithmetic, order."""

from __future__ import annotations

from fairway.coding.lanes import Division
from fairway.config.schema import Adapt, Arithmetic, Prove
from fairway.formats.coded_tokens import TOKENS_PER_LANE

CHUNK_TOKENS_PER_LANE = 2 * TOKENS_PER_LANE  # a kill loses one at most; more are slower
CHUNK_TOKENS = 3 << 16  # at least, of what learns, against 12 bytes for each chunk


def alone(how: Adapt) -> bool:
    """Whether what learns keeps its order in a single lane only."""
    return how.method in ("sgd", "dynamic") and how.order == "left-to-right"


def division(how: Adapt, lanes: int) -> Division:
    """How a proof cuts a text. lanes: at most so many where nothing is learned."""
    if how.method == "none":
        return Division(lanes, lanes * CHUNK_TOKENS_PER_LANE)
    lanes = 1 if alone(how) else how.lanes
    return Division(lanes, max(lanes * CHUNK_TOKENS_PER_LANE, CHUNK_TOKENS))


USUAL = division(Adapt(), Prove().lanes)


def arithmetic(how: Adapt, wanted: Arithmetic) -> Arithmetic:
    """What learns computes in floating point."""
    return wanted if how.method == "none" else "float"


def order_of(how: Adapt) -> str:
    """What results say about the order: `lanes` where lanes learn from each other."""
    return "left-to-right" if how.method in ("none", "lora") else how.order
