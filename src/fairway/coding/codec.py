"""Tokens ↔ bytes: the compressor that proof files and compressed files share.

A text is cut into chunks. A chunk is one stream that carries all of its lanes, or the bytes as
they are where coding does not pay. Layout byte by byte in docs/formats.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fairway import floating_point
from fairway.coding.lanes import Layout, documents_of, lane_starts
from fairway.coding.model import CodingModel, Intervals
from fairway.coding.workers import Progress
from fairway.data.tokenizer import Tokenizer
from fairway.errors import BadInput, Damaged
from fairway.formats.coded_tokens import CodedTokens, Starts
from fairway.formats.proof import MAX_CHUNK_TOKENS, ProofChunk
from fairway.formats.range_coder import TOTAL, Coder
from fairway.io import limits

Tokens = NDArray[np.uint16]


@dataclass(frozen=True)
class EncodedChunk:
    """One chunk of a proof as it stands in the file, without its checksum."""

    body: bytes
    stream_bytes: int
    ideal_bits: float  # the sum of the integer code lengths; 8 per stored byte
    lanes: int  # 0: stored


class Codec:
    """Codes chunks with a network; safe to share by threads."""

    def __init__(self, model: CodingModel, tokenizer: Tokenizer) -> None:
        self._model, self.tokenizer = model, tokenizer
        self._decoded = [0, 0]  # bytes of text, and of the streams that they came from

    def encode(
        self, tokens: Tokens, documents: Sequence[bytes], lanes: int, progress: Progress
    ) -> EncodedChunk:
        """Return one chunk of documents and their tokens, uint16[N], the first a BOS.

        The bytes are stored where that is shorter, but not by a network that learns, and where the
        tokens do not decode to them. Raises BadInput.
        """
        text_bytes = sum(map(len, documents))
        body = ProofChunk(None, list(documents)).to_bytes()
        stored = EncodedChunk(body, text_bytes, 8.0 * text_bytes, 0)
        if self.tokenizer.decode(tokens) != list(documents):
            return stored
        if len(tokens) > MAX_CHUNK_TOKENS:
            raise BadInput(f"a document of {text_bytes:,} bytes is too long: cut it into parts")
        starts = lane_starts(len(tokens), documents_of(tokens, self.tokenizer.bos_id), lanes)
        intervals = self.intervals(tokens, Layout(len(tokens), starts), progress)
        made, ideal_bits = self.encode_tokens(tokens, starts, intervals, progress)
        body = ProofChunk(made, []).to_bytes()
        coded = EncodedChunk(body, len(made.stream), ideal_bits, len(starts))
        if self._model.learns:  # a decoder has to learn from it, too
            return coded
        return min(stored, coded, key=lambda chunk: len(chunk.body))

    def encode_tokens(
        self,
        tokens: Tokens,
        starts: Starts,
        intervals: Intervals | None,
        progress: Progress = lambda tokens, bits: None,
    ) -> tuple[CodedTokens, float]:
        """Return tokens uint16[N] as the network codes them, and the bits of its code lengths.

        `intervals`: what `self.intervals` gave. Without them the lanes are coded in lockstep.
        """
        layout, coder = Layout(len(tokens), starts), Coder()
        if intervals is None:
            self._in_lockstep(coder, layout, tokens, True, progress)
        else:
            order = layout.order()
            coder.code_intervals(intervals.starts[order], intervals.stops[order])
        return CodedTokens(len(tokens), starts, coder.finish()), coder.ideal_bits

    def intervals(self, tokens: Tokens, layout: Layout, progress: Progress) -> Intervals | None:
        """Return the intervals of tokens uint16[N]; [0, 2^30) where none is coded.

        None: this model's intervals are known only when the lanes are coded in lockstep.
        """
        if not self._model.has_intervals:
            return None
        starts, stops = np.zeros(len(tokens), np.int64), np.full(len(tokens), TOTAL, np.int64)
        done, bits = 0, 0.0
        for costs in self._model.token_costs(tokens, layout):
            assert costs.intervals is not None
            starts[costs.positions], stops[costs.positions] = costs.intervals
            done, bits = done + len(costs.positions), bits + float(costs.nats.sum()) / math.log(2)
            progress(done, bits)
        return Intervals(starts, stops)

    def decode(self, chunk: ProofChunk, progress: Progress, name: str = "the chunk") -> list[bytes]:
        """Return the documents of a chunk; `name` is what errors call it.

        Raises BadInput when the stream is not what encodes them.
        """
        if chunk.coded is None:
            return chunk.documents
        return self.decode_tokens(chunk.coded, progress, name)

    def decode_tokens(
        self,
        coded: CodedTokens,
        progress: Progress,
        name: str = "the chunk",
        most_bytes: float = math.inf,
    ) -> list[bytes]:
        """Return the documents that a network coded, up to a number of bytes. Raises BadInput."""
        tokens = np.zeros(coded.tokens, np.uint16)
        tokens[coded.starts.positions] = self.tokenizer.bos_id  # lanes inside write over it
        coder = Coder(coded.stream)
        self._in_lockstep(coder, Layout(coded.tokens, coded.starts), tokens, False, progress)
        size = int(self.tokenizer.byte_lengths(tokens).sum())
        if not _ends(coder) or size > most_bytes:
            floating_point.check()  # is it this process, and not the file?
            raise another_text(name)
        self._decoded[0] += size
        self._decoded[1] += len(coded.stream)
        limits.check_memory(f"the text of {name}", 2 * self._decoded[0], self._decoded[1])
        return self.tokenizer.decode(tokens)

    def _in_lockstep(
        self, coder: Coder, layout: Layout, tokens: Tokens, encode: bool, progress: Progress
    ) -> None:
        """Code the tokens of all lanes in lockstep: read them to encode, fill them in to decode."""
        stepper = self._model.stepper(layout)
        fed = np.full(layout.lanes, self.tokenizer.bos_id, np.int64)
        done = 0
        for step in range(layout.steps):
            where = layout.positions(step)
            cumulative = stepper.step(fed[: len(where)])
            fed = coder.code(cumulative, tokens[where].astype(np.int64) if encode else None)
            stepper.observe(fed)
            tokens[where] = fed
            done += len(where)
            progress(done, coder.ideal_bits)


def another_text(name: str) -> Damaged:
    """Return the error of a chunk whose stream does not end where its symbols end."""
    return Damaged(
        f"{name} decodes to another text than was encoded: it is damaged, or it was "
        "made in floating point and this machine computes other probabilities than that one"
    )


def _ends(coder: Coder) -> bool:
    try:
        coder.check_end()
    except BadInput:
        return False
    return True
