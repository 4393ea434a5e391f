"""Start in the processes for foreign code: build the walls, then run child.py within them.

Run by its path, with the standard library alone, so that it has one thread: then a process may
enter namespaces. Three processes come of it. The warden stays outside and ends all others when the
audit ends, is killed, or memory is over. The init of a PID namespace (bubblewrap has its own)
starts the worker. The worker gives up its rights one by one, reports what held, and runs child.py.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import struct
import sys
import time
from contextlib import suppress
from typing import Any, NoReturn

if __name__ == "__main__":  # python -I: this file's folder and PYTHONPATH are not looked at
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from fairway.audit import landlock, namespaces, seccomp

BUBBLEWRAP, NAMESPACES, NONE = "bubblewrap", "namespaces", "none"
FAILED = 95  # exit code of walls that could not be built
_DEATH_SIGNAL, _SUBREAPER, _DROP_BOUND, _NO_NEW_PRIVILEGES = 1, 36, 24, 38
_CAPABILITY_VERSION = 0x20080522
_POLL_S = 0.05

Order = dict[str, Any]  # sandbox.py writes it, as JSON


def _prctl(option: int, value: int) -> int:
    if sys.platform != "linux":
        return -1
    return int(ctypes.CDLL(None).prctl(option, ctypes.c_ulong(value), 0, 0, 0))


def read_order(descriptor: int) -> Order:
    """Read what `packed` wrote. Raises EOFError."""
    order: Order = json.loads(_read(descriptor, struct.unpack("<I", _read(descriptor, 4))[0]))
    return order


def _read(descriptor: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = os.read(descriptor, size - len(data))
        if not part:
            raise EOFError("it ended before it said anything")
        data += part
    return data


def packed(data: dict[str, Any]) -> bytes:
    text = json.dumps(data).encode()
    return struct.pack("<I", len(text)) + text


# The warden -------------------------------------------------------------------------------------


def warden(order: Order) -> NoReturn:
    """Start the walls of order["backend"] and watch what runs behind them."""
    status = int(order["status"])
    os.set_inheritable(status, False)
    waited = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, waited)
    _prctl(_DEATH_SIGNAL, signal.SIGTERM)
    if os.getppid() != order["parent"]:
        os._exit(0)
    _prctl(_SUBREAPER, 1)
    order["threads"] = _threads_of(os.geteuid()) if os.geteuid() else 0
    if order["backend"] == NAMESPACES:
        namespaces.leave()
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, waited)
        _behind(order)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1):
        os.dup2(nowhere, descriptor)
    code = _watch(child, order, waited, status)
    _end_all()
    os._exit(code)


def _behind(order: Order) -> NoReturn:
    try:
        if order["backend"] == BUBBLEWRAP:
            _bubblewrap(order)
        if order["backend"] == NAMESPACES:
            _init(order)
        _worker(order)
    except BaseException as error:
        _fail(error)


def _fail(error: BaseException) -> NoReturn:
    with suppress(OSError):
        os.write(2, f"{error}\n".encode()[:300])
    os._exit(FAILED)


def _watch(child: int, order: Order, waited: set[signal.Signals], status: int) -> int:
    """Wait for the end of `child`, of the audit, or of what may be taken; return an exit code."""
    limits, polls = order["limits"], 0
    while True:
        came = signal.sigtimedwait(waited, _POLL_S)
        if came is not None and came.si_signo != signal.SIGCHLD:
            return 0
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == child:
                    code = os.waitstatus_to_exitcode(ended[1])
                    return code if code >= 0 else 128 - code
        polls += 1
        bytes_taken, threads = _taken(limits["memory_bytes"])
        failure = ""
        if bytes_taken > limits["memory_bytes"]:
            failure = "memory"
        elif threads > limits["processes"]:
            failure = "processes"
        elif order["backend"] == NONE and polls % 10 == 0:
            failure = "files" if _folder_bytes(order["folder"]) > limits["file_bytes"] else ""
        if failure:
            os.write(status, failure.encode())
            return FAILED + 1


def _children(pid: int) -> list[int]:
    pids: list[int] = []
    with suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with suppress(OSError), open(f"/proc/{pid}/task/{thread}/children") as file:
                pids += map(int, file.read().split())
    return pids


def _descendants() -> list[int]:
    pids, todo = [], [os.getpid()]
    while todo:
        below = _children(todo.pop())
        pids += below
        todo += below
    return pids


def _end_all() -> None:
    """Kill all processes that came from this one, in other sessions too, and wait for them."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        for pid in _descendants():
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.002)


