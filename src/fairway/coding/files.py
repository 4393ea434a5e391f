"""Which files compress and decompress read and write: names, pipes, what is there already.

As zstd and xz do: FILE becomes FILE.fwz and back, the input stays; - is standard input, and what
comes from it goes to standard output; no file is overwritten without --force. The output gets the
input's mode and time. Anything but a folder can be read; pipes and devices are written into.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from fairway import console
from fairway.coding.fwz_chunks import Report
from fairway.errors import BadInput
from fairway.formats.artifact import MAGIC
from fairway.io import foreign
from fairway.io.atomic import check_writable, replacing
from fairway.io.binary import Source, Target

SUFFIX = ".fwz"
PROOF_SUFFIX = ".fwp"  # a proof is decompressed, too
_PIPE = Path("-")

Work = Callable[[Path, Source, Target, Report], None]


@dataclass(frozen=True)
class Job:
    source: Path
    target: Path

    @property
    def is_piped(self) -> bool:
        """Whether its bytes go to standard output."""
        return self.target == _PIPE

    def remove_source(self) -> None:
        """Remove the source, as --rm asks for, where what came of it lies in a file."""
        if self.target.is_file():
            self.source.unlink()


def check_files(files: list[Path], with_artifacts: bool) -> None:
    """Refuse files that are named twice, and artifacts unless `-m` has named another.

    Raises BadInput.
    """
    seen: set[Path] = set()
    for file in files:
        real = file if file == _PIPE else file.resolve()
        if real in seen:
            raise BadInput(f"{file} is named twice: name every file once")
        seen.add(real)
        if not with_artifacts and _is_artifact(file):
            raise BadInput(
                f"{file} is an artifact: name the model with -m MODEL, and only the files after it"
            )


def _is_artifact(file: Path) -> bool:
    """Return whether a regular file begins as an artifact does."""
    try:
        with foreign.open_file(file, "the artifact") as opened:
            return opened.read(len(MAGIC)) == MAGIC
    except (BadInput, OSError):
        return False


def plan_jobs(
    files: list[Path], output: Path | None, to_stdout: bool, force: bool, decompress: bool
) -> list[Job]:
    """Decide where each file goes. Raises BadInput before anything has been written."""
    if output is not None and len(files) > 1:
        raise BadInput(
            f"-o {output} is one file, and there are {len(files)} to write: leave it out"
        )
    jobs = []
    for file in files:
        target = output
        if to_stdout or (output is None and file == _PIPE):
            target = _PIPE
        elif output is None:
            target = _renamed(file, decompress)
        assert target is not None
        _check_source(file)
        _check_target(target, file, force)
        jobs.append(Job(file, target))
    if sum(job.source == _PIPE for job in jobs) > 1:
        raise BadInput("- stands more than once: standard input can be read once")
    if any(job.is_piped for job in jobs):
        if sys.stdout is None:
            raise BadInput("standard output is closed: leave it open, or name a file with -o FILE")
        if sys.stdout.isatty() and not decompress:
            raise BadInput("compressed bytes would go to the terminal: name a file with -o FILE")
    return jobs


def _check_source(file: Path) -> None:
    """Raise BadInput where there is nothing to read; nothing is opened yet."""
    if file == _PIPE:
        if sys.stdin is None:
            raise BadInput("standard input is closed: give it something to read, or name a file")
        if sys.stdin.isatty():
            raise BadInput("standard input is a terminal: name a file, or give it a pipe")
        return
    try:
        mode = os.stat(file).st_mode
    except FileNotFoundError:
        what = "it is a broken link" if file.is_symlink() else "there is no such file"
        raise BadInput(f"cannot read {file}: {what}") from None
    except OSError as error:
        raise BadInput(f"cannot read {file}: {error.strerror}") from None
    if stat.S_ISDIR(mode):
        raise BadInput(f"cannot read {file}: it is a folder; pack it with tar first")
    if not os.access(file, os.R_OK):
        raise BadInput(f"cannot read {file}: no permission")


def _check_target(target: Path, source: Path, force: bool) -> None:
    """Raise BadInput, or OSError that names it, where it cannot or must not be written."""
    if target == _PIPE:
        return
    try:
        there = os.stat(target)
    except FileNotFoundError:
        if target.is_symlink():
            raise BadInput(f"{target} is a broken link: remove it first") from None
    else:
        if source != _PIPE and os.path.samestat(there, os.stat(source)):
            raise BadInput(f"{target} would overwrite its own input: -o FILE writes another")
        if stat.S_ISDIR(there.st_mode):
            raise BadInput(f"{target} is a folder: give the name of a file in it with -o FILE")
        if stat.S_ISSOCK(there.st_mode):
            raise BadInput(f"{target} is a socket, which cannot be opened for writing")
        if stat.S_ISFIFO(there.st_mode) or stat.S_ISCHR(there.st_mode):
            return  # writing into a pipe, a terminal or /dev/null overwrites nothing
        if not force:
            raise BadInput(f"{target} exists: -f overwrites it, -o FILE writes another")
        if not stat.S_ISREG(there.st_mode):
            return
    check_writable(target)


def _renamed(file: Path, decompress: bool) -> Path:
    if not decompress:
        return file.with_name(file.name + SUFFIX)
    if file.suffix not in (SUFFIX, PROOF_SUFFIX):
        raise BadInput(f"{file} does not end in {SUFFIX}: say where to write with -o FILE")
    return file.with_suffix("")


def run(job: Job, artifact: Path, work: Work, command: str) -> tuple[int, int]:
    """Do the work on one file, with progress. Raises BadInput, OSError."""
    with (
        _reading(job.source) as source,
        _writing(job.target, like := _regular(source)) as target,
        console.track(command, like.st_size if like else 0, "bytes") as task,
    ):
        count = _Counting(source, job.source), _Counting(target, job.target)

        def report(done: int) -> None:
            # Of a compressed file, what has been read is known; how much text it holds is not.
            task.update(count[0].count if command == "decompress" else done)

        work(artifact, *count, report)
        count[1].flush()
    read, written = (counting.count for counting in count)
    ratio = f" ({written / read:.1%})" if read else ""
    console.say(f"{job.source}: {read:,} bytes → {written:,}{ratio}, {job.target}")
    return read, written


class _Counting:
    """A binary file that counts what passes, and whose errors have its name."""

    def __init__(self, file: BinaryIO, name: Path) -> None:
        self._file, self._name, self.count = file, name, 0

    def read(self, size: int) -> bytes:
        with self._named("standard input"):
            data = self._file.read(size)
        self.count += len(data)
        return data

    def write(self, data: bytes) -> int:
        self.count += len(data)
        with self._named("standard output"):
            return self._file.write(data)

    def flush(self) -> None:
        with self._named("standard output"):
            self._file.flush()

    @contextmanager
    def _named(self, stream: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            error.filename = stream if self._name == _PIPE else str(self._name)
            raise


def _regular(file: BinaryIO) -> os.stat_result | None:
    """Return what the system knows of a regular file; None of anything else."""
    try:
        found = os.fstat(file.fileno())
    except OSError:  # no file of the system's
        return None
    return found if stat.S_ISREG(found.st_mode) else None


@contextmanager
def _reading(file: Path) -> Iterator[BinaryIO]:
    if file == _PIPE:
        yield sys.stdin.buffer
        return
    with foreign.open_pipe(file, "the file") as opened:
        yield opened


@contextmanager
def _writing(file: Path, like: os.stat_result | None) -> Iterator[BinaryIO]:
    """Open the target; a file is written beside its place and moved there at the end."""
    if file == _PIPE:
        yield sys.stdout.buffer
    elif file.exists() and not file.is_file():
        sink = foreign.open_sink(file)
        try:
            yield sink  # whoever writes flushes
        finally:
            with suppress(OSError):  # it has been raised before, with the name of the file
                sink.close()
    else:
        with replacing(file, like, follow=True) as temporary, open(temporary, "wb") as opened:
            yield opened
