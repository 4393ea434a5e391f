"""Tokens ↔ bytes: the compressor that proof files and compressed files share.

A text is cut into chunks. A chunk is one stream that carries all of its lanes, or the bytes as
they are where coding does not pay. Layout byte by byte in docs/formats.md.
"""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fairway import floating_point
from fairway.coding.lanes import Layout, Starts, documents_of, lane_starts, most_lanes
from fairway.coding.predictor import Engine, Intervals
from fairway.coding.session import Progress
from fairway.data.tokenizer import Tokenizer
from fairway.errors import BadInput, Damaged
from fairway.formats.range_coder import TOTAL, Coder
from fairway.io import limits

PROOF_VERSION = 3
MAX_CHUNK_TOKENS = 1 << 26  # a file that claims more is refused before memory is taken
MAX_LANES = 1 << 16
_CODED = 0  # kind of a chunk; k > 0: stored, k documents
CRC_BYTES = 4
_PIECE_BYTES = 1 << 20  # read at a time

Tokens = NDArray[np.uint16]


@dataclass(frozen=True)
class Chunk:
    """One chunk as it stands in a file, without its checksum."""

    body: bytes
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


def framed(parts: Iterable[bytes]) -> Iterator[bytes]:
    """A file's header and chunks, a CRC-32 after each, started from the one before it."""
    checksum = 0
    for part in parts:
        checksum = zlib.crc32(part, checksum)
        yield part + checksum_bytes(checksum)


def join(parts: Iterable[bytes]) -> bytes:
    return b"".join(framed(parts))


class Source(Protocol):
    """What bytes are read from: fewer than asked for only at the end, or from a pipe."""

    def read(self, size: int, /) -> bytes: ...


class Reader:
    """Takes fields from a file. Raises BadInput that says which part is truncated or damaged."""

    def __init__(self, source: bytes | Source, what: str) -> None:
        self._source: Source = io.BytesIO(source) if isinstance(source, bytes) else source
        self._checksum = 0  # of this part's bytes so far, started from the part's before
        self.position = 0  # of the next byte to take
        self.enter(what)

    def enter(self, what: str) -> None:
        """From here on the bytes belong to `what`."""
        self.what = what

    def take(self, count: int) -> bytes:
        """Exactly so many bytes; a claim takes no more memory than there are bytes."""
        pieces = []
        while count and (piece := self._source.read(min(count, _PIECE_BYTES))):
            pieces.append(piece)
            count -= len(piece)
        if count:
            raise self.bad("is truncated")
        taken = b"".join(pieces)
        self._checksum = zlib.crc32(taken, self._checksum)
        self.position += len(taken)
        return taken

    def varint(self) -> int:
        """The next number. Its shortest form alone is taken: two files must not hold one text."""
        value = 0
        for shift in range(0, 63, 7):
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            if byte < 128:
                if shift and not byte:
                    raise self.bad("has a number that is longer than it need be")
                return value
        raise self.bad("is damaged")

    def check(self) -> None:
        """Take a CRC-32 and hold it against this part's bytes, started from the part's before.

        So a part that is lost, doubled or out of place is noticed too.
        """
        expected = self._checksum
        stored = int.from_bytes(self.take(CRC_BYTES), "little")
        self._checksum = stored
        if stored != expected:
            raise self.bad("is damaged")

    def check_end(self) -> None:
        extra = 0
        while piece := self._source.read(_PIECE_BYTES):
            extra += len(piece)
        if extra:
            raise self.bad(f"is followed by {extra} bytes that do not belong there")

    def bad(self, problem: str) -> Damaged:
        return Damaged(f"{self.what} {problem}: restore the file from its source")


@dataclass(frozen=True)
class Coded:
    """What a network coded, yet to be decoded."""

    name: str
    tokens: int
    starts: Starts
    stream: bytes


@dataclass(frozen=True)
class Written:
    """A chunk of a proof. Its checksum is right."""

    coded: Coded | None  # None: stored
    documents: list[bytes]  # when stored
    checksum: bytes = b""  # CRC-32 of the documents; only versions before 3 have it

    @property
    def tokens(self) -> int:
        return self.coded.tokens if self.coded else 0

    @property
    def stream_bytes(self) -> int:
        return len(self.coded.stream) if self.coded else sum(map(len, self.documents))


