"""Start commands in processes of their own without importing everything again.

A test needs another process to kill it, to stop it by Ctrl-C, or to let two ranks work together.
It seldom needs fresh imports, which cost two seconds of processor time. So one template process
imports all of Fairway, once for each pytest worker, and forks itself for each command.
"""

import importlib
import multiprocessing
import os
import pkgutil
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import fairway

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        *(
            module.name
            for module in pkgutil.walk_packages(fairway.__path__, "fairway.")
            if not module.name.endswith("__main__")
        ),
        "warm_kernels",
    ]
)


class Forked:
    """One running function or command; what it writes to its streams is kept."""

    def __init__(
        self, work: Callable[..., object], *arguments: object, data: bytes = b"", **env: str
    ) -> None:
        self.store: object = None
        folder = tempfile.mkdtemp(prefix="streams-")
        weakref.finalize(self, shutil.rmtree, folder)
        self._streams = [Path(folder, name) for name in ("in", "out", "err")]
        self._streams[0].write_bytes(data)
        self._process = _CONTEXT.Process(
            target=_run, args=({**os.environ, **env}, self._streams, work, arguments), daemon=True
        )
        self._process.start()
        self.pid = self._process.pid or 0

    def poll(self) -> int | None:
        """Return the exit code, negative after a signal; None: it still runs."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def wait(self) -> int:
        """Return the exit code when the process has ended; pytest's timeout is the limit."""
        self._process.join()
        assert self._process.exitcode is not None
        return self._process.exitcode

    @property
    def stdout(self) -> bytes:
        return self._streams[1].read_bytes()

    @property
    def stderr(self) -> str:
        return self._streams[2].read_text("utf-8")


def command(*words: object, data: bytes = b"", **env: str) -> Forked:
    """Start `fairway WORDS` with `data` as its standard input."""
    return Forked(_command, *map(str, words), data=data, **env)


def script(file: Path, *words: object, **env: str) -> Forked:
    """Start `python FILE WORDS`."""
    return Forked(_script, str(file), *map(str, words), **env)


class Modules:
    """Stands for the module `subprocess` where Fairway starts `python -P -m MODULE WORDS`.

    What starts is a process of its own as before, in its folder and with its environment. What it
    does not do is to import everything again.
    """

    DEVNULL, PIPE = subprocess.DEVNULL, subprocess.PIPE

    @staticmethod
    def run(
        words: list[str],
        env: dict[str, str],
        cwd: Path | None = None,
        stdout: int | TextIO = PIPE,
        **others: object,
    ) -> subprocess.CompletedProcess[bytes]:
        """Wait for the process; stderr goes where stdout goes, or else to ours."""
        assert words[:3] == [sys.executable, "-P", "-m"]
        process = Forked(_module, str(cwd or Path.cwd()), *words[3:], **env)
        code = process.wait()
        log = sys.stderr if isinstance(stdout, int) else stdout
        log.write(process.stderr)
        return subprocess.CompletedProcess(words, code, process.stdout)


def ranks(
    *arguments: object, work: Callable[..., object] | None = None, count: int = 2
) -> list[Forked]:
    """Start `fairway ARGUMENTS`, or a function, as that many ranks.

    They have the variables that torchrun sets, and the store that it keeps.
    """
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {
        "WORLD_SIZE": str(count), "GROUP_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0", "TORCHELASTIC_RUN_ID": "tests",
    }  # fmt: skip
    start = partial(Forked, work) if work else command
    started = [start(*arguments, **shared, RANK=str(r), LOCAL_RANK=str(r)) for r in range(count)]
    for process in started:
        process.store = store  # lives as long as they do
    return started


def until(ready: Callable[[], object], process: Forked | subprocess.Popen[str]) -> None:
    """Wait until something is so or the process has ended; pytest's timeout is the limit."""
    while not ready() and process.poll() is None:
        time.sleep(0.005)


def _run(
    env: dict[str, str], streams: list[Path], work: Callable[..., object], arguments: Iterable[Any]
) -> None:
    os.environ.clear()
    os.environ.update(env)
    for number, file in enumerate(streams):
        opened = os.open(file, os.O_RDWR | os.O_CREAT)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr.reconfigure(line_buffering=True)  # it is that of the template, as is stdout
    sys.exit(work(*arguments))


def _module(cwd: str, name: str, *arguments: str) -> object:
    os.chdir(cwd)
    if name == "fairway":
        return _command(*arguments)
    return importlib.import_module(name).main(list(arguments))


def _script(file: str, *words: str) -> None:
    sys.argv = [file, *words]
    sys.path.insert(0, str(Path(file).parent))
    runpy.run_path(file, run_name="__main__")


def _command(*words: str) -> object:
    from fairway.cli.main import main

    sys.argv = ["fairway", *words]
    return main()
