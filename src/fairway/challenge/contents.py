"""What lies in a submission folder: every file has a kind, and a kind that nobody counts is told.

The challenge counts the script and the packed model. Whatever else the script could read at
evaluation is a place to hide weights or code, so that this is a list of what may lie beside them:
papers, logs, results, each of a bounded size and of text that is no packed data. All else is
`uncounted`. Links are never followed.
"""

from __future__ import annotations

import os
import re
import stat
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fairway.challenge.logs import MAX_LOG_BYTES, decode_text, read_bytes
from fairway.console import printable
from fairway.errors import BadInput
from fairway.pipeline.stage import STAGES

Kind = Literal[
    "script", "claims", "log", "paper", "picture", "shell", "results", "proof", "model", "page",
    "uncounted",
]  # fmt: skip

MAX_SCRIPT_BYTES = 16_000_000
MAX_JSON_BYTES = 1 << 20
MAX_LOGS_BYTES = 64 << 20
_MAX_BYTES: dict[Kind, int] = {  # of all files of a kind
    "paper": 256 << 10,  # README, licence, notes
    "picture": 1 << 20,
    "shell": 32 << 10,
    "results": 64 << 10,  # besides submission.json
    "log": MAX_LOGS_BYTES,
}
MAX_ENTRIES = 2000
MAX_DEPTH = 12

_PICTURES = {
    ".png": b"\x89PNG\r\n\x1a\n",
    ".jpg": b"\xff\xd8\xff",
    ".jpeg": b"\xff\xd8\xff",
    ".gif": b"GIF8",
    ".webp": b"RIFF",
}
_SEED = r"seed[0-9]{1,18}"
_KINDS: list[tuple[Kind, str, str]] = [  # kind, folder, name: the first row that fits in full
    ("model", _SEED, r"model\.fairway"),
    ("proof", _SEED, r"val\.fwp"),
    ("page", _SEED, r"proof\.html"),  # compared with what the two make
    ("results", _SEED, rf"(?i:({'|'.join(stage.name for stage in STAGES)})\.json)"),
    ("claims", "", r"submission\.json"),
    ("script", "", r"(?i:train_gpt[\w.-]*\.py)"),
    ("paper", ".*", r"(?i:(readme|licen[cs]e|copying|notice|citation|authors)(\.[a-z]+)?)"),
    ("paper", ".*", r"(?i:.+\.(md|rst)|requirements[\w.-]*\.txt|\.git(ignore|attributes|keep))"),
    ("log", ".*", r"(?i:(.*\.)?(log|txt))"),
    ("picture", ".*", rf"(?i:.+({'|'.join(map(re.escape, _PICTURES))}))"),
    ("shell", ".*", r"(?i:(setup|run|train|install|eval|prepare|launch)[\w.-]*\.sh)"),
    ("results", ".*", r"(?i:submission[\w.-]*\.json)"),
    ("results", ".*", r"(?i:[\w.-]*(result|summary)[\w.-]*\.(json|tsv|csv))"),
]
_MODEL_ENDINGS = (".ptz", ".pt", ".bin", ".br", ".xz", ".zst", ".lzma", ".safetensors", ".fairway")
# Text is no packed data: by how much blocks of it shrink (zlib). Of the challenge's record folders
# the densest block keeps 0.47 of 16 kB and 0.53 of a shorter paper, 0.36 and 0.40 of a log; base64
# keeps 0.76 and random hex 0.57.
_BLOCK_BYTES = 16384
_SHORT_BYTES = 4096  # a shorter block is not looked at
_FULL = {"log": 0.48}  # kept by a full block, at most; else _FULL_OTHER
_FULL_OTHER, _SHORT_MORE = 0.54, 0.08


@dataclass(frozen=True)
class Entry:
    """A regular file of a folder."""

    path: Path
    name: str  # relative to the folder, fit to be printed
    kind: Kind
    size_bytes: int


@dataclass
class Contents:
    """What a walk through a folder found."""

    files: list[Entry] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)  # sentences about what is no regular file
    left_out: list[str] = field(default_factory=list)  # harmless: empty folders, inner links

    def of(self, *kinds: Kind) -> list[Entry]:
        return [entry for entry in self.files if entry.kind in kinds]

    @property
    def script(self) -> Entry | None:
        """Return train_gpt.py, or else the first train_gpt*.py."""
        scripts = [entry for entry in self.of("script") if "/" not in entry.name]
        return min(scripts, key=lambda x: (x.name != "train_gpt.py", x.name), default=None)


def shown(text: str, limit: int = 80) -> str:
    """Return foreign text so that it can be printed: no control characters, no broken Unicode."""
    safe = printable(text)
    return safe if len(safe) <= limit else safe[: limit - 1] + "…"


