"""Read and write binary fields, and files of parts that carry checksums.

Fields are bytes and varints. A file of parts has a CRC-32 after each part, continued from the
CRC-32 before it, so that a part that is lost, doubled or out of place is noticed.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterable, Iterator
from typing import Protocol, runtime_checkable

from fairway.errors import Damaged

CRC_BYTES = 4
_READ_BYTES = 1 << 20  # at a time: a claimed length takes no memory before its bytes are there


@runtime_checkable
class Source(Protocol):
    """What bytes are read from: fewer than asked for only at the end, or from a pipe."""

    def read(self, size: int, /) -> bytes: ...


@runtime_checkable
class Target(Protocol):
    """What bytes are written to."""

    def write(self, data: bytes, /) -> int: ...


def varint(value: int) -> bytes:
    """Return a number from 0 in LEB128: seven bits per byte, lowest first; the high bit: go on."""
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def crc_bytes(checksum: int) -> bytes:
    """Return a CRC-32 as it stands in files: 4 bytes, little-endian."""
    return checksum.to_bytes(CRC_BYTES, "little")


def with_checksums(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Yield each part with its CRC-32 behind it, continued from the part before."""
    checksum = 0
    for part in parts:
        checksum = zlib.crc32(part, checksum)
        yield part + crc_bytes(checksum)


def join(parts: Iterable[bytes]) -> bytes:
    """Return the file of these parts, each with its checksum."""
    return b"".join(with_checksums(parts))


class Reader:
    """Takes fields from a file. Raises Damaged, which says which part is truncated or damaged."""

    def __init__(self, source: bytes | Source, what: str) -> None:
        self._source: Source = io.BytesIO(source) if isinstance(source, bytes) else source
        self._checksum = 0  # of this part's bytes so far, continued from the part before
        self.position = 0  # of the next byte to take
        self.what = what  # the part that the next bytes belong to, for messages

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes."""
        pieces = []
        while count and (piece := self._source.read(min(count, _READ_BYTES))):
            pieces.append(piece)
            count -= len(piece)
        if count:
            raise self.bad("is truncated")
        taken = b"".join(pieces)
        self._checksum = zlib.crc32(taken, self._checksum)
        self.position += len(taken)
        return taken

    def varint(self) -> int:
        """Return the next number. Only its shortest form is taken: a text has one spelling."""
        value = 0
        for shift in range(0, 63, 7):
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            if byte < 128:
                if shift and not byte:
                    raise self.bad("has a number that is longer than it need be")
                return value
        raise self.bad("is damaged")

    def at_most(self, limit: int, unit: str) -> int:
        """Return the next number, which must not exceed the limit."""
        value = self.varint()
        if value > limit:
            raise self.bad(f"claims {value} {unit}")
        return value

    def check(self) -> None:
        """Take a part's CRC-32 and compare it with the bytes that were taken."""
        expected = self._checksum
        stored = int.from_bytes(self.take(CRC_BYTES), "little")
        self._checksum = stored
        if stored != expected:
            raise self.bad("is damaged")

    def check_end(self) -> None:
        """Refuse bytes that follow the last part."""
        extra = 0
        while piece := self._source.read(_READ_BYTES):
            extra += len(piece)
        if extra:
            raise self.bad(f"is followed by {extra} bytes that do not belong there")

    def bad(self, problem: str) -> Damaged:
        """Return the error for a problem of the present part."""
        return Damaged(f"{self.what} {problem}: restore the file from its source")
