"""Entries of folders: their names on one line, and those that are not read, with the reason."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fairway.errors import BadInput

_SHOWN = 5  # names in one line


@dataclass(frozen=True)
class Skipped:
    """An entry of a folder that is not read."""

    name: str  # below the folder; a folder's ends in /
    reason: str


def skip_lines(skipped: Iterable[Skipped]) -> list[str]:
    """A line for each reason, with the number of files and the first names."""
    groups: dict[str, list[str]] = {}
    for entry in skipped:
        groups.setdefault(entry.reason, []).append(entry.name)
    return [
        f"skipped {len(names):,} ({reason}): {listed(names)}" for reason, names in groups.items()
    ]


def listed(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - _SHOWN
    text = ", ".join(show(name) for name in names[:_SHOWN])
    return f"{text} and {more:,} more" if more > 0 else text


def show(name: object) -> str:
    """A name on one line, whatever bytes it has."""
    text = str(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def name_below(root: Path, file: Path) -> str:
    """The path of `file` below `root`, with slashes; its own name where both are the same."""
    return file.name if file == root else file.relative_to(root).as_posix()


def entries_of(folder: Path) -> list[os.DirEntry[str]]:
    """What a folder holds. Raises BadInput when it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise BadInput(f"cannot read the folder {show(folder)}: {error.strerror}") from None