def read_chunks(reader: Reader, count: int, version: int = PROOF_VERSION) -> list[Written]:
    """All chunks of a proof after its header, up to its end. Raises BadInput naming the bad one."""
    chunks = []
    for i in range(count):
        name = f"chunk {i + 1} of {count}"
        with_header = i == 0 and version == PROOF_VERSION
        reader.enter(f"the proof's header or {name}" if with_header else name)
        chunks.append(_read_chunk(reader, name, version))
    reader.check_end()
    return chunks


def _read_chunk(reader: Reader, name: str, version: int) -> Written:
    kind = reader.varint()
    if kind == _CODED:
        coded = replace(read_coded(reader, MAX_CHUNK_TOKENS), name=name)
        if len(coded.starts) > most_lanes(coded.tokens):
            raise reader.bad(f"claims {len(coded.starts)} lanes")
        checksum = reader.take(CRC_BYTES) if version < PROOF_VERSION else b""
        chunk = Written(coded, [], checksum)
    else:
        lengths = [reader.varint() for _ in range(kind)]
        chunk = Written(None, [reader.take(length) for length in lengths])
    reader.check()
    return chunk


def read_coded(reader: Reader, most_tokens: int) -> Coded:
    """Inverse of `Codec.encode_coded`, as far as can be told without a network. Raises BadInput."""
    tokens = reader.varint()
    if not 0 < tokens <= most_tokens:
        raise reader.bad(f"claims {tokens} tokens")
    starts = _read_starts(reader, tokens)
    stream_bytes = reader.varint()
    if stream_bytes > 4 * tokens + 8:  # a token takes 30 bits at most
        raise reader.bad(f"claims a stream of {stream_bytes} bytes for {tokens} tokens")
    return Coded(reader.what, tokens, starts, reader.take(stream_bytes))


