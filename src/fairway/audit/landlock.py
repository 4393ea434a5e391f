"""Set Landlock rules for files, network and signals, which need no privileges (Linux 5.13).

Standard library only: enter.py imports this file before anything starts a thread.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Iterable

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # system calls, the same on every CPU
_GET_VERSION, _PATH_BENEATH = 1, 1
_NO_NEW_PRIVILEGES = 38

EXECUTE, WRITE, READ, LIST = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_TRUNCATE, DEVICE = 1 << 14, 1 << 15
READ_TREE = EXECUTE | READ | LIST
ALL = (1 << 16) - 1
_FILE = EXECUTE | WRITE | READ | _TRUNCATE | DEVICE  # what a rule on a file may name
_RIGHTS_OF_ABI = (0, 13, 14, 15, 15, 16)  # how many file rights each version knows
_NETWORK, _SCOPES = 4, 6  # the versions that added TCP; abstract unix sockets and signals


def abi() -> int:
    """Return the version of the kernel's Landlock, 0 where there is none."""
    if sys.platform != "linux":
        return 0
    return max(0, int(ctypes.CDLL(None).syscall(_CREATE_RULESET, None, 0, _GET_VERSION)))


def restrict(rules: Iterable[tuple[str, int]]) -> int:
    """Deny this process every file right but those of `rules`, (path, rights); return the version.

    From version 4 on TCP is denied as well, from 6 on signals and abstract sockets to the outside.
    Return 0 where the kernel has no Landlock. Raise OSError where a rule is refused.
    """
    version = abi()
    if not version:
        return 0
    libc = ctypes.CDLL(None, use_errno=True)
    known = (1 << _RIGHTS_OF_ABI[min(version, len(_RIGHTS_OF_ABI) - 1)]) - 1
    attributes = struct.pack("<Q", known)
    if version >= _NETWORK:
        attributes += struct.pack("<Q", 3)  # bind and connect
    if version >= _SCOPES:
        attributes += struct.pack("<Q", 3)  # abstract unix sockets, signals
    ruleset = libc.syscall(_CREATE_RULESET, attributes, len(attributes), 0)
    if ruleset < 0:
        raise OSError(ctypes.get_errno(), "landlock_create_ruleset")
    merged: dict[str, int] = {}
    for path, rights in rules:
        merged[path] = merged.get(path, 0) | rights
    for path, rights in merged.items():
        try:
            handle = os.open(path, os.O_PATH | os.O_CLOEXEC)  # type: ignore[attr-defined,unused-ignore]
        except OSError:  # it went away, or is not here: nothing to allow
            continue
        rights &= known & (ALL if os.path.isdir(path) else _FILE)
        added = libc.syscall(
            _ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("<Qi", rights, handle), 0
        )
        os.close(handle)
        if added < 0:
            raise OSError(ctypes.get_errno(), "landlock_add_rule", path)
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    if libc.syscall(_RESTRICT_SELF, ruleset, 0) < 0:
        raise OSError(ctypes.get_errno(), "landlock_restrict_self")
    os.close(ruleset)
    return version
