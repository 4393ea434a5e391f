"""Tokens ↔ bytes: the compressor that proof files and compressed files share.

A text is cut into chunks. A chunk is one stream that carries all of its lanes, or the bytes as
they are where coding does not pay. Layout byte by byte in docs/formats.md.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fairway.errors import BadInput
from fairway.model.gpt import GPT
from fairway.predict.lanes import Layout, Starts, plan
from fairway.predict.predictor import FloatPredictor, Predictor
from fairway.rangecoder import Coder
from fairway.text.tokenizer import Tokenizer

MAX_CHUNK_TOKENS = 1 << 26  # a file that claims more is refused before memory is taken
MAX_LANES = 1 << 16
_CODED = 0  # kind of a chunk; k > 0: stored, k documents
_CRC_BYTES = 4

Tokens = NDArray[np.uint16]
Progress = Callable[[int, float], None]  # told tokens done and their bits, in this chunk; may raise


@dataclass(frozen=True)
class Chunk:
    """One chunk as it stands in a file."""

    data: bytes
    stream_bytes: int
    ideal_bits: float  # the sum of the integer code lengths; 8 per stored byte
    lanes: int  # 0: stored


def varint(value: int) -> bytes:
    """LEB128: seven bits per byte, the lowest first; the high bit says that more follow."""
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def with_checksum(data: bytes, seed: int) -> bytes:
    """data and its CRC-32, started from `seed`."""
    return data + _checksum_bytes(zlib.crc32(data, seed))


def last_checksum(data: bytes) -> int:
    """What `with_checksum` appended: the seed of the next part."""
    return int.from_bytes(data[-_CRC_BYTES:], "little")


class Reader:
    """Takes fields from bytes. Raises BadInput that says which part is truncated or damaged."""

    def __init__(self, data: bytes, what: str) -> None:
        self._data, self.position = data, 0  # position: of the next byte to take
        self.checksum = 0  # of the last part that was checked
        self.enter(what)

    def enter(self, what: str) -> None:
        """From here on the bytes belong to `what`."""
        self.what, self._mark = what, self.position

    def take(self, count: int) -> bytes:
        taken = self._data[self.position : self.position + count]
        if len(taken) < count:
            raise self.bad("is truncated")
        self.position += count
        return taken

    def varint(self) -> int:
        value = 0
        for shift in range(0, 63, 7):
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise self.bad("is damaged")

    def check(self) -> None:
        """Take a CRC-32 and hold it against this part's bytes, started from the part's before.

        So a part that is lost, doubled or out of place is noticed too.
        """
        expected = zlib.crc32(self._data[self._mark : self.position], self.checksum)
        self.checksum = int.from_bytes(self.take(_CRC_BYTES), "little")
        if self.checksum != expected:
            raise self.bad("is damaged")

    def check_end(self) -> None:
        if self.position < len(self._data):
            extra = len(self._data) - self.position
            raise self.bad(f"is followed by {extra} bytes that do not belong there")

    def bad(self, problem: str) -> BadInput:
        return BadInput(f"{self.what} {problem}: restore the file from its source")


class Codec:
    """Codes chunks with a network; the caller keeps threads and machine the same (guard.py)."""

    def __init__(self, model: GPT, tokenizer: Tokenizer) -> None:
        self._model, self.tokenizer = model, tokenizer

    def encode(
        self, tokens: Tokens, documents: Sequence[bytes], lanes: int, seed: int, progress: Progress
    ) -> Chunk:
        """One chunk of documents and their tokens, uint16[N], the first a BOS.

        `seed` is the checksum of what precedes it in the file. The bytes are stored where that is
        shorter, and where the tokens do not decode to them. Raises BadInput.
        """
        text = b"".join(documents)
        numbers = [len(documents), *(len(document) for document in documents)]
        body = b"".join(varint(number) for number in numbers) + text
        stored = Chunk(with_checksum(body, seed), len(text), 8.0 * len(text), 0)
        if self.tokenizer.decode(tokens) != list(documents):
            return stored
        if len(tokens) > MAX_CHUNK_TOKENS:
            raise BadInput(f"a document of {len(text):,} bytes is too long: cut it into parts")
        starts = plan(len(tokens), np.flatnonzero(tokens == self.tokenizer.bos_id), lanes)
        coder = Coder()
        self._run(coder, Layout(len(tokens), starts), tokens, True, progress)
        stream = coder.finish()
        body = bytes([_CODED]) + varint(len(tokens)) + write_starts(starts) + varint(len(stream))
        body += stream + _checksum_bytes(zlib.crc32(text))
        if len(body) >= len(stored.data) - _CRC_BYTES:
            return stored
        return Chunk(with_checksum(body, seed), len(stream), coder.ideal_bits, len(starts))

    def decode(self, reader: Reader, progress: Progress) -> list[bytes]:
        """The documents of the chunk that the reader has entered. Raises BadInput."""
        documents = reader.varint()
        if documents != _CODED:
            lengths = [reader.varint() for _ in range(documents)]
            text = [reader.take(length) for length in lengths]
            reader.check()
            return text
        count = reader.varint()
        if not 0 < count <= MAX_CHUNK_TOKENS:
            raise reader.bad(f"claims {count} tokens")
        starts = read_starts(reader, count)
        stream = reader.take(reader.varint())
        text_checksum = reader.take(_CRC_BYTES)
        reader.check()
        tokens = np.zeros(count, np.uint16)
        tokens[starts.positions] = self.tokenizer.bos_id  # where a lane starts inside: overwritten
        coder = Coder(stream)
        self._run(coder, Layout(count, starts), tokens, False, progress)
        text = self.tokenizer.decode(tokens)
        if not _ends(coder) or _checksum_bytes(zlib.crc32(b"".join(text))) != text_checksum:
            raise BadInput(
                f"{reader.what} decodes to another text than was encoded: this machine computes "
                "other probabilities; decode the file on a machine like the one that wrote it"
            )
        return text

    def _run(
        self, coder: Coder, layout: Layout, tokens: Tokens, encode: bool, progress: Progress
    ) -> None:
        """Code the tokens of all lanes in lockstep: read them to encode, fill them in to decode."""
        predictor: Predictor = FloatPredictor(self._model, layout.lanes)
        fed = np.full(layout.lanes, self.tokenizer.bos_id, np.int64)
        done = 0
        for step in range(layout.steps):
            where = layout.positions(step)
            cumulative = predictor.step(fed[: len(where)])
            fed = coder.code(cumulative, tokens[where].astype(np.int64) if encode else None)
            tokens[where] = fed
            done += len(where)
            progress(done, coder.ideal_bits)


def _ends(coder: Coder) -> bool:
    try:
        coder.check_end()
    except BadInput:
        return False
    return True


def write_starts(starts: Starts) -> bytes:
    """Number of lanes; for each after the first, its distance from the one before and `inside`."""
    steps = np.diff(starts.positions) << 1 | starts.inside[1:]
    return b"".join(varint(number) for number in [len(starts), *steps.tolist()])


def read_starts(reader: Reader, tokens: int) -> Starts:
    """Inverse of `write_starts`. Raises BadInput."""
    lanes = reader.varint()
    if not 0 < lanes <= MAX_LANES:
        raise reader.bad(f"claims {lanes} lanes")
    steps = np.array([0] + [reader.varint() for _ in range(lanes - 1)], np.int64)
    positions = np.cumsum(steps >> 1)
    if (np.diff(positions) < 1).any() or positions[-1] >= tokens:
        raise reader.bad("has lanes out of order")
    return Starts(positions, (steps & 1).astype(bool))


def _checksum_bytes(checksum: int) -> bytes:
    return checksum.to_bytes(_CRC_BYTES, "little")
