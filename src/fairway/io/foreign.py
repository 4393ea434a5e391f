"""Read files that others may have made: JSON, TOML and text, up to a size, and never waiting.

Whatever is wrong with such a file becomes one sentence that names it (BadInput). Text is UTF-8, or
UTF-16 with a byte order mark. No key stands twice in an object, numbers are finite and fit 64
bits, and strings can be file names: they hold no NUL and no half of a surrogate pair.
"""

from __future__ import annotations

import codecs
import json
import os
import stat
import threading
import tomllib
from io import BufferedReader, BufferedWriter
from math import isfinite
from pathlib import Path
from typing import Any

from fairway.errors import BadInput

TEXT_BYTES = 64 << 20  # of one text, by default
_DEPTH = 60  # of tables and lists inside each other
_WAIT_S = 10.0  # for somebody to open the other end of a named pipe


class Missing(BadInput):
    """There is no such file."""


class Malformed(BadInput):
    """The file was read, and it does not hold what such a file must hold."""


def read_json(path: Path, what: str, finite: bool = True) -> Any:
    """Return what a JSON file holds. Raises Missing, Malformed, BadInput."""
    return parse_json(read_text(path, what), f"{what} {path}", finite)


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """Return the table in a TOML file; it may come through a pipe. Raises Missing, Malformed."""
    return parse_toml(read_text(path, what, pipes=True), f"{what} {path}")


def read_json_lines(path: Path, what: str) -> tuple[list[dict[str, Any]], int]:
    """Return the objects of a file of JSON lines, and how many lines a kill or a crash cut.

    A cut line is none that is valid JSON; numbers may be NaN. Raises Missing, BadInput.
    """
    entries, cut = [], 0
    for number, line in enumerate(read_text(path, what, 1 << 30).split("\n")):
        if not line.strip():
            continue
        try:
            entry = parse_json(line, f"line {number + 1} of {what} {path}", finite=False)
        except Malformed:
            cut += 1
            continue
        if not isinstance(entry, dict):
            raise Malformed(f"line {number + 1} of {what} {path} is no JSON object")
        entries.append(entry)
    return entries, cut


