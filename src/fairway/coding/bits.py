"""Nats and bytes to bits per byte."""

from __future__ import annotations

from math import log

from fairway.errors import BadInput


def bits_per_byte(nats: float, text_bytes: int) -> float:
    """Return nats / ln 2 / text_bytes: the bits that a text costs over its length in bytes (BPB).

    Raises BadInput for an empty text, which has none.
    """
    if text_bytes == 0:
        raise BadInput("the text has no bytes, so it has no bits per byte: give another text")
    return nats / log(2) / text_bytes
