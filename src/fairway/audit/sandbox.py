"""Foreign code in a process of its own, with limits on time, memory, files and network.

The process is a guard against accidents and plain tricks, not against an attacker: docs/audit.md
says what it keeps out. Messages are a line of JSON and raw arrays; nothing is unpickled.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import signal
import struct
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from fairway.audit import scorer
from fairway.audit.scorer import ARRAYS, NUMBERS, Charges, Floats, Tokens
from fairway.errors import BadInput

START_S = 120.0  # a scorer may import and build for so long
_MAX_HEAD_BYTES = 1 << 16
_MAX_ARRAY_BYTES = 1 << 32
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Limits:
    call_s: float = 600.0  # one call of the scorer
    memory_bytes: int = 16 << 30  # address space
    file_bytes: int = 1 << 30  # each file that it writes
    files: int = 256  # open at once


class Hung(BadInput):
    """A call that took longer than it may."""


class Child:
    """A scorer in a process of its own. Raises BadInput, one sentence for each way to fail."""

    def __init__(
        self, name: str, hidden: Iterable[Path], readable: Iterable[Path], limits: Limits
    ) -> None:
        """name: FILE.py:FUNCTION. It must not read `hidden`, and may read `readable` too."""
        self._given = (name, list(hidden), list(readable), limits)
        self._limits, self._name = limits, name
        file, function = scorer.split(name)
        self._folder = tempfile.TemporaryDirectory(prefix="fairway-audit-")
        self._errors = open(Path(self._folder.name) / ".stderr", "w+b")  # noqa: SIM115
        order = {
            "name": f"{file}:{function}",  # the process begins in another folder
            "hidden": [str(Path(p).resolve()) for p in hidden],
            "readable": [str(Path(p).resolve()) for p in readable],
            "folder": self._folder.name,
            "limits": [limits.memory_bytes, limits.file_bytes, limits.files],
        }
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("enter.py")), json.dumps(order)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=self._folder.name,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            start_new_session=True,
        )
        try:
            head, _ = self._answer(START_S, "starting")
        except BadInput:
            self.close()
            raise
        self.has_distributions = bool(head["distributions"])
        self.network_cut, self.files_cut = bool(head["network_cut"]), bool(head["files_cut"])

    def charges(self, tokens: Tokens) -> Charges:
        head, arrays = self._call("charges", tokens)
        numbers = {name: head["numbers"][name] for name in NUMBERS}
        given: dict[str, Any] = arrays | numbers
        return scorer.checked(Charges(**given), len(tokens))

    def distributions(self, tokens: Tokens) -> Floats:
        _, arrays = self._call("distributions", tokens)
        return scorer.checked_rows(arrays["rows"], len(tokens))

    def fresh(self) -> Child:
        return Child(*self._given)

    def close(self) -> None:
        """End the process and all that it started."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            if pipe:
                pipe.close()
        self._folder.cleanup()

    def _call(self, what: str, tokens: Tokens) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        assert self._process.stdin is not None
        doing = f"scoring {len(tokens):,} tokens"
        try:
            send(self._process.stdin, {"call": what}, {"tokens": tokens})
        except (BrokenPipeError, ValueError):
            raise BadInput(self._obituary(doing)) from None
        return self._answer(self._limits.call_s, doing)

    def _answer(self, limit_s: float, doing: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        assert self._process.stdout is not None
        try:
            head, arrays = receive(_Timed(self._process.stdout.fileno(), limit_s))
        except TimeoutError:
            self.close()
            raise Hung(
                f"the scorer {self._name} was {doing} and did not end within {limit_s:.0f} s: "
                "give it a shorter text, or more time with --minutes"
            ) from None
        except (EOFError, ValueError, KeyError, TypeError):
            raise BadInput(self._obituary(doing)) from None
        if "error" in head:
            raise BadInput(f"the scorer {self._name} failed {doing}: {str(head['error'])[:500]}")
        return head, arrays

    def _obituary(self, doing: str) -> str:
        try:
            code = self._process.wait(5)
        except subprocess.TimeoutExpired:
            return f"the scorer {self._name} was {doing} and answered nonsense"
        how = f"ended with exit code {code}" if code >= 0 else f"died of {_signal_name(-code)}"
        self._errors.seek(0)
        lines = self._errors.read().decode("utf-8", "replace").strip().splitlines()
        last = f": {lines[-1][:300]}" if lines else ""
        return f"the scorer {self._name} {how} while {doing}{last}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class _Timed:
    """Reads from a descriptor until a deadline. Raises TimeoutError, EOFError."""

    def __init__(self, descriptor: int, limit_s: float) -> None:
        self._descriptor, self._until = descriptor, time.monotonic() + limit_s

    def read(self, size: int) -> bytes:
        parts = []
        while size:
            left = self._until - time.monotonic()
            if left <= 0 or not select.select([self._descriptor], [], [], left)[0]:
                raise TimeoutError
            part = os.read(self._descriptor, min(size, _CHUNK_BYTES))
            if not part:
                raise EOFError
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


# Messages --------------------------------------------------------------------------------------


def send(file: IO[bytes], head: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
    """A length, a JSON head with dtypes and shapes, then the arrays' bytes."""
    layout = [[k, a.dtype.str, list(a.shape)] for k, a in arrays.items()]
    text = json.dumps(head | {"arrays": layout}).encode()
    file.write(struct.pack("<I", len(text)) + text)
    for array in arrays.values():
        file.write(np.ascontiguousarray(array).tobytes())
    file.flush()


def receive(file: Any) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Inverse of `send`. Raises EOFError, ValueError."""
    (size,) = struct.unpack("<I", file.read(4))
    if size > _MAX_HEAD_BYTES:
        raise ValueError("the head is too long")
    head = json.loads(file.read(size))
    arrays = {}
    for name, dtype, shape in head["arrays"]:
        kind = np.dtype(dtype)
        count = int(np.prod(shape, dtype=object))
        if kind.kind not in "iufb" or count * kind.itemsize > _MAX_ARRAY_BYTES:
            raise ValueError("an array of another kind")
        arrays[str(name)] = np.frombuffer(file.read(count * kind.itemsize), kind).reshape(shape)
    return head, arrays


def answer_of(found: Charges) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Charges as `send` takes them."""
    arrays = {k: getattr(found, k) for k in ARRAYS if getattr(found, k) is not None}
    return {"numbers": {k: getattr(found, k) for k in NUMBERS}}, arrays


# Inside the child ------------------------------------------------------------------------------

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # landlock's system calls
_LIST_RIGHT = 1 << 3  # read folders
_READ_RIGHTS = 1 << 0 | 1 << 2 | _LIST_RIGHT  # execute and read files
_FILE_RIGHTS = 1 << 0 | 1 << 1 | 1 << 2  # execute, write, read: what a rule on a file may name
_ALL_RIGHTS = (1 << 13) - 1  # of landlock's first version
_NO_NEW_PRIVILEGES = 38


def limit(memory_bytes: int, file_bytes: int, files: int) -> None:
    """Bound what this process may take."""
    for what, most in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_NOFILE, files),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(what)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))


