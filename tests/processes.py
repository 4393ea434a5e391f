"""Start commands in processes of their own without importing everything again.

A test needs another process to kill it, to stop it by Ctrl-C, or to let two ranks work together.
It seldom needs fresh imports, which cost two seconds of processor time. So one template process
imports all of Fairway, once for each pytest worker, and forks itself for each command.
"""

import multiprocessing
import os
import pkgutil
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import fairway

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        module.name
        for module in pkgutil.walk_packages(fairway.__path__, "fairway.")
        if not module.name.endswith("__main__")
    ]
)


class Forked:
    """One running function or command; its standard error is kept."""

    def __init__(self, work: Callable[..., object], *arguments: object, **env: str) -> None:
        self.store: object = None
        descriptor, self._err = tempfile.mkstemp(prefix="stderr-")
        os.close(descriptor)
        weakref.finalize(self, os.unlink, self._err)
        whole = {**os.environ, "OMP_NUM_THREADS": "1", **env}
        self._process = _CONTEXT.Process(
            target=_run, args=(whole, self._err, work, arguments), daemon=True
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
    def stderr(self) -> str:
        return Path(self._err).read_text("utf-8")


def command(*words: object, **env: str) -> Forked:
    """Start `fairway WORDS`."""
    return Forked(_command, *map(str, words), **env)


def ranks(*words: object, count: int = 2) -> list[Forked]:
    """Start `fairway WORDS` as that many ranks, with what torchrun sets and the store it keeps."""
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {
        "WORLD_SIZE": str(count), "GROUP_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0", "TORCHELASTIC_RUN_ID": "tests",
    }  # fmt: skip
    started = [command(*words, **shared, RANK=str(r), LOCAL_RANK=str(r)) for r in range(count)]
    for process in started:
        process.store = store  # lives as long as they do
    return started


def until(ready: Callable[[], object], process: Forked | subprocess.Popen[str]) -> None:
    """Wait until something is so or the process has ended; pytest's timeout is the limit."""
    while not ready() and process.poll() is None:
        time.sleep(0.005)


def _run(env: dict[str, str], err: str, work: Callable[..., object], arguments: object) -> None:
    os.environ.clear()
    os.environ.update(env)
    opened = os.open(err, os.O_WRONLY | os.O_APPEND)
    os.dup2(opened, 2)
    os.close(opened)
    sys.stderr.reconfigure(line_buffering=True)  # it is that of the template
    sys.exit(work(*arguments))


def _command(*words: str) -> object:
    from fairway.cli.main import main

    sys.argv = ["fairway", *words]
    return main()
