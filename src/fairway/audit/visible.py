"""Say which files a scorer sees: those of the system, Python's, its own folder, and no others."""

from __future__ import annotations

import atexit
import os
import pwd
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from fairway import startup
from fairway.audit import landlock
from fairway.errors import BadInput


def words(text: str) -> list[str]:
    return text.split()


_ETC = words(
    "ld.so.cache ld.so.conf ld.so.conf.d ld.so.preload localtime timezone alternatives "
    "nsswitch.conf os-release mime.types ssl/openssl.cnf"
)
_SYSTEM = words("/usr /lib /lib32 /lib64 /bin /sbin /nix/store /sys/devices/system")
_SHARED = [Path(p) for p in words("/ /tmp /var/tmp /dev /dev/shm /proc /sys /run")]


def system_paths() -> list[Path]:
    """Return the system's programs, libraries and settings that every program may need."""
    return [Path(p) for p in _SYSTEM] + [Path("/etc") / name for name in _ETC]


def _homes() -> list[Path]:
    homes = [os.environ.get("HOME", "")]
    with suppress(KeyError):
        homes.append(pwd.getpwuid(os.geteuid()).pw_dir)
    return [Path(p).resolve() for p in homes if os.path.isabs(p)]


def _is_shared(folder: Path) -> bool:
    """Say whether a folder holds more than one project: a home or above, or the system's own."""
    temporary = Path(tempfile.gettempdir()).resolve()
    return folder in [*_SHARED, temporary] or any(h.is_relative_to(folder) for h in _homes())


def own_paths(file: Path, readable: Iterable[Path]) -> list[Path]:
    """Return the scorer's folder, or the file alone where that folder is shared; and `readable`."""
    paths = [file if _is_shared(file.parent) else file.parent]
    for path in readable:
        resolved = Path(path).resolve()
        if not resolved.exists():
            raise BadInput(f"--read {path}: there is no such file or folder")
        if resolved in _SHARED:
            raise BadInput(f"--read {path} would show files of everybody: name a folder below it")
        paths.append(resolved)
    return paths


def python_paths() -> list[Path]:
    """Return what every Python program reads: interpreter, libraries, installed packages."""
    base = Path(__file__).resolve().parents[2]
    paths = [sys.prefix, sys.base_prefix, sys.exec_prefix, *sysconfig.get_paths().values()]
    searched = sys.path if sys.flags.safe_path else sys.path[1:]  # the first: a script's, or here
    paths += [p for p in searched if os.path.isabs(p)]
    found = [Path(p) for p in dict.fromkeys(paths)]
    return [base, *(p for p in found if not _is_shared(p.resolve()))]


def library_folders() -> list[Path]:
    folders = [
        Path(p) for p in os.environ.get("LD_LIBRARY_PATH", "").split(":") if os.path.isabs(p)
    ]
    return [p for p in folders if not _is_shared(p.resolve())]


def is_below_any(path: Path | str, trees: Iterable[Path]) -> bool:
    """Say whether a path is one of the trees, or lies below one."""
    return any(Path(path).is_relative_to(tree) for tree in trees)


def outermost(paths: Iterable[Path]) -> list[Path]:
    """Return `paths` without those that lie below another."""
    kept: list[Path] = []
    for path in sorted(paths, key=lambda p: len(p.parts)):
        if not is_below_any(path, kept):
            kept.append(path)
    return kept


def links(path: Path) -> list[tuple[str, str]]:
    """Return (link, target) of every symbolic link on the way to `path`."""
    links: list[tuple[str, str]] = []
    todo, at = list(path.parts[1:]), "/"
    while todo and len(links) < 40:
        part = todo.pop(0)
        step = os.path.normpath(os.path.join(at, part))
        if os.path.islink(step):
            target = os.readlink(step)
            links.append((step, target))
            todo = [p for p in target.split("/") if p] + todo
            at = "/" if target.startswith("/") else at
        else:
            at = step
    return links


def without(root: Path, hidden: list[Path]) -> Iterator[tuple[Path, int]]:
    """Yield `root`, or what it holds if one of `hidden` lies below it, with Landlock's rights."""
    if root in hidden:
        return
    if any(path.is_relative_to(root) for path in hidden):
        yield root, landlock.LIST  # below it, too: without it nothing beside can be imported
        for entry in root.iterdir():
            yield from without(entry, hidden)
    else:
        yield root, landlock.READ_TREE


def kernels() -> Path | None:
    """Copy Fairway's compiled kernels, so that no scorer's process compiles them again."""
    source = startup.kernel_cache()
    if not _copies and source and os.path.isdir(source):
        _copies.append(tempfile.mkdtemp(prefix="fairway-kernels-"))
        atexit.register(shutil.rmtree, _copies[-1], ignore_errors=True)
        with suppress(OSError, shutil.Error):  # another process may write there
            shutil.copytree(source, f"{_copies[-1]}/numba", copy_function=shutil.copyfile)
    return Path(_copies[0], "numba").resolve() if _copies else None


_copies: list[str] = []  # made in this process: one at most