def parse_json(text: str, where: str, finite: bool = True) -> Any:
    """Return what a JSON text holds. Raises Malformed, which names `where`.

    finite: refuse NaN and infinity.
    """
    try:
        tree = json.loads(text, object_pairs_hook=_unique)
    except RecursionError:
        raise Malformed(f"{where} is nested more than {_DEPTH} deep") from None
    except ValueError as error:
        raise Malformed(f"{where} is no valid JSON: {error}") from None
    check_values(tree, where, finite)
    return tree


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """Return the table that a TOML text holds. Raises Malformed, which names `where`."""
    try:
        tree = tomllib.loads(text)
    except RecursionError:
        raise Malformed(f"{where} is nested more than {_DEPTH} deep") from None
    except ValueError as error:
        raise Malformed(f"{where} is no valid TOML: {error}") from None
    check_values(tree, where)
    return tree


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object. Refuse a key that stands twice: readers disagree which one counts."""
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return table


def check_values(tree: Any, where: str, finite: bool = True) -> None:
    """Raise Malformed where something in a tree cannot be stored, printed or passed on."""
    waiting = [(tree, 0)]
    while waiting:
        node, depth = waiting.pop()
        if depth > _DEPTH:
            raise Malformed(f"{where} is nested more than {_DEPTH} deep")
        if isinstance(node, dict):
            waiting += ((inner, depth + 1) for pair in node.items() for inner in pair)
        elif isinstance(node, list):
            waiting += ((inner, depth + 1) for inner in node)
        elif isinstance(node, str):
            if "\0" in node or not _is_unicode(node):
                raise Malformed(f"{where} holds a string with NUL or half a surrogate pair")
        elif isinstance(node, int):
            if not -(1 << 63) <= node < 1 << 64:
                raise Malformed(f"{where} holds a whole number of more than 64 bits")
        elif isinstance(node, float) and finite and not isfinite(node):
            raise Malformed(f"{where} holds a number that is not finite")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_text(path: Path, what: str, limit: int = TEXT_BYTES, pipes: bool = False) -> str:
    """Return the text of a file. Raises Missing, Malformed, BadInput."""
    return decode(read_bytes(path, what, limit, pipes), f"{what} {path}")


def decode(data: bytes, where: str) -> str:
    """Return bytes as text: UTF-8, or UTF-16 with a byte order mark, which is left out."""
    marks = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    try:
        return data.decode("utf-16" if data.startswith(marks) else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise Malformed(
            f"{where} is no text in UTF-8 (byte {error.start}): save it as UTF-8"
        ) from None


def read_bytes(path: Path, what: str, limit: int = TEXT_BYTES, pipes: bool = False) -> bytes:
    """Return the bytes of a file of at most `limit`; `pipes`: it may be a pipe or a device.

    Raises Missing, Malformed, BadInput.
    """
    with open_pipe(path, what) if pipes else open_file(path, what) as file:
        try:
            parts, left = [], limit + 1
            while left and (part := file.read(min(left, 1 << 20))):  # it takes memory for all asked
                parts.append(part)
                left -= len(part)
        except OSError as error:
            raise BadInput(f"cannot read {what} {path}: {error.strerror}") from None
    if not left:
        raise Malformed(f"{what} {path} has more than {limit:,} bytes, which is too much for one")
    return b"".join(parts)


def open_file(path: Path, what: str) -> BufferedReader:
    """Open a regular file: nothing that could keep us waiting. Raises Missing, BadInput."""
    try:
        _refuse(path, what, os.stat(path).st_mode)
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        file = os.fdopen(handle, "rb")
    except (OSError, ValueError) as error:
        raise _cannot(path, what, error) from None
    _refuse(path, what, os.fstat(file.fileno()).st_mode)  # it may have been replaced since
    return file


def open_pipe(path: Path, what: str) -> BufferedReader:
    """Open anything that can be read and is no folder. Raises Missing, BadInput.

    The other end of a named pipe must be opened within some seconds.
    """
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode) or stat.S_ISSOCK(mode):
            _refuse(path, what, mode)
        if stat.S_ISFIFO(mode):
            return os.fdopen(_meet(path, os.O_RDONLY, os.O_WRONLY), "rb")
        return open(path, "rb")
    except TimeoutError:
        raise BadInput(
            f"cannot read {what} {path}: it is a named pipe, and nobody writes into it: start "
            "the command that does"
        ) from None
    except (OSError, ValueError) as error:
        raise _cannot(path, what, error) from None


def open_sink(path: Path) -> BufferedWriter:
    """Open a pipe or a device for writing. Raises BadInput, OSError."""
    if not stat.S_ISFIFO(os.stat(path).st_mode):
        return open(path, "wb")
    try:
        return os.fdopen(_meet(path, os.O_WRONLY, os.O_RDONLY), "wb")
    except TimeoutError:
        raise BadInput(
            f"cannot write to {path}: it is a named pipe, and nobody reads from it: start the "
            "command that does"
        ) from None


def _meet(path: Path, ours: int, theirs: int) -> int:
    """Open our end of a pipe, once somebody has the other. Raises TimeoutError after a while.

    Opening waits in the system for the other end. After the time has passed we open that end
    ourselves, so that the waiting thread comes back.
    """
    opened: list[int | OSError] = []

    def wait() -> None:
        try:
            opened.append(os.open(path, ours | os.O_CLOEXEC))
        except OSError as error:
            opened.append(error)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    thread.join(_WAIT_S)
    if thread.is_alive():
        other = os.open(path, theirs | os.O_NONBLOCK | os.O_CLOEXEC)
        thread.join()
        os.close(other)
        if isinstance(opened[0], int):
            os.close(opened[0])
        raise TimeoutError
    if isinstance(opened[0], OSError):
        raise opened[0]
    return opened[0]


def _refuse(path: Path, what: str, mode: int) -> None:
    """Raise BadInput unless it is a regular file."""
    if stat.S_ISREG(mode):
        return
    kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
    kind = kinds.get(stat.S_IFMT(mode), "device")
    raise BadInput(f"cannot read {what} {path}: it is a {kind}; give a file")


def _cannot(path: Path, what: str, error: OSError | ValueError) -> BadInput:
    if isinstance(error, FileNotFoundError):
        return Missing(f"cannot read {what} {path}: there is no such file")
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return BadInput(f"cannot read {what} {path}: {reason}")
