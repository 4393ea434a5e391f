"""Keep code and settings of the current folder out, before anything heavy is imported.

Fairway is made to look at other people's files, often from inside the folder that holds them. Its
libraries read settings from the current folder, keep compiled code in folders with names that
everybody can guess, and Python itself may take modules from the current folder. `protect` turns
this off for a command and for all processes that it starts. docs/security.md lists what it covers.

Environment variables belong to the user: what they name is used, unless it is a relative path,
which would lie in the current folder.
"""

from __future__ import annotations

import functools
import os
import sys
import zlib
from contextlib import suppress
from pathlib import Path

from fairway import userfolders

_KERNELS = f"numba-{zlib.crc32(os.fsencode(os.path.dirname(os.path.abspath(__file__)))):08x}"
"""Of this installation alone: an audit gives each scorer a copy of the whole folder."""

_CACHES = {  # variable: folder below ours. numba and torch run what they find there
    "NUMBA_CACHE_DIR": _KERNELS,
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TRITON_CACHE_DIR": "triton",
}
_SEARCHED = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH")  # an empty entry is the current folder
_NOWHERE = os.path.dirname(os.devnull)  # is there, as torch demands, and not for files
_protected: list[bool] = []  # not empty: `protect` has worked in this process
_ending: list[Path] = []  # folders that `_until_the_end` has made in this process


def protect() -> None:
    """Pin what libraries would take from elsewhere, for this process and those it starts."""
    sys.path[:] = _whole(sys.path)
    os.environ["PYTHONSAFEPATH"] = "1"  # as python -P: processes of ours look nowhere else either
    for name in _SEARCHED:
        if name in os.environ:
            entries = os.environ[name].split(os.pathsep)
            os.environ[name] = os.pathsep.join(filter(os.path.isabs, entries))
    folder = cache_folder()
    if userfolders.home() is None:  # libraries would use a folder called ~ in the current one
        os.environ["HOME"] = str(folder or _NOWHERE)
    for name, below in _CACHES.items():
        if not os.path.isabs(os.environ.get(name, "")):
            os.environ[name] = str(folder / below) if folder else _NOWHERE
    _protected.append(True)


@functools.cache
def cache_folder() -> Path | None:
    """Return the folder for compiled code: the user's own, or a new one that ends with the process.

    None: there is no safe place for one.
    """
    return userfolders.user_cache_folder() or _until_the_end()


def kernel_cache() -> str:
    """Return the folder in which numba keeps what it compiled; empty: it keeps nothing.

    The first process of a command says when nothing is kept for the next command.
    """
    chosen = os.environ.get("NUMBA_CACHE_DIR", "")
    if os.path.isabs(chosen) and not _protected:  # by the user, or by the process that started us
        return "" if chosen == _NOWHERE else chosen
    own = cache_folder()
    folder = chosen if os.path.isabs(chosen) else str(own / _KERNELS) if own else _NOWHERE
    if folder == _NOWHERE or any(folder.startswith(f"{ending}{os.sep}") for ending in _ending):
        print(
            "compiled code is not kept, so the next command, too, will start about a minute "
            "slower: there is no folder of your own for it; set XDG_CACHE_HOME to one "
            "(docs/security.md)",
            file=sys.stderr,
        )
    return "" if folder == _NOWHERE else folder


def _until_the_end() -> Path | None:
    """Make a folder that this process removes when it ends; None: no safe one."""
    import atexit
    import shutil
    import tempfile

    maker = os.getpid()

    def remove() -> None:
        if os.getpid() == maker:  # and not a copy of it, which ends earlier
            for folder in _ending:
                shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    for root in userfolders.temporary_roots():
        with suppress(OSError):
            _ending.append(Path(tempfile.mkdtemp(prefix="fairway-", dir=root)))
            if userfolders.is_safe(_ending[-1]):
                return _ending[-1]
    return None


def _whole(entries: list[str]) -> list[str]:
    """Return the entries of sys.path that do not come from the current folder.

    Python itself has turned relative entries of PYTHONPATH into whole paths. Where a user has no
    home, it looks for the user's own packages in a folder called ~.
    """
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep) if "PYTHONPATH" in os.environ else []
    try:
        here = os.getcwd()
    except OSError:  # the folder has been removed, so nothing is in it
        return [entry for entry in entries if entry]
    stray = {os.path.abspath(entry) for entry in given if not os.path.isabs(entry)}
    homeless = os.path.join(here, "~", "")
    kept = [e for e in entries if e and e not in stray and not e.startswith(homeless)]
    return [e for e in kept if os.path.isabs(e) or not os.path.exists(e)]
