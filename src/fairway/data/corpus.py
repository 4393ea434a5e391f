"""Where documents come from, which split they belong to, and which are left out.

A document is bytes. Sources: `stdlib` and `stdlib-code` (what every Python ships), `files` (what
text/selection.py selects). The order is fixed: files by name, documents as they come.
"""

from __future__ import annotations

import ast
import builtins
import gzip
import hashlib
import importlib
import json
import platform
import sys
import sysconfig
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import zstandard

from fairway import console
from fairway.config.schema import Data
from fairway.data.listing import listed, name_below, show
from fairway.data.selection import ZSTD_WINDOW_BYTES, Selection, TextFile, matches, select
from fairway.errors import BadInput
from fairway.io.atomic import sha256_file
from fairway.kernels import njit

_CHUNK_BYTES = 1 << 20
_SKIPPED_FOLDERS = {
    "site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"
}  # fmt: skip

Source = Iterator[tuple[bytes, float]]  # documents, each with the share of the source read so far
Fingerprints = npt.NDArray[np.uint64]


@dataclass
class LeftOut:
    """Records that gave no document: counted while files are read."""

    blank_lines: int = 0
    empty: int = 0  # documents of no bytes
    copies: int = 0  # exact ones of an earlier document of the split

    def sentence(self) -> str:
        """What was left out, in words; empty where nothing was."""
        counts = (
            (self.blank_lines, "blank lines"),
            (self.empty, "empty documents"),
            (self.copies, "exact copies"),
        )
        return ", ".join(f"{count:,} {what}" for count, what in counts if count)


class Corpus:
    """The documents of any source but `shards`: split, without duplicates, val kept out of train.

    Files that match data.val_pattern, by their own name or a folder's, are the validation split;
    where none does, documents are: those with the lowest hashes, data.val_fraction of the range of
    the hash. A file that data.path names itself is split by hash whatever its name.
    """

    def __init__(self, data: Data) -> None:
        """Raises BadInput when the source is missing or leaves nothing to train on."""
        self._data = data
        self.selection = select(data.path) if data.source == "files" else Selection(Path(), [], [])
        self._files = self.selection.files
        self.val_files = [f for f in self._files if self._is_val(f)]
        self._val_below = int(data.val_fraction * 2**64)
        self.dropped = 0  # train documents left out by the last `train()`: too close to val
        self.left_out = LeftOut()  # of what the last `train()` has read
        self.share = 0.0  # of the source that the last `train()` has read
        if self._files and len(self.val_files) == len(self._files):
            raise BadInput(
                f"every text file of {show(data.path)} matches data.val_pattern "
                f"'{data.val_pattern}': nothing is left to train on; change the pattern"
            )

    def _is_val(self, file: TextFile) -> bool:
        if file.path == self.selection.root:
            return False
        return matches(self.selection.name(file), self._data.val_pattern)

    def lines(self) -> list[str]:
        """Which files went to which split, and which were skipped and why."""
        if self._data.source != "files":
            return []
        total, val = len(self._files), len(self.val_files)
        first = f"text files in {show(self.selection.root)}: {total:,}"
        if val:
            names = listed([self.selection.name(f) for f in self.val_files])
            first += f"; {total - val:,} for training, {val:,} for validation ({names})"
        else:
            first += "; split by a hash of each document"
            if self._files[0].path != self.selection.root:
                first += f", because no name matches data.val_pattern '{self._data.val_pattern}'"
        return [f"{first}; {self.selection.others}", *self.selection.lines()]

    def fingerprint(self) -> str:
        """SHA-256 of what the source holds: contents of files, or the interpreter's modules."""
        listing: list[tuple[str, ...]]
        if self._data.source == "files":
            listing = [
                (self.selection.name(f), f.form, f.packing, sha256_file(f.path))
                for f in self._files
            ]
        else:
            root = _library()
            listing = [(name_below(root, f), str(f.stat().st_size)) for f in _modules()]
            listing.append(("python", platform.python_version()))
        return hashlib.sha256(json.dumps(listing).encode()).hexdigest()

    @cached_property
    def val(self) -> list[bytes]:
        """Validation documents, without exact duplicates. Raises BadInput when there are none."""
        documents = list(_unique((d for d, _ in self._read(True, LeftOut())), LeftOut()))
        if not documents and not self.val_files:
            documents = self._least_hashed()
        if not documents:
            if self.val_files:
                names = listed([self.selection.name(f) for f in self.val_files])
                raise BadInput(
                    f"there are no validation documents: {names} match data.val_pattern "
                    f"'{self._data.val_pattern}' and hold no text; fill them, or change the pattern"
                )
            where = show(self._data.path) or f"the source '{self._data.source}'"
            raise BadInput(f"{where} has no validation documents: it needs some text in two files")
        return documents

    def train(self) -> Iterator[bytes]:
        """Train documents up to data.train_bytes, without exact duplicates and what is in val."""
        filter_ = NearDuplicates(self.val, self._data.overlap)
        self.dropped, self.left_out, read_bytes = 0, LeftOut(), 0
        source = self._track(self._read(False, self.left_out))
        for document in _unique(source, self.left_out):
            if document in filter_:
                self.dropped += 1
                continue
            yield document
            read_bytes += len(document)
            if self._data.train_bytes:
                self.share = max(self.share, min(1.0, read_bytes / self._data.train_bytes))
                if read_bytes >= self._data.train_bytes:
                    return

    def _track(self, source: Source) -> Iterator[bytes]:
        for document, self.share in source:
            yield document

    def _read(self, want_val: bool, left_out: LeftOut) -> Source:
        """The documents of one split, by file name or by hash."""
        if self.val_files:
            val = {f.path for f in self.val_files}
            kept = [f for f in self._files if (f.path in val) == want_val]
            yield from _read_files(kept, self._data.text_field, left_out)
            return
        for document, share in self._read_all(left_out):
            if (_hash(document) < self._val_below) == want_val:
                yield document, share

    def _read_all(self, left_out: LeftOut) -> Source:
        if self._data.source == "files":
            return _read_files(self._files, self._data.text_field, left_out)
        documents = _docstrings() if self._data.source == "stdlib" else _sources()
        return ((d, (i + 1) / len(documents)) for i, d in enumerate(documents))

    def _least_hashed(self) -> list[bytes]:
        """The document that is closest to the validation split, for a corpus of a few documents."""
        unique = {_hash(document): document for document, _ in self._read_all(LeftOut())}
        if not unique:
            return []
        if len(unique) == 1:
            raise BadInput(
                f"{show(self._data.path)} holds a single document, and a split needs two: cut it "
                f"into files, or give validation text in a file that data.val_pattern "
                f"'{self._data.val_pattern}' matches"
            )
        self._val_below = min(unique) + 1
        return [unique[min(unique)]]