class Codec:
    """Codes chunks with a network; safe to share by threads."""

    def __init__(self, engine: Engine, tokenizer: Tokenizer) -> None:
        self._engine, self.tokenizer = engine, tokenizer
        self._decoded = [0, 0]  # bytes of text, and of the streams that they came from

    def encode(
        self, tokens: Tokens, documents: Sequence[bytes], lanes: int, progress: Progress
    ) -> Chunk:
        """One chunk of documents and their tokens, uint16[N], the first a BOS.

        The bytes are stored where that is shorter, but not by a network that learns, and where the
        tokens do not decode to them. Raises BadInput.
        """
        text = b"".join(documents)
        numbers = [len(documents), *(len(document) for document in documents)]
        body = b"".join(varint(number) for number in numbers) + text
        stored = Chunk(body, len(text), 8.0 * len(text), 0)
        if self.tokenizer.decode(tokens) != list(documents):
            return stored
        if len(tokens) > MAX_CHUNK_TOKENS:
            raise BadInput(f"a document of {len(text):,} bytes is too long: cut it into parts")
        starts = lane_starts(len(tokens), documents_of(tokens, self.tokenizer.bos_id), lanes)
        intervals = self.intervals(tokens, Layout(len(tokens), starts), progress)
        coded = self.encode_coded(tokens, starts, intervals, progress)
        coded = replace(coded, body=bytes([_CODED]) + coded.body)
        if self._engine.learns:  # a decoder has to learn from it, too
            return coded
        return min(stored, coded, key=lambda chunk: len(chunk.body))

    def encode_coded(
        self,
        tokens: Tokens,
        starts: Starts,
        intervals: Intervals | None,
        progress: Progress = lambda tokens, bits: None,
    ) -> Chunk:
        """What the network makes of tokens uint16[N].

        `intervals`: what `self.intervals` gave. Without them the lanes are coded in lockstep.
        """
        layout, coder = Layout(len(tokens), starts), Coder()
        if intervals is None:
            self._in_lockstep(coder, layout, tokens, True, progress)
        else:
            order = layout.order()
            coder.code_intervals(intervals.starts[order], intervals.stops[order])
        stream = coder.finish()
        body = varint(len(tokens)) + write_starts(starts) + varint(len(stream)) + stream
        return Chunk(body, len(stream), coder.ideal_bits, len(starts))

    def intervals(self, tokens: Tokens, layout: Layout, progress: Progress) -> Intervals | None:
        """Of tokens uint16[N], [0, 2^30) where none is coded; None: only lockstep gives them."""
        found = self._engine.intervals(tokens, layout)
        if found is None:
            return None
        count = len(tokens)
        all_of_them = Intervals(
            np.arange(count), np.zeros(count, np.int64), np.full(count, TOTAL, np.int64)
        )
        done, bits = 0, 0.0
        for part in found:
            all_of_them.starts[part.positions] = part.starts
            all_of_them.stops[part.positions] = part.stops
            done, bits = done + len(part.positions), bits + float(part.lengths.sum())
            progress(done, bits)
        return all_of_them

    def decode(self, chunk: Written, progress: Progress) -> list[bytes]:
        """The documents of a chunk. Raises BadInput when the stream is not what encodes them."""
        if chunk.coded is None:
            return chunk.documents
        documents = self.decode_coded(chunk.coded, progress)
        if chunk.checksum and checksum_bytes(zlib.crc32(b"".join(documents))) != chunk.checksum:
            raise another_text(chunk.coded.name)
        return documents

    def decode_coded(
        self, chunk: Coded, progress: Progress, most_bytes: float = math.inf
    ) -> list[bytes]:
        """The same for what the network coded, of at most so many bytes. Raises BadInput."""
        tokens = np.zeros(chunk.tokens, np.uint16)
        tokens[chunk.starts.positions] = self.tokenizer.bos_id  # lanes inside write over it
        coder = Coder(chunk.stream)
        self._in_lockstep(coder, Layout(chunk.tokens, chunk.starts), tokens, False, progress)
        size = int(self.tokenizer.byte_lengths(tokens).sum())
        if not _ends(coder) or size > most_bytes:
            floating_point.check()  # is it this process, and not the file?
            raise another_text(chunk.name)
        self._decoded[0] += size
        self._decoded[1] += len(chunk.stream)
        limits.check_memory(f"the text of {chunk.name}", 2 * self._decoded[0], self._decoded[1])
        return self.tokenizer.decode(tokens)

    def _in_lockstep(
        self, coder: Coder, layout: Layout, tokens: Tokens, encode: bool, progress: Progress
    ) -> None:
        """Code the tokens of all lanes in lockstep: read them to encode, fill them in to decode."""
        predictor = self._engine.predictor(layout)
        fed = np.full(layout.lanes, self.tokenizer.bos_id, np.int64)
        done = 0
        for step in range(layout.steps):
            where = layout.positions(step)
            cumulative = predictor.step(fed[: len(where)])
            fed = coder.code(cumulative, tokens[where].astype(np.int64) if encode else None)
            predictor.observe(fed)
            tokens[where] = fed
            done += len(where)
            progress(done, coder.ideal_bits)


def another_text(name: str) -> Damaged:
    """To be raised."""
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


def write_starts(starts: Starts) -> bytes:
    """Number of lanes; for each after the first, its distance from the one before and `inside`."""
    steps = np.diff(starts.positions) << 1 | starts.inside[1:]
    return b"".join(varint(number) for number in [len(starts), *steps.tolist()])


def _read_starts(reader: Reader, tokens: int) -> Starts:
    """Inverse of `write_starts`. Raises BadInput."""
    lanes = reader.varint()
    if not 0 < lanes <= MAX_LANES:
        raise reader.bad(f"claims {lanes} lanes")
    steps = np.array([0] + [reader.varint() for _ in range(lanes - 1)], np.int64)
    distances = steps >> 1
    positions = np.cumsum(distances)
    if (distances[1:] < 1).any() or (distances >= tokens).any() or positions[-1] >= tokens:
        raise reader.bad("has lanes out of order")
    return Starts(positions, (steps & 1).astype(bool))


def checksum_bytes(checksum: int) -> bytes:
    return checksum.to_bytes(CRC_BYTES, "little")
