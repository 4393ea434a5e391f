"""Filter system calls (seccomp-BPF) that no namespace and no Landlock rule keeps out.

Standard library only: enter.py imports this file before anything starts a thread.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from collections.abc import Iterable

_NO_NEW_PRIVILEGES, _SET_SECCOMP, _FILTER = 38, 22, 2
_LOAD, _EQUAL, _ANY_BIT, _AT_LEAST, _AND, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x54, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_X32 = 0x40000000

_Numbers = dict[str, tuple[int, int]]
# Calls by what the filter does with them, with their numbers on (x86-64, arm64); -1: this CPU has
# no such call. From asm/unistd.h; 424 and later are everywhere.
_ALWAYS: _Numbers = {
    "acct": (163, 89), "add_key": (248, 217), "adjtimex": (159, 171), "bpf": (321, 280),
    "chroot": (161, 51), "clock_adjtime": (305, 266), "clock_settime": (227, 112),
    "delete_module": (176, 106), "fanotify_init": (300, 262), "finit_module": (313, 273),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fsopen": (430, 430), "fspick": (433, 433),
    "init_module": (175, 105), "ioperm": (173, -1), "iopl": (172, -1), "kcmp": (312, 272),
    "kexec_file_load": (320, 294), "kexec_load": (246, 104), "keyctl": (250, 219),
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "migrate_pages": (256, 238),
    "mount": (165, 40), "mount_setattr": (442, 442), "move_mount": (429, 429),
    "move_pages": (279, 239), "mq_open": (240, 180), "msgget": (68, 186),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "open_tree": (428, 428),
    "open_tree_attr": (467, 467), "perf_event_open": (298, 241), "personality": (135, 92),
    "pidfd_getfd": (438, 438), "pivot_root": (155, 41), "process_madvise": (440, 440),
    "process_mrelease": (448, 448), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "ptrace": (101, 117), "quotactl": (179, 60), "quotactl_fd": (443, 443), "reboot": (169, 142),
    "request_key": (249, 218), "semget": (64, 190), "setdomainname": (171, 162),
    "sethostname": (170, 161), "setns": (308, 268), "settimeofday": (164, 170), "shmget": (29, 194),
    "swapoff": (168, 225), "swapon": (167, 224), "syslog": (103, 116), "umount2": (166, 39),
    "unshare": (272, 97), "userfaultfd": (323, 282), "vhangup": (153, 58), "socket": (41, 198),
}  # fmt: skip
_ABSENT: _Numbers = {  # libraries do without
    "clone3": (435, 435), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
}  # fmt: skip
_ATTRIBUTES: _Numbers = {  # of files: mode, owner, times
    "chmod": (90, -1), "chown": (92, -1), "fchmod": (91, 52), "fchmodat": (268, 53),
    "fchmodat2": (452, 452), "fchown": (93, 55), "fchownat": (260, 54), "fremovexattr": (199, 16),
    "fsetxattr": (190, 7), "futimesat": (261, -1), "lchown": (94, -1), "lremovexattr": (198, 15),
    "lsetxattr": (189, 6), "removexattr": (197, 14), "removexattrat": (466, 466),
    "setxattr": (188, 5), "setxattrat": (463, 463), "utime": (132, -1), "utimensat": (280, 88),
    "utimes": (235, -1),
}  # fmt: skip
_OF_OTHERS: _Numbers = {  # the first argument names a process, 0 this one
    "ioprio_set": (251, 30), "sched_setaffinity": (203, 122), "sched_setattr": (314, 274),
    "sched_setparam": (142, 118), "sched_setscheduler": (144, 119), "setpriority": (141, 140),
}  # fmt: skip
_TO_OTHERS: _Numbers = {
    "kill": (62, 129), "tgkill": (234, 131), "tkill": (200, 130), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
}  # fmt: skip
_SOME: _Numbers = {  # refused by their arguments, or where another wall is missing
    "clone": (56, 220), "fcntl": (72, 25), "ioctl": (16, 29), "open": (2, -1), "openat": (257, 56),
    "openat2": (437, 437), "pidfd_send_signal": (424, 424), "prlimit64": (302, 261),
    "truncate": (76, 45),
}  # fmt: skip
_NUMBERS = _ALWAYS | _ABSENT | _ATTRIBUTES | _OF_OTHERS | _TO_OTHERS | _SOME
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_NEW_NAMESPACES = 0x7E020080  # CLONE_NEW*, of mounts, cgroups, UTS, IPC, users, PIDs, nets, time
_FAKE_INPUT, _CONSOLE = 0x5412, 0x541C  # TIOCSTI, TIOCLINUX
_OWNER_IOCTLS = (0x8901, 0x8902)  # FIOSETOWN, SIOCSPGRP: who gets a signal
_OWNER_FCNTLS = (8, 10, 15)  # F_SETOWN, F_SETSIG, F_SETOWN_EX
_OPEN_TRUNCATE, _OPEN_WRITE = 0o1000, 0o3

_Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, operand


def available() -> bool:
    """Return whether this system has seccomp and a table of its system calls here."""
    return sys.platform == "linux" and os.uname().machine in _MACHINES


def program(
    *, own_files: bool, own_processes: bool, signals_scoped: bool, truncate_scoped: bool
) -> list[_Instruction]:
    """Return the filter for this process, by what the other walls do.

    own_files: a mount namespace shows the rest of the system read-only. own_processes: a PID
    namespace. signals_scoped, truncate_scoped: Landlock keeps signals, truncation from the outside.
    """
    column, architecture = _MACHINES[os.uname().machine]
    code: list[_Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _ERRNO | errno.EPERM),
        (_LOAD, 0, 0, _NUMBER),
    ]
    if column == 0:
        code += [(_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]

    def on(name: str, *body: _Instruction) -> None:
        if (number := _NUMBERS[name][column]) >= 0:
            code.extend([(_EQUAL, 0, len(body), number), *body])

    def deny(names: Iterable[str], error: int) -> None:
        for name in names:
            on(name, (_RETURN, 0, 0, _ERRNO | error))

    def argument(index: int) -> _Instruction:
        return (_LOAD, 0, 0, _ARGUMENTS + 8 * index)  # its low half

    again: _Instruction = (_LOAD, 0, 0, _NUMBER)
    refuse: _Instruction = (_RETURN, 0, 0, _ERRNO | errno.EPERM)
    deny(_ALWAYS, errno.EPERM)
    deny(_ABSENT, errno.ENOSYS)
    on("clone", argument(0), (_ANY_BIT, 0, 1, _NEW_NAMESPACES), refuse, again)
    on("prlimit64", argument(0), (_EQUAL, 1, 0, 0), refuse, again)
    for request in (_FAKE_INPUT, _CONSOLE):
        on("ioctl", argument(1), (_EQUAL, 0, 1, request), refuse, again)
    if not own_files:
        deny(_ATTRIBUTES, errno.EPERM)
    if not own_files and not truncate_scoped:
        deny(["truncate"], errno.EPERM)
        deny(["openat2"], errno.ENOSYS)
        for name, index in (("open", 1), ("openat", 2)):  # to read and yet to truncate
            on(
                name, argument(index), (_AND, 0, 0, _OPEN_TRUNCATE | _OPEN_WRITE),
                (_EQUAL, 0, 1, _OPEN_TRUNCATE), refuse, again,
            )  # fmt: skip
    if not own_processes:
        for name in _OF_OTHERS:
            on(name, argument(int(name in ("ioprio_set", "setpriority"))), (_EQUAL, 1, 0, 0),
               refuse, again)  # fmt: skip
    if not own_processes and not signals_scoped:
        deny(["pidfd_send_signal"], errno.EPERM)
        for name in _TO_OTHERS:
            on(name, argument(0), (_EQUAL, 1, 0, os.getpid()), refuse, again)
        for request in _OWNER_IOCTLS:
            on("ioctl", argument(1), (_EQUAL, 0, 1, request), refuse, again)
        for request in _OWNER_FCNTLS:
            on("fcntl", argument(1), (_EQUAL, 0, 1, request), refuse, again)
    return [*code, (_RETURN, 0, 0, _ALLOW)]


def restrict(code: list[_Instruction]) -> bool:
    """Filter the system calls of this process from here on. Return False where that is refused."""
    libc = ctypes.CDLL(None, use_errno=True)
    packed = b"".join(struct.pack("<HBBI", *instruction) for instruction in code)
    buffer = ctypes.create_string_buffer(packed, len(packed))
    header = struct.pack("@HP", len(code), ctypes.addressof(buffer))
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    return bool(libc.prctl(_SET_SECCOMP, _FILTER, ctypes.c_char_p(header), 0, 0) == 0)
