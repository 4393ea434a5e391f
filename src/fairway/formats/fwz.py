"""The compressed file, .fwz: a header, chunks, and a mark of the end. docs/formats.md has it.

A chunk is text as it is, text by brotli, or pieces of it by brotli and by a network in turn.
What a file may ask of a decoder is limited by the bytes that it has, before any of it is done.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fairway.errors import BadInput
from fairway.formats.coded_tokens import CodedTokens
from fairway.io.binary import CRC_BYTES, Reader, varint

MAGIC, VERSION = b"FWZ", 1
MAX_CHUNK_BYTES = 2_000_000  # under 2^21, so that a stored chunk's length takes 3 bytes
PIECE_BYTES = 1 << 15  # about as many tokens of prose as a lane is long elsewhere
HASH_BYTES = 4  # of artifact, environment and logits each: enough to refuse another file
_CPU, _CUDA, _EXACT = 0, 1, 2  # how probabilities are computed
# What a chunk begins with; k >= _GROUPED: k - _GROUPED + 1 groups.
_END, _STORED, _GENERAL, _GROUPED = 0, 1, 2, 3
_MOST_PIECES = MAX_CHUNK_BYTES // PIECE_BYTES + 1
_TOKENS_PER_STREAM_BYTE = 512  # at most, and some free: a few bytes cannot ask for hours
_FREE_TOKENS = 4096

Group = tuple[int, int]  # bytes by brotli, then documents by the network
MostTokens = Callable[[int, int], int]  # from the bytes and the documents of a text


@dataclass(frozen=True)
class FwzHeader:
    """What a compressed file needs to be decoded; first HASH_BYTES of SHA-256s."""

    on_cuda: bool | None  # None: exact arithmetic, every machine decodes it
    artifact: bytes
    environment: bytes = b""  # with floating point only
    logits: bytes = b""

    def to_bytes(self) -> bytes:
        """Return the header as it stands in the file, without its checksum."""
        arithmetic = _EXACT if self.on_cuda is None else _CUDA if self.on_cuda else _CPU
        hashes = self.artifact + self.environment + self.logits
        return MAGIC + bytes([VERSION, arithmetic]) + hashes

    @staticmethod
    def read(reader: Reader) -> FwzHeader:
        """Read what follows MAGIC, and the checksum. Raises BadInput."""
        version, arithmetic = reader.take(2)
        if version != VERSION or arithmetic > _EXACT:
            raise BadInput(
                f"the compressed file has format version {version}: this Fairway reads version "
                f"{VERSION}; it was made by another one, or it is damaged"
            )
        exact = arithmetic == _EXACT
        artifact = reader.take(HASH_BYTES)
        environment, logits = (reader.take(0 if exact else HASH_BYTES) for _ in range(2))
        reader.check()
        return FwzHeader(None if exact else arithmetic == _CUDA, artifact, environment, logits)


@dataclass(frozen=True)
class FwzChunk:
    """One chunk."""

    general: bytes  # brotli; or the text itself
    is_stored: bool = False
    groups: tuple[Group, ...] = ()  # none: nothing of it was cut into pieces
    coded: CodedTokens | None = None
    checksum: bytes = b""  # CRC-32 of the text that the network coded

    @property
    def general_bytes(self) -> int:
        """Bytes of the text in the groups that brotli coded."""
        return sum(size for size, _ in self.groups)

    @property
    def documents(self) -> int:
        """Documents in the groups that the network coded."""
        return sum(count for _, count in self.groups)

    def to_bytes(self) -> bytes:
        """Return the chunk as it stands in the file, without its checksum."""
        kind = _STORED if self.is_stored else _GENERAL + len(self.groups)
        fields = [varint(n) for n in (kind, *(n for group in self.groups for n in group))]
        if not self.groups or self.general_bytes:
            fields += [varint(len(self.general)), self.general]
        if self.coded:
            fields += [self.coded.to_bytes(), self.checksum]
        return b"".join(fields)


def end() -> bytes:
    """Return the mark of the end, which stands where a chunk could."""
    return varint(_END)


def most_coded_tokens(stream_bytes: int) -> int:
    """Return how many tokens a chunk may have coded, given the bytes of its stream."""
    return _FREE_TOKENS + _TOKENS_PER_STREAM_BYTE * stream_bytes


def read_chunk(reader: Reader, most_tokens_of: MostTokens) -> FwzChunk | None:
    """Read the next chunk; None for the mark of the end. Raises Damaged.

    most_tokens_of: what the artifact's tokenizer makes of a text at most.
    """
    chunk = _read(reader, most_tokens_of)
    reader.check()
    return chunk


def _read(reader: Reader, most_tokens_of: MostTokens) -> FwzChunk | None:
    kind = reader.varint()
    if kind == _END:
        return None
    if kind == _STORED:
        stored = reader.take(_bytes(reader))
        if not stored:
            raise reader.bad("holds nothing")
        return FwzChunk(stored, is_stored=True)
    if kind == _GENERAL:
        return FwzChunk(reader.take(_packed_bytes(reader)))
    if kind - _GROUPED >= _MOST_PIECES:
        raise reader.bad(f"claims {kind - _GROUPED + 1} groups of pieces")
    groups = tuple((_bytes(reader), _bytes(reader)) for _ in range(kind - _GROUPED + 1))
    general_bytes, documents = (sum(column) for column in zip(*groups, strict=True))
    if general_bytes > MAX_CHUNK_BYTES:
        raise reader.bad(f"claims {general_bytes} bytes")
    general = reader.take(_packed_bytes(reader)) if general_bytes else b""
    if documents > _MOST_PIECES:
        raise reader.bad(f"claims {documents} pieces")
    if not (all(b for b, _ in groups[1:]) and all(d for _, d in groups[:-1]) and any(groups[-1])):
        raise reader.bad("has a group of pieces that is no group")
    if not documents:
        return FwzChunk(general, groups=groups)
    coded = CodedTokens.read(reader, most_tokens_of(MAX_CHUNK_BYTES, documents))
    _check_work(reader, coded, documents, most_tokens_of)
    return FwzChunk(general, False, groups, coded, reader.take(CRC_BYTES))


def _check_work(
    reader: Reader, coded: CodedTokens, documents: int, most_tokens_of: MostTokens
) -> None:
    """Raise Damaged unless every piece is a lane of its own and no longer than a piece may be."""
    if len(coded.starts) != documents or coded.starts.inside.any():
        raise reader.bad(f"claims {len(coded.starts)} lanes for {documents} pieces")
    longest = int(np.diff(np.append(coded.starts.positions, coded.tokens)).max())
    if longest > most_tokens_of(PIECE_BYTES + 3, 1):
        raise reader.bad(f"claims a piece of {longest} tokens")
    if coded.tokens > most_coded_tokens(len(coded.stream)):
        raise reader.bad(f"claims {coded.tokens} tokens in {len(coded.stream)} bytes")


def _bytes(reader: Reader) -> int:
    return reader.at_most(MAX_CHUNK_BYTES, "bytes or pieces")


def _packed_bytes(reader: Reader) -> int:
    return reader.at_most(2 * MAX_CHUNK_BYTES, "bytes or pieces")
