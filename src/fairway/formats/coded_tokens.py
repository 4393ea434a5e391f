"""The tokens that a network coded: one stream that carries all lanes of a chunk.

Chunks of proofs and of compressed files share this layout. docs/formats.md, "Coded tokens".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fairway.io.binary import Reader, varint

TOKENS_PER_LANE = 2048  # in proofs, the least on average: a lane costs 2 or 3 bytes
MAX_LANES = 1 << 16
_STREAM_BYTES = 8, 4  # at most, in all and more per token: a token takes 30 bits at most


@dataclass(frozen=True)
class Starts:
    """Where lanes start in a text, in its order; the first is 0, the text's own first BOS."""

    positions: NDArray[np.int64]  # [L], rising from 0
    inside: NDArray[np.bool_]  # [L], True where a lane starts inside a document

    def __len__(self) -> int:
        return len(self.positions)

    @staticmethod
    def whole() -> Starts:
        """Return the start of a single lane."""
        return Starts(np.zeros(1, np.int64), np.zeros(1, bool))

    def to_bytes(self) -> bytes:
        """Return the number of lanes; for each after the first, 2 · distance + inside."""
        steps = np.diff(self.positions) << 1 | self.inside[1:]
        return b"".join(varint(number) for number in [len(self), *steps.tolist()])

    @staticmethod
    def read(reader: Reader, tokens: int) -> Starts:
        """Read the starts of the lanes of a number of tokens. Raises Damaged."""
        lanes = reader.varint()
        if not 0 < lanes <= MAX_LANES:
            raise reader.bad(f"claims {lanes} lanes")
        steps = np.array([0] + [reader.varint() for _ in range(lanes - 1)], np.int64)
        distances = steps >> 1
        positions = np.cumsum(distances)
        if (distances[1:] < 1).any() or (distances >= tokens).any() or positions[-1] >= tokens:
            raise reader.bad("has lanes out of order")
        return Starts(positions, (steps & 1).astype(bool))


@dataclass(frozen=True)
class CodedTokens:
    """Tokens as a network coded them."""

    tokens: int
    starts: Starts
    stream: bytes

    def to_bytes(self) -> bytes:
        """Return the number of tokens, the starts of lanes and the stream with its length."""
        return b"".join(
            [varint(self.tokens), self.starts.to_bytes(), varint(len(self.stream)), self.stream]
        )

    @staticmethod
    def read(reader: Reader, most_tokens: int) -> CodedTokens:
        """Read what `to_bytes` writes; check what can be checked without a network.

        Raises Damaged.
        """
        tokens = reader.at_most(most_tokens, "tokens")
        if not tokens:
            raise reader.bad("claims 0 tokens")
        starts = Starts.read(reader, tokens)
        stream_bytes = reader.varint()
        if stream_bytes > _STREAM_BYTES[0] + _STREAM_BYTES[1] * tokens:
            raise reader.bad(f"claims a stream of {stream_bytes} bytes for {tokens} tokens")
        return CodedTokens(tokens, starts, reader.take(stream_bytes))


def most_lanes(tokens: int) -> int:
    """Return how many lanes a proof's chunk may have, given its number of tokens."""
    return max(1, tokens // TOKENS_PER_LANE)
