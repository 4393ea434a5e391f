"""Run foreign code in processes of its own, behind the walls that this machine has.

Messages are fixed binary frames (wire.py); nothing is unpickled or parsed as JSON. What stands at
once: bubblewrap or namespaces of our own, Landlock, a filter of system calls, limits in all and for
each process, a clean environment. `Isolation` says which of them stand here.
"""

from __future__ import annotations

import os
import pwd
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from fairway.audit import Charges, scorer, visible, wire
from fairway.audit.enter import BUBBLEWRAP, NAMESPACES, NONE, packed, read_order
from fairway.audit.scorer import Floats, Tokens
from fairway.console import printable
from fairway.errors import BadInput

START_S = 120.0  # a scorer may import and build for so long
_WALLS_S = 20.0  # and its walls may take so long
_TAIL_BYTES = 4096  # of what it prints as errors
_BUBBLEWRAP = ("/usr/bin/bwrap", "/bin/bwrap", "/usr/local/bin/bwrap")  # never by PATH
_KEPT_ENVIRONMENT = visible.words(  # nothing else of the environment reaches the scorer
    "LANG LC_ALL LC_CTYPE TZ OMP_NUM_THREADS MKL_NUM_THREADS OPENBLAS_NUM_THREADS "
    "NUMEXPR_NUM_THREADS NUMBA_NUM_THREADS LD_LIBRARY_PATH CUDA_VISIBLE_DEVICES"
)
_DEVICES = [f"/dev/{name}" for name in visible.words("null zero full random urandom")]
_DEVICE_LINKS = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
]
_ENTER = str(Path(__file__).resolve().with_name("enter.py"))
_FREE_USERS = range(1_000_000_000, 1_900_000_000)  # above all that systems hand out


@dataclass(frozen=True)
class Limits:
    """What the scorer's processes may take."""

    call_s: float = 600.0  # one call of the scorer
    memory_bytes: int = 16 << 30  # all processes together; also the address space of each
    file_bytes: int = 1 << 30  # all that the scorer writes
    files: int = 256  # open at once
    processes: int = 1024  # with their threads


@dataclass(frozen=True)
class Walls:
    """Which walls to build; tests take some away."""

    backends: tuple[str, ...] = (BUBBLEWRAP, NAMESPACES, NONE)  # the first that can be built
    landlock: bool = True
    seccomp: bool = True
    gpu: bool = False
    trusted: bool = True  # False: run nothing that could reach the user's files or the network


class Hung(BadInput):
    """A call that took longer than it may."""


