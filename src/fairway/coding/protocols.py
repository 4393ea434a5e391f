"""Which positions a window sees and which of them it scores: pure functions.

A text of N tokens has N - 1 targets; position p predicts token p + 1. Every position in
0 .. N - 2 is scored by exactly one window.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from fairway.config.schema import Score
from fairway.errors import BadInput


class Window(NamedTuple):
    """The model sees tokens[start:end] and is charged at positions first .. end - 1."""

    start: int
    first: int
    end: int


def planned(tokens: int, window: int, how: Score) -> Iterator[Window]:
    """The windows of a protocol. Raises BadInput."""
    if how.protocol == "plain":
        return plain(tokens, window)
    if how.stride > window:
        raise BadInput(f"score.stride {how.stride} is larger than the window, {window}")
    return sliding(tokens, window, how.stride)


def plain(tokens: int, window: int) -> Iterator[Window]:
    """Separate windows of `window` positions; the last one may be shorter."""
    for start in range(0, tokens - 1, window):
        yield Window(start, start, min(start + window, tokens - 1))


def sliding(tokens: int, window: int, stride: int) -> Iterator[Window]:
    """Windows of `window` positions, each scoring the `stride` positions that are new in it.

    The first scores all of its own. The last one is moved back to end with the text, and scores
    what is left; the challenge's script scores part of that tail twice (REFERENCE A8).
    """
    end = min(window, tokens - 1)
    if end > 0:
        yield Window(0, 0, end)
    while end < tokens - 1:
        first, end = end, min(end + stride, tokens - 1)
        yield Window(end - window, first, end)
