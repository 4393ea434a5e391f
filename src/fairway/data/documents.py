"""Read documents, which are bytes, from the text files that selection.py selects."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import zstandard

from fairway import console
from fairway.data.listing import show
from fairway.data.selection import ZSTD_WINDOW_BYTES, TextFile, select
from fairway.errors import BadInput

_CHUNK_BYTES = 1 << 20

Source = Iterator[tuple[bytes, float]]  # documents, each with the share of the source read so far


@dataclass
class LeftOut:
    """Counts of records that gave no document, filled while files are read."""

    blank_lines: int = 0
    empty: int = 0  # documents of no bytes
    copies: int = 0  # exact copies of an earlier document of the split

    def sentence(self) -> str:
        """Return the counts in words; empty where they are all zero."""
        counts = (
            (self.blank_lines, "blank lines"),
            (self.empty, "empty documents"),
            (self.copies, "exact copies"),
        )
        return ", ".join(f"{count:,} {what}" for count, what in counts if count)


def read_documents(path: str | Path, text_field: str = "text") -> list[bytes]:
    """Return all documents of a file or folder: one per file, or one per line of JSON lines.

    Prints which files are read, and leaves empty documents out. Raises BadInput.
    """
    documents = list(stream_documents(path, text_field))
    if not documents:
        raise BadInput(f"{show(path)} holds no text")
    return documents


def stream_documents(path: str | Path, text_field: str = "text") -> Iterator[bytes]:
    """Yield the documents of a file or folder, empty ones left out. Raises BadInput."""
    for document, _ in stream_with_share(path, text_field):
        yield document


def stream_with_share(path: str | Path, text_field: str = "text") -> Source:
    """Yield documents, each with the share of the files read so far. Raises BadInput."""
    selection, left_out = select(path), LeftOut()
    for line in selection.summary():
        console.say(line)
    yield from read_files(selection.files, text_field, left_out)
    if sentence := left_out.sentence():
        console.say(f"left out of {show(path)}: {sentence}")


def read_files(files: list[TextFile], text_field: str, left_out: LeftOut) -> Source:
    """Yield the documents of text files in order, and count empty ones. Raises BadInput."""
    sizes = [max(1, file.path.stat().st_size) for file in files]
    total, before = sum(sizes), 0
    for file, size in zip(files, sizes, strict=True):
        where = show(file.path)
        try:
            with open(file.path, "rb") as raw:
                chunks = _unpacked(file, raw)
                documents = (
                    _json_lines(where, chunks, text_field, left_out)
                    if file.form == "lines"
                    else iter([b"".join(chunks)])
                )
                for document in documents:
                    if document:
                        yield document, (before + raw.tell()) / total
                    else:
                        left_out.empty += 1
        except (zstandard.ZstdError, gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise BadInput(f"the packed file {where} is damaged: {error}") from None
        except OSError as error:
            raise BadInput(f"cannot read {where}: {error.strerror}") from None
        before += size


def _json_lines(
    file: str, chunks: Iterable[bytes], text_field: str, left_out: LeftOut
) -> Iterator[bytes]:
    """Yield the text field of each record. Raises BadInput that names the line."""
    for number, (line, is_last) in enumerate(_lines(chunks), 1):
        if not line.strip():
            left_out.blank_lines += bool(line) or not is_last
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BadInput(f"{file}:{number} is not valid JSON: {error}") from None
        text = record.get(text_field) if isinstance(record, dict) else None
        if not isinstance(text, str):
            raise BadInput(
                f"{file}:{number} has no text in the field '{text_field}': set data.text_field"
            )
        yield text.encode("utf-8", "surrogatepass")  # JSON can hold half a surrogate pair


def _unpacked(file: TextFile, raw: BinaryIO) -> Iterator[bytes]:
    """Yield the content of a file in chunks, unpacked."""
    if file.packing == "zstd":
        yield from _zstd_frames(raw)
        return
    stream = gzip.GzipFile(fileobj=raw) if file.packing == "gzip" else raw
    while chunk := stream.read(_CHUNK_BYTES):
        yield chunk


def _zstd_frames(raw: BinaryIO) -> Iterator[bytes]:
    """Unpack one frame after another. The library's own reader would not notice a cut file."""
    frame = None
    data = raw.read(_CHUNK_BYTES)
    while data:
        if frame is None:
            frame = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES).decompressobj()
        yield frame.decompress(data)
        data = b""
        if frame.eof:
            data, frame = frame.unused_data, None
        data = data or raw.read(_CHUNK_BYTES)
    if frame is not None:
        raise EOFError("it is cut short")


def _lines(chunks: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Yield (line without its end, False), and at last (what follows the last end, True)."""
    rest: list[bytes] = []  # of a line that has not ended yet
    for chunk in chunks:
        first, *others = chunk.split(b"\n")
        rest.append(first)
        for line in others:
            yield b"".join(rest), False
            rest = [line]
    yield b"".join(rest), True