@dataclass(frozen=True)
class Isolation:
    """Which walls stand around a scorer, as the process that built them reported."""

    backend: str
    landlock: int  # version, 0: none
    seccomp: bool
    unprivileged: bool  # not root
    own: tuple[str, ...]  # what it reads beside the system and Python
    gpu: bool
    limits: Limits
    refused: tuple[str, ...] = field(default=())  # walls that could not be built, and why

    @property
    def inside(self) -> bool:
        """Return whether the process has namespaces of its own: files, processes, network, IPC."""
        return self.backend != NONE

    def rows(self) -> list[tuple[str, bool, str]]:
        """Return (name, enforced?, what) of each promise; docs/audit.md has the same table."""
        files = self.inside or self.landlock > 0
        calls = self.inside or self.seccomp
        truncates = self.inside or self.landlock >= 3 or (files and self.seccomp)
        # without namespaces: Landlock guards the memory of others, seccomp signals and limits
        signals = self.inside or (self.seccomp and self.landlock > 0)
        watched = signals and sys.platform == "linux"
        own, written = ", ".join(self.own), _size(self.limits.file_bytes)
        memory = f"{_size(self.limits.memory_bytes)} of memory in all its processes"
        processes = f"{self.limits.processes:,} processes and threads"
        return [
            ("reads", files, f"reads only the system's programs, Python and {own}"),
            ("writes", files, f"writes only files of its own, {written} in all"),
            ("truncates", truncates, "truncates no other file"),
            ("attributes", calls, "changes no mode, owner or time of other files"),
            ("names", self.inside, "does not see names and sizes of other files"),
            ("network", calls, "has no network"),
            ("sockets", self.seccomp, "connects to no unix socket"),
            ("signals", signals, "signals and ends no other process, the audit's included"),
            ("environments", files, "does not read other processes' environments"),
            ("daemons", watched, "ends with the audit, with all that it started"),
            ("memory", watched, f"takes at most {memory} (looked at 20 times a second)"),
            ("processes", watched, f"runs at most {processes}"),
            (
                "variables",
                True,
                "gets none of your environment but locale, threads and library paths",
            ),
            ("kernel", self.seccomp, "makes no namespaces, mounts, keys, traces or io_uring"),
            ("root", self.unprivileged, "does not run as root"),
        ]

    def lines(self) -> list[str]:
        """Return a line for each promise, broken ones last, and what nothing here prevents."""
        rows = self.rows()
        lines = [f"enforced: the scorer {what}" for _, kept, what in rows if kept]
        lines += [f"NOT enforced: that the scorer {what}" for _, kept, what in rows if not kept]
        lines += [
            "NOT enforced: a fair share of the processors; that the kernel has no faults; that the "
            "scorer cannot tell an audit from its real use"
        ]
        if self.gpu:
            lines += ["NOT enforced: what a GPU's driver lets it do, and GPU memory (--gpu)"]
        return lines + [f"not used: {reason}" for reason in self.refused]

    @property
    def summary(self) -> str:
        """Return the walls in one line, and what they do not keep."""
        walls = [self.backend if self.inside else "no namespaces"]
        walls += [f"Landlock {self.landlock}" if self.landlock else "no Landlock"]
        walls += ["seccomp" if self.seccomp else "no seccomp"]
        missing = [what for _, kept, what in self.rows() if not kept]
        return f"behind {', '.join(walls)}" + (
            f"; not enforced: that the scorer {'; '.join(missing)}" if missing else ""
        )