def cut_files(readable: Iterable[Path], writable: Path, hidden: Iterable[Path]) -> bool:
    """From here on this process reads only what is below `readable`, without `hidden`.

    By Landlock (Linux 5.13), which needs no privileges. False where the system has none.
    """
    if sys.platform != "linux":
        return False
    system = ctypes.CDLL(None, use_errno=True)
    rights = struct.pack("<Q", _ALL_RIGHTS)
    ruleset = system.syscall(_CREATE_RULESET, rights, len(rights), 0)
    if ruleset < 0:
        return False
    allowed: dict[Path, int] = {}
    for root in readable:
        for path, right in _without(root, list(hidden)):
            allowed[path] = allowed.get(path, 0) | right
    for path, right in {**allowed, writable: _ALL_RIGHTS, Path("/dev"): _ALL_RIGHTS}.items():
        if path.exists():
            handle = os.open(path, os.O_PATH)  # type: ignore[attr-defined,unused-ignore]
            right &= _ALL_RIGHTS if path.is_dir() else _FILE_RIGHTS
            system.syscall(_ADD_RULE, ruleset, 1, struct.pack("<Qi", right, handle), 0)
            os.close(handle)
    system.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    return bool(system.syscall(_RESTRICT_SELF, ruleset, 0) == 0)


def _without(root: Path, hidden: list[Path]) -> Iterator[tuple[Path, int]]:
    """`root`, or what is in it where one of `hidden` is below it, with the rights to each."""
    if root in hidden:
        return
    if any(path.is_relative_to(root) for path in hidden):
        yield root, _LIST_RIGHT  # below it, too: without it nothing beside can be imported
        for entry in root.iterdir():
            yield from _without(entry, hidden)
    else:
        yield root, _READ_RIGHTS


def system_folders() -> list[Path]:
    """What any Python program reads: libraries, the interpreter, devices' descriptions."""
    paths = [sys.prefix, sys.base_prefix, sys.exec_prefix, *sysconfig.get_paths().values()]
    paths += [p for p in sys.path if p]
    paths += ["/usr", "/lib", "/lib64", "/bin", "/etc", "/proc", "/sys", "/run", "/opt"]
    return [Path(p).resolve() for p in dict.fromkeys(paths)]