def _taken(limit_bytes: int) -> tuple[int, int]:
    """Return the memory in bytes and the threads of all processes below this one."""
    total = threads = 0
    pids = _descendants()
    for pid in pids:
        fields = _fields(f"/proc/{pid}/status", ("VmRSS", "VmSwap", "Threads"))
        total += 1024 * (fields["VmRSS"] + fields["VmSwap"])
        threads += fields["Threads"]
    if total > limit_bytes:
        shares = [_fields(f"/proc/{pid}/smaps_rollup", ("Pss", "SwapPss")) for pid in pids]
        if all(share["Pss"] for share in shares):
            total = 1024 * sum(share["Pss"] + share["SwapPss"] for share in shares)
    return total, threads


def _fields(path: str, names: tuple[str, ...]) -> dict[str, int]:
    numbers = dict.fromkeys(names, 0)
    with suppress(OSError, ValueError), open(path, errors="replace") as file:
        for line in file:
            name, _, rest = line.partition(":")
            if name in numbers:
                numbers[name] = int(rest.split()[0])
    return numbers


def _threads_of(user: int) -> int:
    """Count a user's threads on this machine, because the kernel's limit counts them all."""
    total = 0
    with suppress(OSError):
        for name in os.listdir("/proc"):
            with suppress(OSError):
                if name.isdigit() and os.stat(f"/proc/{name}").st_uid == user:
                    total += _fields(f"/proc/{name}/status", ("Threads",))["Threads"]
    return total


def _folder_bytes(folder: str) -> int:
    total, todo = 0, [folder]
    while todo:
        with suppress(OSError), os.scandir(todo.pop()) as entries:
            for entry in entries:
                with suppress(OSError):
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(entry.path)
    return total


# Behind the walls -------------------------------------------------------------------------------


def _init(order: Order) -> NoReturn:
    """Be process 1 of a PID namespace: when it ends, the kernel ends all others."""
    _prctl(_DEATH_SIGNAL, signal.SIGKILL)
    namespaces.show_only(namespaces.View(**order["view"]))
    worker = os.fork()
    if worker == 0:
        try:
            _worker(order)
        except BaseException as error:
            _fail(error)
    for descriptor in (0, 1, 2, order["status"]):
        os.close(descriptor)
    while True:
        pid, status = os.wait()
        if pid == worker:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)


