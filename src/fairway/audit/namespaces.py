"""Give a process a file system, a process table and a network of its own (unshare, mount).

Standard library only: a process may enter a user namespace only while it has one thread, so this
file is imported by enter.py before numpy or torch.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from typing import Any

NEW_MOUNTS, NEW_UTS, NEW_IPC = 0x00020000, 0x04000000, 0x08000000
NEW_USER, NEW_PIDS, NEW_NET = 0x10000000, 0x20000000, 0x40000000
NOBODY = 65534
_NO_SUID, _NO_DEVICES, _BIND, _RECURSIVE = 2, 4, 4096, 16384
_READ_ONLY, _REMOUNT, _PRIVATE, _NO_EXEC = 1, 32, 1 << 18, 8
_DETACH = 2
_MOUNT_SETATTR, _MOVE_ROOT = 442, {"x86_64": 155, "aarch64": 41}
_AT_CURRENT, _AT_RECURSIVE = -100, 0x8000


@dataclass
class View:
    """What the process sees of the machine's files. All paths are absolute and resolved."""

    trees: list[str]  # read-only: files and folders
    links: list[tuple[str, str]]  # (path, target) of symbolic links outside of the trees
    masked: list[str]  # within the trees, and yet out of reach
    devices: list[str]
    folder: str  # of this machine: empty, the new root is mounted on it
    tmp_bytes: int  # of /tmp; a half of it each for /tmp and /dev/shm


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    encoded: list[Any] = [None if s is None else s.encode() for s in (source, target, kind)]
    options = None if data is None else data.encode()
    result = _libc().mount(*encoded, ctypes.c_ulong(flags), options)
    _checked(result, f"mount {target}")


def leave() -> None:
    """Move into namespaces of one's own, a user namespace only where that is needed. OSError.

    The next child is the first process of a PID namespace. Files belong to the same user as before;
    in a user namespace root is called nobody.
    """
    libc, kinds = _libc(), NEW_UTS | NEW_IPC | NEW_PIDS | NEW_NET
    if os.geteuid() == 0 and libc.unshare(kinds) == 0:
        return
    user, group = os.geteuid(), os.getegid()
    _checked(libc.unshare(NEW_USER | kinds), "unshare")
    for name, line in (
        ("setgroups", "deny"),
        ("uid_map", f"{user or NOBODY} {user} 1"),
        ("gid_map", f"{group or NOBODY} {group} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(line)


def show_only(view: View) -> None:
    """Replace the file system by `view`, with a /proc of this PID namespace. OSError."""
    _checked(_libc().unshare(NEW_MOUNTS), "unshare")
    _mount("none", "/", None, _RECURSIVE | _PRIVATE)
    root, flags = view.folder, _NO_SUID | _NO_DEVICES
    _mount("root", root, "tmpfs", flags, "size=4m,mode=755")
    half = view.tmp_bytes // 2
    for path in ("/tmp", "/dev/shm", "/proc"):
        os.makedirs(root + path)
    for path in ("/tmp", "/dev/shm"):
        _mount("tmpfs", root + path, "tmpfs", flags, f"size={half},nr_inodes=100000,mode=1777")
    for path in view.trees:
        _bind(path, root + path, _READ_ONLY | flags)
    for path in view.devices:
        _bind(path, root + path, _READ_ONLY | _NO_SUID)
    for path, target in view.links:
        os.makedirs(os.path.dirname(root + path), exist_ok=True)
        if not os.path.lexists(root + path):
            os.symlink(target, root + path)
    for path in view.masked:
        if os.path.isdir(root + path):
            _mount("none", root + path, "tmpfs", _READ_ONLY | flags, "size=4k,mode=0")
        elif os.path.lexists(root + path):
            _bind("/dev/null", root + path, _READ_ONLY | flags)
    _mount("proc", root + "/proc", "proc", flags | _NO_EXEC)
    _bind("/proc/sys", root + "/proc/sys", _READ_ONLY | flags)
    old = root + "/tmp"  # for a moment: below it lies the old root
    os.chdir(root)
    _checked(_libc().syscall(_MOVE_ROOT[os.uname().machine], root.encode(), old.encode()), "pivot")
    _checked(_libc().umount2(b"/tmp", _DETACH), "umount")
    os.chdir("/")
    _attributes("/", _READ_ONLY | flags, recursive=False)


def _bind(source: str, target: str, flags: int) -> None:
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if not os.path.lexists(target):
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    _mount(source, target, None, _BIND | _RECURSIVE)
    _attributes(target, flags, recursive=True)


def _attributes(path: str, flags: int, recursive: bool) -> None:
    """Set mount flags; their values are those of mount_setattr(2) (Linux 5.12)."""
    attributes = (ctypes.c_uint64 * 4)(flags, 0, 0, 0)
    at_flags = _AT_RECURSIVE if recursive else 0
    result = _libc().syscall(
        _MOUNT_SETATTR, _AT_CURRENT, path.encode(), at_flags, attributes, ctypes.c_size_t(32)
    )
    _checked(result, f"mount_setattr {path}")