def read_documents(path: str | Path, text_field: str = "text") -> list[bytes]:
    """All documents of a file or folder: one per file, or one per line of JSON lines.

    Says which files are read. Empty documents are left out. Raises BadInput.
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
    yield from _read_files(selection.files, text_field, left_out)
    if sentence := left_out.sentence():
        console.say(f"left out of {show(path)}: {sentence}")


def _read_files(files: list[TextFile], text_field: str, left_out: LeftOut) -> Source:
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
    if file.packing == "zstd":
        yield from _zstd_frames(raw)
        return
    stream = gzip.GzipFile(fileobj=raw) if file.packing == "gzip" else raw
    while chunk := stream.read(_CHUNK_BYTES):
        yield chunk


def _zstd_frames(raw: BinaryIO) -> Iterator[bytes]:
    """Unpack one frame after another. The library's own reader does not notice a cut file."""
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
    """Yield lines without their ends; the last, marked True, is what follows the last end."""
    rest: list[bytes] = []  # of a line that has not ended yet
    for chunk in chunks:
        first, *others = chunk.split(b"\n")
        rest.append(first)
        for line in others:
            yield b"".join(rest), False
            rest = [line]
    yield b"".join(rest), True


def _library() -> Path:
    return Path(sysconfig.get_path("stdlib"))


@cache
def _modules() -> tuple[Path, ...]:
    """Source files of the standard library, without tests, sorted."""
    root = _library()
    return tuple(
        sorted(
            (
                file
                for file in root.rglob("*.py")
                if not _SKIPPED_FOLDERS.intersection(file.relative_to(root).parts)
            ),
            key=lambda file: file.relative_to(root).parts,
        )
    )


def _sources() -> list[bytes]:
    return [source for file in _modules() if (source := file.read_bytes())]


@cache
def _docstrings() -> list[bytes]:
    """A document per module, per module built into the interpreter, and per topic of pydoc.

    Each docstring once, under the name or signature of what it documents, as pydoc shows it.
    """
    seen: set[str] = set()
    documents = [_document(_documented(ast.parse(source)), seen) for source in _sources()]
    documents += [_document(_documented_names(name), seen) for name in sys.builtin_module_names]
    from pydoc_data.topics import topics

    documents += [topics[name].strip() + "\n" for name in sorted(topics)]
    return [document.encode() for document in documents if document]


def _document(documented: Iterable[tuple[str, str]], seen: set[str]) -> str:
    parts = []
    for heading, docstring in documented:
        if docstring.strip() and docstring not in seen:
            seen.add(docstring)
            parts.append(f"{heading}\n\n{docstring.strip()}\n" if heading else f"{docstring}\n")
    return "\n".join(parts)