def _bubblewrap(order: Order) -> NoReturn:
    """Build the walls with the program bubblewrap, where the kernel lets only that build them."""
    view, root = order["view"], os.geteuid() == 0
    half = str(view["tmp_bytes"] // 2)
    arguments = ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
    arguments += ["--cap-drop", "ALL", "--die-with-parent"]
    if root:
        for name in ("SETUID", "SETGID", "SETPCAP"):
            arguments += ["--cap-add", f"CAP_{name}"]
    else:
        arguments += ["--unshare-user"]
    for path in ("/tmp", "/dev/shm"):
        arguments += ["--perms", "1777", "--size", half, "--tmpfs", path]
    for folder in _above([*view["trees"], *view["devices"], *(link for link, _ in view["links"])]):
        arguments += ["--perms", "0755", "--dir", folder]  # else only root may pass
    for path in view["trees"]:
        arguments += ["--ro-bind", path, path]
    for path in view["devices"]:
        arguments += ["--dev-bind", path, path]
    for path, target in view["links"]:
        arguments += ["--symlink", target, path]
    for path in view["masked"]:
        hide = ["--perms", "0000", "--tmpfs", path] if os.path.isdir(path) else None
        if hide or os.path.lexists(path):
            arguments += hide or ["--ro-bind", "/dev/null", path]
    arguments += ["--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys"]
    arguments += ["--remount-ro", "/", "--chdir", "/tmp"]
    hidden = _in_memory("\0".join(arguments).encode())  # not on a command line that anyone reads
    inner = _in_memory(packed(order))
    os.set_inheritable(hidden, True)
    os.set_inheritable(inner, True)
    command = ["bwrap", "--args", str(hidden), *order["inside"], str(inner)]
    os.execve(order["bwrap"], command, order["environment"])


def _above(paths: list[str]) -> list[str]:
    """Return the folders above `paths`, the outermost first, without those that exist already."""
    parents = {parent for path in paths for parent in _parents(path)}
    return sorted(parents - {"/", "/tmp", "/dev/shm"}, key=lambda path: path.count("/"))


def _parents(path: str) -> list[str]:
    parents = []
    while (path := os.path.dirname(path)) != "/":
        parents.append(path)
    return parents


def _in_memory(data: bytes) -> int:
    descriptor = os.memfd_create("order")
    with open(descriptor, "wb", closefd=False) as file:
        file.write(data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _worker(order: Order) -> NoReturn:
    """Give up every right but the order's, say on fd 1 which walls stand, and run child.py."""
    backend, limits = order["backend"], order["limits"]
    if backend != BUBBLEWRAP or os.getpid() != 1:
        with suppress(OSError):
            os.setsid()
    own_user = _drop_user(order)
    _drop_capabilities()
    if backend == NONE:
        _prctl(_DEATH_SIGNAL, signal.SIGKILL)
    _bound(limits, order["threads"] if not own_user else 0, order["gpu"])
    os.umask(0o077)
    os.chdir(order["folder"] if backend == NONE else "/tmp")
    version = landlock.restrict(_rules(order)) if order["landlock"] else 0
    filtered = False
    if order["seccomp"] and seccomp.available():
        filtered = seccomp.restrict(
            seccomp.program(
                own_files=backend != NONE, own_processes=backend != NONE,
                signals_scoped=version >= 6, truncate_scoped=version >= 3,
            )
        )  # fmt: skip
    if backend == NONE and not (order["trusted"] or (version and filtered)):
        sys.exit("it could reach your files or the network")
    report = {
        "backend": backend, "landlock": version, "seccomp": filtered,
        "unprivileged": os.geteuid() != 0,
    }  # fmt: skip
    os.write(1, packed(report))
    os.closerange(3, 1 << 16)
    os.execve(order["command"][0], order["command"], order["environment"])


def _drop_user(order: Order) -> bool:
    """Become a user that owns nothing, where this is root; return whether that was possible."""
    user = order["user"]
    if user is None or os.geteuid() != 0:
        return False
    if not _can_work_as(user, order):
        return False
    _drop_bound()
    try:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    except OSError:
        return False
    return True


def _can_work_as(user: int, order: Order) -> bool:
    """Say whether that user may read Python and the scorer's files: become it and try."""
    if order["backend"] == NONE:
        os.chown(order["folder"], user, user)
    pid = os.fork()
    if pid == 0:
        code = 1
        with suppress(OSError):
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
            code = 0 if all(map(_readable, _some_files(order))) else 1
        os._exit(code)
    can = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    if order["backend"] == NONE and not can:
        os.chown(order["folder"], os.geteuid(), os.getegid())
    return can


def _readable(path: str) -> bool:
    return os.access(path, os.R_OK | os.X_OK if os.path.isdir(path) else os.R_OK)


def _some_files(order: Order) -> list[str]:
    """Yield Python and the files of the scorer's folders, some thousand at most."""
    paths: list[str] = []
    todo = [*order["own"], order["command"][0]]
    while todo and len(paths) < 4096:
        path = todo.pop()
        if path in order["view"]["masked"]:
            continue
        paths.append(path)
        if os.path.isdir(path) and os.access(path, os.R_OK):
            todo += [os.path.join(path, name) for name in os.listdir(path)]
    return paths


def _drop_bound() -> None:
    for capability in range(64):
        if _prctl(_DROP_BOUND, capability) != 0:
            break


def _drop_capabilities() -> None:
    """Drop every capability, so that running a program brings none back."""
    if sys.platform != "linux":
        return
    _drop_bound()
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    ctypes.CDLL(None).capset(header, (ctypes.c_uint32 * 6)())
    _prctl(_NO_NEW_PRIVILEGES, 1)


def _bound(limits: dict[str, int], others: int, gpu: bool) -> None:
    """Set limits of each process; `others`: threads of the user that the kernel counts, too."""
    most = {
        resource.RLIMIT_FSIZE: limits["file_bytes"],
        resource.RLIMIT_NOFILE: limits["files"],
        resource.RLIMIT_CORE: 0,
    }
    if not gpu:  # a driver maps more addresses than the machine has memory
        most[resource.RLIMIT_AS] = limits["memory_bytes"]
    if os.geteuid() != 0 and hasattr(resource, "RLIMIT_NPROC"):
        most[resource.RLIMIT_NPROC] = limits["processes"] + others
    for what, value in most.items():
        hard = resource.getrlimit(what)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(what, (value, value))


def _rules(order: Order) -> list[tuple[str, int]]:
    rules = [(str(path), int(rights)) for path, rights in order["rules"]]
    rules += [(path, landlock.READ | landlock.WRITE | landlock.DEVICE) for path in order["devices"]]
    if order["backend"] == NONE:
        rules += [(order["folder"], landlock.ALL), (f"/proc/{os.getpid()}", landlock.READ_TREE)]
        names = "cpuinfo meminfo stat uptime loadavg version filesystems sys/vm/overcommit_memory"
        rules += [(f"/proc/{name}", landlock.READ) for name in names.split()]
    else:
        rules += [(path, landlock.ALL) for path in ("/tmp", "/dev/shm")]
        rules += [("/proc", landlock.READ_TREE)]
    return rules


def main() -> None:
    """Read the order, build its walls, and run its command."""
    source = int(sys.argv[1]) if len(sys.argv) > 1 else 0  # behind bubblewrap: a file of memory
    try:
        order = read_order(source)
        if source:
            os.close(source)
            _worker(order)
        warden(order)
    except Exception as error:
        _fail(error)


if __name__ == "__main__":
    main()