class Child:
    """A scorer in a process of its own. Raises BadInput, one sentence for each way to fail."""

    def __init__(
        self,
        name: str,
        hidden: Iterable[Path],
        readable: Iterable[Path],
        limits: Limits,
        walls: Walls | None = None,
    ) -> None:
        """Start the scorer `name`, FILE.py:FUNCTION. It may read `readable`, and not `hidden`."""
        self._limits, self._name, self._walls = limits, name, walls or Walls()
        self._given = (name, list(hidden), list(readable), limits)
        file, function = scorer.split(name)
        hidden = sorted({Path(p).resolve() for p in self._given[1]})
        own = visible.own_paths(file, self._given[2])
        refused: list[str] = []
        bubblewrap = next((p for p in _BUBBLEWRAP if os.access(p, os.X_OK)), "")
        for backend in self._walls.backends:
            if backend == BUBBLEWRAP and not bubblewrap:
                refused.append(f"{backend} (not installed)")
                continue
            self._folder = tempfile.TemporaryDirectory(
                prefix="fairway-audit-", ignore_cleanup_errors=True
            )
            number = secrets.randbits(63)
            try:
                order = self._order(backend, f"{file}:{function}", number, hidden, own)
                report = self._build(order | {"bwrap": bubblewrap})
            except _NoWalls as error:
                refused.append(f"{backend} ({error})")
                self.close()
                continue
            break
        else:
            raise BadInput(
                f"the scorer {name} cannot be kept apart here: {'; '.join(refused)}; install "
                "bubblewrap, or --trust runs it all the same"
            )
        self._chosen = replace(self._walls, backends=(backend,))
        self.isolation = Isolation(
            **report, own=tuple(map(str, own)), gpu=self._walls.gpu, limits=limits,
            refused=tuple(refused),
        )  # fmt: skip
        try:
            ready = self._answer(number, wire.READY, 0, START_S, "starting")
        except BadInput:
            self.close()
            raise
        self.has_distributions = ready.flag

    def _build(self, order: dict[str, Any]) -> dict[str, Any]:
        """Start the processes; return what the worker says of its walls. Raises _NoWalls."""
        status, given_status = os.pipe()
        self._tail, self._status = _Tail(), status
        order |= {"status": given_status, "parent": os.getpid()}
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", _ENTER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._tail.inlet,
            cwd=self._folder.name,
            env=order["environment"],
            start_new_session=True,
            pass_fds=(given_status,),
        )
        os.close(given_status)
        self._tail.start()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._pipe = wire.Pipe(self._process.stdout.fileno(), self._process.stdin.fileno())
        try:
            self._pipe.write(packed(order), _WALLS_S)
            report = read_order(self._process.stdout.fileno())
        except (OSError, EOFError, ValueError, TimeoutError):
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
            raise _NoWalls(self._tail.last_line() or "no reason given") from None
        return report

    def _order(
        self, backend: str, name: str, number: int, hidden: list[Path], own: list[Path]
    ) -> dict[str, Any]:
        python = Path(sys.executable)
        python = python.parent.resolve() / python.name  # the link itself says which environment
        paths = visible.python_paths()
        wanted = visible.system_paths() + paths + own + visible.library_folders()
        kernels = visible.kernels()
        wanted += [kernels] if kernels else []
        trees = visible.outermost({p.resolve() for p in wanted if p.exists()})
        links = dict.fromkeys(link for p in [*wanted, python] for link in visible.links(p))
        beside = [x for x in links if not visible.is_below_any(x[0], trees)]
        folder = self._folder.name
        home = folder if backend == NONE else "/tmp"
        gpu = [str(p) for p in Path("/dev").glob("nvidia*")] if self._walls.gpu else []
        start = (
            "import sys; p, name, number, kernels = sys.argv[1:]; "
            "sys.path += [x for x in p.split(':') if x not in sys.path]; "
            "from fairway.audit import child; child.main(name, int(number), kernels)"
        )
        given = (":".join(map(str, paths)), name, str(number), str(kernels or ""))
        rules = [(str(p), r) for tree in trees for p, r in visible.without(tree, hidden)]
        return {
            "backend": backend,
            "landlock": self._walls.landlock,
            "seccomp": self._walls.seccomp,
            "trusted": self._walls.trusted,
            "gpu": self._walls.gpu,
            "view": {
                "trees": [str(p) for p in trees if p not in hidden],
                "links": beside + (_DEVICE_LINKS if backend != NONE else []),
                "masked": [str(p) for p in hidden if visible.is_below_any(p, trees)],
                "devices": [d for d in _DEVICES + gpu if os.path.exists(d)],
                "folder": folder,
                "tmp_bytes": self._limits.file_bytes,
            },
            "rules": rules,
            "devices": _DEVICES + gpu,
            "folder": folder,
            "user": _free_user() if os.geteuid() == 0 else None,
            "own": [str(p) for p in own],
            "limits": asdict(self._limits),
            "environment": _environment(home),
            "command": [str(python), "-I", "-c", start, *given],
            "inside": [str(python), "-I", "-S", _ENTER],
        }

    def score(self, tokens: Tokens) -> Charges:
        """Return what the scorer charges for tokens. Raises BadInput."""
        reply = self._call(wire.CHARGES, tokens)
        assert reply.charges is not None
        return scorer.checked(reply.charges, len(tokens))

    def distributions(self, tokens: Tokens) -> Floats:
        """Return the scorer's probabilities of all tokens, [N, V]. Raises BadInput."""
        reply = self._call(wire.ROWS, tokens)
        assert reply.rows is not None
        return scorer.checked_rows(reply.rows, len(tokens))

    def restarted(self) -> Child:
        """Return the scorer in a new process, which never saw a text."""
        return Child(*self._given, self._chosen)

    def close(self) -> None:
        """End the process and all that it started; wait until they are gone."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(12)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                with suppress(OSError):
                    pipe.close()
        if self._status >= 0:
            os.close(self._status)
            self._status = -1
        self._tail.close()
        self._folder.cleanup()

    def _call(self, kind: int, tokens: Tokens) -> wire.Reply:
        doing = f"scoring {len(tokens):,} tokens"
        number = secrets.randbits(63)
        try:
            if not self._pipe.is_silent():
                raise BadInput(self._nonsense("before it was asked"))
            self._pipe.write(wire.question(number, kind, tokens), self._limits.call_s)
        except (BrokenPipeError, ValueError):
            raise BadInput(self._obituary(doing)) from None
        except TimeoutError:
            raise self._hung(doing, self._limits.call_s) from None
        return self._answer(number, kind, len(tokens), self._limits.call_s, doing)

    def _answer(self, number: int, kind: int, count: int, limit_s: float, doing: str) -> wire.Reply:
        try:
            reply = wire.read_reply(self._pipe, number, kind, count, limit_s)
        except TimeoutError:
            raise self._hung(doing, limit_s) from None
        except EOFError:
            raise BadInput(self._obituary(doing)) from None
        except wire.Nonsense as error:
            self.close()
            raise BadInput(self._nonsense(f"while {doing}: {error}")) from None
        if reply.kind == wire.ERROR:
            text = printable(reply.text)[:500]
            raise BadInput(f"the scorer {self._name} failed {doing}: {text}")
        return reply

    def _hung(self, doing: str, limit_s: float) -> Hung:
        self.close()
        return Hung(
            f"the scorer {self._name} was {doing} and did not end within {limit_s:.0f} s: "
            "give it a shorter text, or more time with --minutes"
        )

    def _nonsense(self, when: str) -> str:
        return (
            f"the scorer {self._name} wrote to its reply pipe itself {when}; "
            "nothing that it says can be judged"
        )

    def _obituary(self, doing: str) -> str:
        try:
            code = self._process.wait(5)
        except subprocess.TimeoutExpired:
            return f"the scorer {self._name} closed its reply pipe while {doing}"
        limits = self._limits
        reason = {
            "memory": f"took more than {_size(limits.memory_bytes)} of memory (--memory) and was "
            "ended",
            "processes": f"ran more than {limits.processes:,} processes and threads and was ended",
            "files": f"wrote more than {_size(limits.file_bytes)} of files and was ended",
        }.get(_read_status(self._status))
        if reason is None:
            signals = {number + 128: number.name for number in signal.Signals}
            reason = (
                f"died of {signals[code]}" if code in signals else f"ended with exit code {code}"
            )
        last = self._tail.last_line()
        return f"the scorer {self._name} {reason} while {doing}" + (f": {last}" if last else "")


class _NoWalls(Exception):
    """Walls of one kind cannot be built here."""


class _Tail:
    """Keeps the end of what a process prints as errors, and never lets it wait."""

    def __init__(self) -> None:
        self._outlet, self.inlet = os.pipe()
        self._kept = b""
        self._thread = threading.Thread(target=self._read, daemon=True)

    def start(self) -> None:
        """Start to read, once the process has its end of the pipe."""
        os.close(self.inlet)
        self._thread.start()

    def _read(self) -> None:
        while part := os.read(self._outlet, 1 << 16):
            self._kept = (self._kept + part)[-_TAIL_BYTES:]

    def last_line(self) -> str:
        """Return the last line that was written, printable and cut short."""
        self._thread.join(1)
        lines = self._kept.decode("utf-8", "replace").strip().splitlines()
        return printable(lines[-1])[:300] if lines else ""

    def close(self) -> None:
        """Close the pipe, unless its reader still waits."""
        self._thread.join(1)
        if not self._thread.is_alive() and self._outlet >= 0:
            os.close(self._outlet)
            self._outlet = -1


def _read_status(descriptor: int) -> str:
    if descriptor < 0:
        return ""
    os.set_blocking(descriptor, False)
    with suppress(BlockingIOError):
        return os.read(descriptor, 256).decode("ascii", "replace")
    return ""


def _size(count: int) -> str:
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB")):
        if count >= unit:
            return f"{count / unit:.4g} {name}"
    return f"{count:,} bytes"


def _environment(home: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
    return kept | {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": home,
        "TMPDIR": home,
        "USER": "nobody",
        "LOGNAME": "nobody",
        "NUMBA_CACHE_DIR": f"{home}/numba",
    }


def _free_user() -> int:
    """Return a user number that nobody on this machine has."""
    while True:
        user = _FREE_USERS[secrets.randbelow(len(_FREE_USERS))]
        try:
            pwd.getpwuid(user)
        except KeyError:
            return user
