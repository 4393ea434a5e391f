"""Select the text files below a path, and say what each is and why others are not read.

`what_is` decides what a file is: by the ending of its name, in any case of letters, and by the
first bytes of its content. Nothing else in Fairway looks at the name of a text file. A folder gives
a Selection, in which every entry of the folder stands once: as a file that is read, or as one that
is skipped, with the reason.
"""

from __future__ import annotations

import io
import stat
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

import zstandard

from fairway.data.listing import Skipped, entries_of, name_below, show, skip_lines
from fairway.data.shards import PREFIX
from fairway.errors import BadInput

Form = Literal["document", "lines"]  # the whole file is a document, or each line is a JSON record
Packing = Literal["", "gzip", "zstd"]

ZSTD_WINDOW_BYTES = 1 << 27
KINDS = ".txt, .md, .jsonl or .ndjson, each also .gz or .zst"

_FORMS: dict[str, Form] = {
    ".txt": "document", ".md": "document", ".jsonl": "lines", ".ndjson": "lines",
}  # fmt: skip
_PACKINGS: dict[str, Packing] = {".gz": "gzip", ".zst": "zstd"}
_MAGICS: tuple[tuple[bytes, Packing], ...] = (
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    *((bytes([0x50 + i]) + b"\x2a\x4d\x18", "zstd") for i in range(16)),  # skippable frames
)  # fmt: skip
_UTF8 = "text in {}: write it as UTF-8 first (iconv -f {} -t UTF-8)"
_UNPACK = "{}, not text: unpack it first"
_CONVERT = "{}, not text: write its text to a .txt or .jsonl file first"
# First bytes, and what a file that begins with them is; longer ones before their beginnings.
_FOREIGN: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xfe\0\0", _UTF8.format("UTF-32", "UTF-32")),
    (b"\0\0\xfe\xff", _UTF8.format("UTF-32", "UTF-32")),
    (b"\xff\xfe", _UTF8.format("UTF-16", "UTF-16")),
    (b"\xfe\xff", _UTF8.format("UTF-16", "UTF-16")),
    (b"\xfd7zXZ\0", _UNPACK.format("an xz file")),
    (b"BZh", _UNPACK.format("a bzip2 file")),
    (b"\x04\x22\x4d\x18", _UNPACK.format("an lz4 file")),
    (b"7z\xbc\xaf\x27\x1c", _UNPACK.format("a 7-Zip archive")),
    (b"Rar!\x1a\x07", _UNPACK.format("a RAR archive")),
    (b"PK\x03\x04", _UNPACK.format("a ZIP archive or office document")),
    (b"PK\x05\x06", _UNPACK.format("a ZIP archive")),
    (b"PAR1", _CONVERT.format("a Parquet file")),
    (b"ARROW1\0\0", _CONVERT.format("an Arrow file")),
    (b"%PDF-", _CONVERT.format("a PDF file")),
    (b"{\\rtf", _CONVERT.format("an RTF document")),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", _CONVERT.format("an office document")),
    (b"SQLite format 3\0", _CONVERT.format("an SQLite database")),
    (b"\x89HDF\r\n\x1a\n", _CONVERT.format("an HDF5 file")),
    (b"\x93NUMPY", _CONVERT.format("a NumPy array")),
    (b"\x7fELF", "a program, not text"),
    (b"\x89PNG\r\n\x1a\n", "a picture, not text"),
    (b"\xff\xd8\xff", "a picture, not text"),
    (b"GIF8", "a picture, not text"),
    (b"FWAY", "a Fairway artifact, not text"),
    (PREFIX, "a token shard, not text: data.source=shards and audit --tokens read it"),
)
_CHECK = "check the name; a recipe takes it as --set data.path=FOLDER"
_HEAD_BYTES = 4096


@dataclass(frozen=True)
class TextFile:
    """A file of text, and how it is read."""

    path: Path
    form: Form
    packing: Packing
    note: str = ""  # where the content is not what the name says


@dataclass(frozen=True)
class Selection:
    """What a file or folder holds: `files` are read, in this order; `skipped` are not."""

    root: Path
    files: list[TextFile]
    skipped: list[Skipped]

    def name(self, file: TextFile) -> str:
        """Return the file's path below the root."""
        return name_below(self.root, file.path)

    def summary(self) -> list[str]:
        """Return lines that say which files are read, where there is no split."""
        if self.files[0].path == self.root:
            return self.lines()
        first = f"text files in {show(self.root)}: {len(self.files):,}; {self.others}"
        return [first, *self.lines()]

    @property
    def others(self) -> str:
        """Return in words how many entries are not read."""
        return f"{len(self.skipped):,} other entries skipped"

    def lines(self) -> list[str]:
        """Return notes on files that are read, and a line for each reason to skip others."""
        return [f"{show(self.name(f))} {f.note}" for f in self.files if f.note] + skip_lines(
            self.skipped
        )


class _NotText(Exception):
    """A file is no text; the message says what it is instead."""


def what_is(path: Path, named: bool) -> TextFile:
    """Tell by name and content how a file of text is read.

    named: the user named this very file, so an unknown ending means a document. Raises BadInput
    when the file is no text, is damaged, or cannot be read.
    """
    try:
        return _examined(path, named)
    except _NotText as problem:
        raise BadInput(f"{show(path)} is {problem}") from None
    except OSError as error:
        raise BadInput(f"cannot read {show(path)}: {error.strerror}") from None


