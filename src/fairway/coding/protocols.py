"""Charge every token of a text by one of three protocols.

A text of N tokens has N - 1 targets. Position p predicts token p + 1, and the first BOS is free.

    plain     |<--- window 0 --->|<--- window 1 --->|<- 2 ->|   a window begins without past
               s s s s s s s s s  s s s s s s s s s  s s s s    s: this position is charged

    sliding   |<--- window 0 --->|                              a window charges the positions
               s s s s s s s s s                                that are new in it, one stride
                   |<--- window 1 --->|
                    . . . . . . . s s                           .: context alone
                       |<--- window 2 --->|
                        . . . . . . . s s

    rolling   lane 0  [ s s s s s s s s s s s s s s ]           each token is charged after up to a
                            |<- window ->|s                     window of its own document, in the
              lane 1  [ s s s s s s s s s ]                     chunks and lanes of lanes.py

Only the rolling protocol uses the document memory, because only there are the tokens in the order
in which a decoder knows them.
"""

from __future__ import annotations

from collections.abc import Iterator

from fairway.coding.lanes import Division, Tokens, chunks
from fairway.coding.model import CodingModel, TokenCosts, Window
from fairway.config.schema import Score
from fairway.errors import BadInput


def text_costs(
    model: CodingModel, tokens: Tokens, how: Score, division: Division, done: int = 0
) -> Iterator[TokenCosts]:
    """Return an iterator over the costs of all tokens of a text but the first, each exactly once.

    tokens: uint16[N], one text; division: how the rolling protocol cuts it. After `model.restore`,
    `done` is the number of tokens that were charged before the snapshot. Raises BadInput.
    """
    if how.protocol == "rolling":
        return _rolling(model, tokens, division, done)
    planned = windows(len(tokens), model.window, how)
    return model.window_costs(tokens, (w for w in planned if w.end > done))


def _rolling(
    model: CodingModel, tokens: Tokens, division: Division, done: int
) -> Iterator[TokenCosts]:
    for chunk in chunks(tokens, model.bos_id, division):
        if chunk.start + len(chunk.tokens) - 1 > done:
            for costs in model.token_costs(chunk.tokens, chunk.layout):
                yield costs._replace(positions=costs.positions + chunk.start)


def windows(tokens: int, window: int, how: Score) -> Iterator[Window]:
    """Return the windows of the protocol `plain` or `sliding`. Raises BadInput."""
    if how.protocol == "plain":
        return plain(tokens, window)
    if how.stride > window:
        raise BadInput(f"score.stride {how.stride} is larger than the window, {window}")
    return sliding(tokens, window, how.stride)


def plain(tokens: int, window: int) -> Iterator[Window]:
    """Yield separate windows of `window` positions; the last one may be shorter."""
    for start in range(0, tokens - 1, window):
        yield Window(start, start, min(start + window, tokens - 1))


def sliding(tokens: int, window: int, stride: int) -> Iterator[Window]:
    """Yield windows of `window` positions, each scoring the `stride` positions that are new in it.

    The first window scores all of its positions. The last one is moved back to end with the text
    and scores what is left. The challenge's script scores part of that tail twice
    (openai/parameter-golf, eval_val_sliding of the records' train_gpt.py).
    """
    end = min(window, tokens - 1)
    if end > 0:
        yield Window(0, 0, end)
    while end < tokens - 1:
        first, end = end, min(end + stride, tokens - 1)
        yield Window(end - window, first, end)