def _documented(node: ast.AST) -> Iterator[tuple[str, str]]:
    """(heading, docstring) of a module, class or function and of all below, in source order."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        docstring = ast.get_docstring(node)
        if docstring:
            yield _heading(node), docstring
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.expr):  # no definition is inside an expression
            yield from _documented(child)


def _heading(node: ast.AST) -> str:
    if isinstance(node, ast.ClassDef):
        return f"class {node.name}"
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return f"{node.name}({ast.unparse(node.args)})"
    return ""


def _documented_names(module: str) -> Iterator[tuple[str, str]]:
    """(name, docstring) of a module written in C and of what it defines, two levels deep."""
    try:
        members = vars(builtins if module == "builtins" else importlib.import_module(module))
    except ImportError:
        return  # listed by the interpreter, but not for this platform
    yield "", members.get("__doc__") or ""
    for name, value in sorted(members.items()):
        yield name, _own_docstring(value)
        if isinstance(value, type):
            for method, function in sorted(vars(value).items()):
                yield f"{name}.{method}", _own_docstring(function)


def _own_docstring(value: object) -> str:
    docstring = getattr(value, "__doc__", None)
    return docstring if isinstance(docstring, str) else ""


def _hash(document: bytes) -> int:
    """A number below 2^64 that decides a document's split, today and in every later version."""
    return int.from_bytes(hashlib.blake2b(document, digest_size=8).digest(), "big")


def _unique(documents: Iterable[bytes], left_out: LeftOut) -> Iterator[bytes]:
    seen: set[bytes] = set()
    for document in documents:
        digest = hashlib.blake2b(document, digest_size=16).digest()
        if digest in seen:
            left_out.copies += 1
        else:
            seen.add(digest)
            yield document


class NearDuplicates:
    """Tells which documents share more than a given part of their fingerprints with `documents`.

    A fingerprint is a rolling hash of 48 successive letters and digits (lower case, all else left
    out; bytes of non-ASCII characters count as letters), kept when it is 0 modulo 64: the same
    passage gives the same fingerprints wherever it stands (Manku, Jain and Das Sarma 2007 and
    Schleimer, Wilkerson and Aiken 2003 have the idea).
    """

    def __init__(self, documents: Iterable[bytes], overlap: float) -> None:
        documents = list(documents)
        self._copies = {hashlib.blake2b(d, digest_size=16).digest() for d in documents}
        prints = [fingerprints(np.frombuffer(d, np.uint8)) for d in documents]
        self._known = np.unique(np.concatenate([np.empty(0, np.uint64), *prints]))
        self._overlap = overlap

    def __contains__(self, document: bytes) -> bool:
        if hashlib.blake2b(document, digest_size=16).digest() in self._copies:
            return True
        return self.share(document) > self._overlap

    def share(self, document: bytes) -> float:
        """Part of the document's fingerprints that are known; 0 for one too short to have any."""
        prints = fingerprints(np.frombuffer(document, np.uint8))
        if not prints.size or not self._known.size:
            return 0.0
        places = np.searchsorted(self._known, prints)
        return float(np.mean(self._known[np.minimum(places, self._known.size - 1)] == prints))


_WINDOW = 48
_KEPT = 64
_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no character is lost from the window
_OUTGOING = np.uint64(pow(int(_BASE), _WINDOW, 1 << 64))
_NORMAL = np.array(
    [ord(chr(i).lower()) if i < 128 and chr(i).isalnum() else i * (i >= 128) for i in range(256)],
    np.uint64,
)


def fingerprints(document: npt.NDArray[np.uint8]) -> Fingerprints:
    """uint64[k] fingerprints of uint8[n] text, in order; about one per 64 letters or digits."""
    return hashes(document, _KEPT)  # type: ignore[no-any-return]


@njit(cache=True)  # type: ignore[untyped-decorator]
def hashes(document: npt.NDArray[np.uint8], kept: int) -> Fingerprints:
    """Those of all rolling hashes that are 0 modulo `kept`."""
    found = np.empty(16, np.uint64)
    count = 0
    ring = np.zeros(_WINDOW, np.uint64)
    seen = 0
    rolling = np.uint64(0)
    for byte in document:
        letter = _NORMAL[byte]
        if letter == 0:
            continue
        place = seen % _WINDOW
        rolling = rolling * _BASE + letter - ring[place] * _OUTGOING
        ring[place] = letter
        seen += 1
        mixed = (rolling ^ (rolling >> np.uint64(29))) * _BASE
        mixed ^= mixed >> np.uint64(32)
        if seen >= _WINDOW and mixed % np.uint64(kept) == 0:
            if count == found.size:
                found = np.concatenate((found, np.empty(count, np.uint64)))
            found[count] = mixed
            count += 1
    return found[:count]
