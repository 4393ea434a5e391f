"""Show names of files on one line, and tell which entries of a folder are not read, and why."""

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
    """Return a line for each reason, with the number of files and the first names."""
    groups: dict[str, list[str]] = {}
    for entry in skipped:
        groups.setdefault(entry.reason, []).append(entry.name)
    return [
        f"skipped {len(names):,} ({reason}): {listed(names)}" for reason, names in groups.items()
    ]


def listed(names: Sequence[str]) -> str:
    """Return the first few names, and how many more there are."""
    more = len(names) - _SHOWN
    text = ", ".join(show(name) for name in names[:_SHOWN])
    return f"{text} and {more:,} more" if more > 0 else text


def show(name: object) -> str:
    """Return a name on one line, whatever bytes it has."""
    text = str(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def name_below(root: Path, file: Path) -> str:
    """Return the path of `file` below `root`, with slashes; its name if both are the same."""
    return file.name if file == root else file.relative_to(root).as_posix()


def entries_of(folder: Path) -> list[os.DirEntry[str]]:
    """Return the entries of a folder. Raises BadInput when it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise BadInput(f"cannot read the folder {show(folder)}: {error.strerror}") from None
