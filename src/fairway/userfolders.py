"""Find folders of the user's own, for compiled code and for verdicts.

What lies in them is believed: numba unpickles what it finds in its cache, and a remembered verdict
is stated as true. So a folder is used only if nobody but the user and the administrator (root) can
change what stands at its path. docs/security.md has the rule.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_LINKS = 40  # as many links as Linux follows on one path


def user_state_folder() -> Path | None:
    """Return the folder for what the user's commands remember; None: there is no safe one.

    $XDG_STATE_HOME/fairway, else ~/.local/state/fairway; created with mode 0700.
    """
    return _private(_under("XDG_STATE_HOME", ".local/state"))


def user_cache_folder() -> Path | None:
    """Return the folder for compiled code; None: there is no safe one.

    $XDG_CACHE_HOME/fairway, else ~/.cache/fairway; without a usable home (a user of a container
    has none) TMPDIR/fairway-USER_ID. Created with mode 0700.
    """
    name = f"fairway-{os.getuid()}"
    places = [_under("XDG_CACHE_HOME", ".cache"), *(root / name for root in temporary_roots())]
    return next(filter(None, map(_private, places)), None)


def temporary_roots() -> list[Path]:
    """Return the folders of temporary files. Python's own list ends with the current folder."""
    chosen = os.environ.get("TMPDIR", "")
    return [Path(root) for root in (chosen, "/tmp", "/var/tmp") if os.path.isabs(root)]


def home() -> Path | None:
    """Return the user's home; None: neither HOME nor the system's list of users names one."""
    found = os.path.expanduser("~")  # "~" itself, a folder below the current one, if there is none
    return Path(found) if os.path.isabs(found) else None


def is_safe(path: Path) -> bool:
    """Return whether only this user and root can change what stands at an absolute path.

    The last folder belongs to this user, and no group and no others may write to it. Folders and
    links above belong to the user or to root; others may write to them only where they cannot
    rename what is not theirs (a sticky folder such as /tmp).
    """
    try:
        last = os.stat(path)
        is_mine = last.st_uid == os.getuid() and not last.st_mode & _OTHERS_WRITE
        return stat.S_ISDIR(last.st_mode) and is_mine and _holds(path, _LINKS)
    except OSError:
        return False


def _holds(path: Path, links: int) -> bool:
    """Return whether all folders and links on the way to `path` belong to this user or root."""
    for part in [*reversed(path.parents), path]:
        status = os.lstat(part)
        if status.st_uid not in (0, os.getuid()) or links < 0:
            return False
        if stat.S_ISLNK(status.st_mode):
            rest = path.relative_to(part)
            return _holds(Path(os.path.abspath(part.parent / os.readlink(part))) / rest, links - 1)
        may_write = status.st_mode & _OTHERS_WRITE
        if may_write and not status.st_mode & stat.S_ISVTX and not _is_private_group(status):
            return False
    return True


def _is_private_group(status: os.stat_result) -> bool:
    """Return whether a group is the user's alone: its name is the user's own.

    Some systems give every user such a group, and let it write to what the user makes.
    """
    import grp
    import pwd

    try:
        group, user = grp.getgrgid(status.st_gid), pwd.getpwuid(os.getuid())
    except KeyError:
        return False
    alone = group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}
    return alone and not status.st_mode & stat.S_IWOTH


def _under(variable: str, default: str) -> Path | None:
    """Return the folder `fairway` where the XDG standard puts such files.

    The standard ignores a relative path in its variables, which would lie in the current folder.
    """
    root, mine = os.environ.get(variable, ""), home()
    if os.path.isabs(root):
        return Path(root) / "fairway"
    return mine / default / "fairway" if mine else None


def _private(folder: Path | None) -> Path | None:
    """Make a folder with mode 0700 if it is not there; None: it cannot be made, or is not safe."""
    if folder is None:
        return None
    try:
        os.makedirs(folder.parent, mode=0o700, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError:
        return None
    return folder if is_safe(folder) and os.access(folder, os.W_OK | os.X_OK) else None