def select(path: str | Path) -> Selection:
    """Select the file, or all text files below the folder, sorted by path. Raises BadInput."""
    root = Path(path)
    try:
        mode = root.stat().st_mode
    except OSError as error:
        if root.is_symlink():
            raise BadInput(f"{show(root)} is a broken link: {_CHECK}") from None
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            raise BadInput(f"there is no file or folder {show(root)}: {_CHECK}") from None
        raise BadInput(f"cannot read {show(root)}: {error.strerror}") from None
    if not stat.S_ISDIR(mode):
        return Selection(root, [what_is(root, named=True)], [])
    files, skipped = _classified(root)
    if not files:
        reasons = "; ".join(skip_lines(skipped))
        raise BadInput(
            f"the folder {show(root)} holds no text files ({KINDS})"
            + (f": {reasons}" if reasons else "")
        )
    return Selection(root, files, skipped)


def matches(name: str, pattern: str) -> bool:
    """Return whether the name of a file or of one of its folders matches one of the patterns.

    name: the file's path below the folder that was selected. pattern: shell patterns with commas
    between them. Upper and lower case are the same.
    """
    wanted = [word.strip().lower() for word in pattern.split(",")]
    return any(fnmatchcase(part.lower(), word) for part in name.split("/") for word in wanted)


def ending_of(name: str) -> tuple[Form | None, Packing]:
    """Return what the endings of a name say: the form (None: unknown) and the packing."""
    stem, dot, last = name.lower().rpartition(".")
    packing = _PACKINGS.get(dot + last, "") if stem else ""
    if packing:
        stem, dot, last = stem.rpartition(".")
    return (_FORMS.get(dot + last) if stem or packing else None), packing


# A file ------------------------------------------------------------------------------------------


def _examined(path: Path, named: bool) -> TextFile:
    """Look into a file. Raises _NotText, OSError, and BadInput if name and content disagree."""
    form, claimed = ending_of(path.name)
    if form is None and not named:
        raise _NotText("unknown ending")
    status = path.stat()  # before it is opened: a pipe would wait
    if not stat.S_ISREG(status.st_mode):
        raise _NotText("a pipe or device, not a file: write it to a file first")
    with open(path, "rb") as file:
        head = file.read(_HEAD_BYTES)
    packing = _packing_of(head)
    if not head and named is False:
        raise _NotText("empty")
    if claimed and head and not packing:
        raise BadInput(
            f"the packed file {show(path)} is damaged or has a wrong name: it is called {claimed}, "
            f"and its content is {_foreign(head) or f'not {claimed}'}"
        )
    note = ""
    if packing:
        if packing != claimed:
            note = f"is {packing} by its content: it is unpacked"
        head = _unpacked_head(head, packing)
        if _packing_of(head):
            raise _NotText("packed twice: unpack it once")
    if problem := _foreign(head):
        raise _NotText(f"packed, and inside it is {problem}" if packing else problem)
    return TextFile(path, form or "document", packing, note)


def _packing_of(head: bytes) -> Packing:
    return next((packing for magic, packing in _MAGICS if head.startswith(magic)), "")


def _foreign(head: bytes) -> str:
    """Return what the content is if it is no text; empty for text."""
    if head[257:262] == b"ustar":
        return _UNPACK.format("a tar archive")
    for magic, what in _FOREIGN:
        if head.startswith(magic):
            if magic == b"BZh" and head[4:10] not in (b"1AY&SY", b"\x17rE8P\x90"):
                continue  # a text that begins so
            return what
    return ""


def _unpacked_head(head: bytes, packing: Packing) -> bytes:
    """Return the first bytes inside; fewer or none if that part of the file is damaged."""
    try:
        if packing == "gzip":
            return zlib.decompressobj(31).decompress(head, _HEAD_BYTES)
        reader = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES).stream_reader(
            io.BytesIO(head)
        )
        return reader.read(_HEAD_BYTES)
    except (zlib.error, zstandard.ZstdError):
        return b""  # reading the file will say what is wrong


# A folder ----------------------------------------------------------------------------------------


def _classified(root: Path) -> tuple[list[TextFile], list[Skipped]]:
    """Return the text files below a folder, and every other entry with the reason to skip it."""
    files: list[TextFile] = []
    skipped: list[Skipped] = []
    owners: dict[tuple[int, int], str] = {}
    candidates: list[tuple[bool, tuple[str, ...], Path]] = []
    for path, reason in _walk(root):
        if reason:
            skipped.append(Skipped(name_below(root, path) + "/" * path.is_dir(), reason))
        else:
            candidates.append((path.is_symlink(), path.relative_to(root).parts, path))
    for _, _, path in sorted(candidates):  # links last: a file is read under its own name
        name = name_below(root, path)
        try:
            file = _examined(path, named=False)
            status = path.stat()
        except _NotText as problem:
            skipped.append(Skipped(name, str(problem)))
            continue
        except OSError as error:
            skipped.append(Skipped(name, f"unreadable: {error.strerror}"))
            continue
        same = owners.setdefault((status.st_dev, status.st_ino), name)
        if same != name:
            skipped.append(Skipped(name, f"the same file as {same}"))
            continue
        files.append(file)
    files.sort(key=lambda file: file.path.relative_to(root).parts)
    return files, sorted(skipped, key=lambda entry: entry.name)


def _walk(root: Path) -> Iterator[tuple[Path, str]]:
    """Yield every file below a folder, and every folder that is not entered, with the reason."""
    folders = [root]
    while folders:
        folder = folders.pop()
        try:
            entries = entries_of(folder)
        except BadInput:
            if folder == root:
                raise
            yield folder, "unreadable folder"
            continue
        for entry in entries:
            path = Path(entry.path)
            if entry.name.startswith("."):
                yield path, "hidden"
            elif entry.is_symlink() and not path.exists():
                yield path, "broken link"
            elif entry.is_symlink() and path.is_dir():
                yield path, "link to a folder, not followed"
            elif entry.is_dir(follow_symlinks=False):
                folders.append(path)
            elif not path.is_file():
                yield path, "pipe or device"
            else:
                yield path, ""