def walk(folder: Path) -> Contents:
    """List a folder. What is no regular file is described, not opened."""
    found = Contents()
    root = folder.resolve()
    pending: list[tuple[Path, int]] = [(folder, 0)]
    seen = 0
    while pending:
        place, depth = pending.pop()
        try:
            with os.scandir(place) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            found.odd.append(f"{_relative(place, folder)} cannot be listed ({error.strerror})")
            continue
        if not listed and place != folder:
            found.left_out.append(f"{_relative(place, folder)} is an empty folder")
        for entry in listed:
            seen += 1
            if seen > MAX_ENTRIES:
                found.odd.append(f"the folder has more than {MAX_ENTRIES:,} files")
                return found
            path = Path(entry.path)
            name = _relative(path, folder)
            try:
                state = entry.stat(follow_symlinks=False)
            except OSError as error:
                found.odd.append(f"{name} cannot be read ({error.strerror})")
                continue
            if stat.S_ISDIR(state.st_mode):
                if depth >= MAX_DEPTH:
                    found.odd.append(f"{name} lies more than {MAX_DEPTH} folders deep")
                else:
                    pending.append((path, depth + 1))
            elif stat.S_ISREG(state.st_mode):
                relative = path.relative_to(folder).as_posix()
                found.files.append(Entry(path, name, _kind(relative), state.st_size))
            elif stat.S_ISLNK(state.st_mode):
                _link(found, path, name, root)
            else:
                found.odd.append(f"{name} is a pipe, a socket or a device")
    found.files.sort(key=lambda entry: entry.name)
    return found


def _relative(path: Path, folder: Path) -> str:
    return shown(path.relative_to(folder).as_posix())


def _link(found: Contents, path: Path, name: str, root: Path) -> None:
    try:
        target = path.resolve()
        inside, there = target.is_relative_to(root), target.exists()
    except (OSError, RuntimeError):  # a loop
        inside, there = True, False
    if not inside:
        found.odd.append(f"{name} is a link out of the folder")
    else:
        what = "to another file of the folder" if there else "to nothing"
        found.left_out.append(f"{name} is a link {what}")


def _kind(relative: str) -> Kind:
    """Tell what a file is, by its path alone; the rules then look at sizes and contents."""
    place, _, file = relative.rpartition("/")
    for kind, folder, name in _KINDS:
        if re.fullmatch(folder, place, re.DOTALL) and re.fullmatch(name, file):
            return kind
    return "uncounted"


def could_be_model(entry: Entry) -> bool:
    """Say whether a file's ending is one of packed models."""
    return entry.kind == "uncounted" and entry.path.name.lower().endswith(_MODEL_ENDINGS)


def problems(found: Contents, source: str) -> Iterator[tuple[str, int]]:
    """Yield (sentence, bytes) of files that have a kind, and are too large or hold packed data.

    source: the script; logs may begin with a copy of it.
    """
    for kind, limit in _MAX_BYTES.items():
        entries = found.of(kind)
        size = sum(entry.size_bytes for entry in entries)
        if size > limit:
            names = ", ".join(entry.name for entry in entries[:3])
            yield f"{size:,} bytes of {kind} files ({names}), more than {limit:,}", size
            continue
        short = b""
        for entry in entries:
            body, problem = _look(entry, source)
            if len(body) < _SHORT_BYTES:
                short += body + b"\n"
            elif not problem:
                problem = _packed(body, kind)
            if problem:
                yield f"{entry.name} {problem}", entry.size_bytes
        if problem := _packed(short, kind):
            yield f"short {kind} files, one after another: {problem}", len(short)


def _look(entry: Entry, source: str) -> tuple[bytes, str]:
    """Return a file's text without the script (nothing of a picture), and what is wrong."""
    try:
        data = read_bytes(entry.path, MAX_LOG_BYTES)
    except BadInput as error:
        return b"", f"cannot be looked at: {error}"
    if entry.kind == "picture":
        mark = _PICTURES[entry.path.suffix.lower()]
        problem = "" if data.startswith(mark) else "is no picture of the kind that its name says"
        return b"", problem
    text = decode_text(data)
    if script := source.strip():
        text = text.replace(script, "\n")
    if text.count("\0") + text.count("\ufffd") > len(text) // 100:
        return b"", "is no text"
    return text.encode("utf-8", "replace"), ""


def _packed(body: bytes, kind: Kind) -> str:
    """Return why a text is packed data; "" if it is text."""
    for i in range(0, len(body), _BLOCK_BYTES):
        block = body[i : i + _BLOCK_BYTES]
        short = len(block) < _BLOCK_BYTES
        most = _FULL.get(kind, _FULL_OTHER) + (_SHORT_MORE if short else 0.0)
        if len(block) >= _SHORT_BYTES and len(zlib.compress(block, 6)) > most * len(block):
            return f"holds packed data: {len(block):,} bytes shrink by less than {1 - most:.0%}"
    return ""
