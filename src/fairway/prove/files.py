"""Which files compress and decompress read and write: names, pipes, what is there already.

As zstd and xz do: FILE becomes FILE.fwz and back, the input stays; - is standard input, and what
comes from it goes to standard output; nothing is overwritten without --force.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from fairway import console
from fairway.course import replacing
from fairway.errors import BadInput
from fairway.pack.artifact import MAGIC
from fairway.prove.codec import Source
from fairway.prove.compress import Target
from fairway.prove.pieces import Report
from fairway.results import FileResult

SUFFIX = ".fwz"
_PIPE = Path("-")
_NOWHERE = Path("/dev/null")

Work = Callable[[Path, Source, Target, Report], None]


@dataclass(frozen=True)
class Job:
    source: Path
    target: Path

    @property
    def is_piped(self) -> bool:
        """Whether its bytes go to standard output."""
        return self.target == _PIPE


def artifact_of(
    files: list[Path], model: Path | None, from_environment: bool = False
) -> tuple[Path, list[Path]]:
    """The artifact and the files.

    model: what -m names, and then every file is compressed, artifacts too; or what FAIRWAY_MODEL
    names (`from_environment`), which yields to an artifact that stands first. Without either the
    artifact stands first. Raises BadInput when no artifact is named.
    """
    artifact, sources = model, files
    if len(files) > 1 and (model is None or (from_environment and _is_artifact(files[0]))):
        if model is not None:
            console.say(f"the artifact is {files[0]}, which stands first, not FAIRWAY_MODEL's")
        artifact, sources = files[0], files[1:]
    if artifact is None:
        raise BadInput(
            "no artifact: name it first (ARTIFACT FILE), or set FAIRWAY_MODEL to a model.fairway"
        )
    seen: set[Path] = set()
    for file in sources:
        real = file if file == _PIPE else file.resolve()
        if real in seen:
            raise BadInput(f"{file} is named twice: name every file once")
        seen.add(real)
    return artifact, sources


def _is_artifact(file: Path) -> bool:
    try:
        with open(file, "rb") as opened:
            return opened.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def plan(
    files: list[Path], output: Path | None, to_stdout: bool, force: bool, decompress: bool
) -> list[Job]:
    """Where each file goes. Raises BadInput before anything has been written."""
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
        if file != _PIPE and not file.is_file():
            raise BadInput(f"cannot read {file}: there is no such file")
        if target not in (_PIPE, _NOWHERE) and target.exists() and not force:
            raise BadInput(f"{target} exists: -f overwrites it, -o FILE writes another")
        jobs.append(Job(file, target))
    if any(job.is_piped for job in jobs) and sys.stdout.isatty() and not decompress:
        raise BadInput("compressed bytes would go to the terminal: name a file with -o FILE")
    return jobs


def _renamed(file: Path, decompress: bool) -> Path:
    if not decompress:
        return file.with_name(file.name + SUFFIX)
    if file.suffix != SUFFIX:
        raise BadInput(f"{file} does not end in {SUFFIX}: say where to write with -o FILE")
    return file.with_suffix("")


def run(job: Job, artifact: Path, work: Work, verb: str) -> FileResult:
    """Do the work on one file, with progress. Raises BadInput, OSError."""
    total = job.source.stat().st_size if job.source != _PIPE else 0
    with (
        _reading(job.source) as source,
        _writing(job.target) as target,
        console.track(verb, total, "bytes") as task,
    ):
        count = _Counting(source), _Counting(target)

        def report(done: int) -> None:
            # Of a compressed file, what has been read is known; how much text it holds is not.
            task.update(count[0].count if verb == "decompress" else done)

        work(artifact, *count, report)
        target.flush()
    read, written = (counting.count for counting in count)
    console.say(f"{job.source}: {read:,} bytes, {written:,} written to {job.target}")
    return FileResult(path=str(job.target), input_bytes=read, output_bytes=written)


class _Counting:
    """A binary file that counts what passes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.count = file, 0

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self.count += len(data)
        return data

    def write(self, data: bytes) -> int:
        self.count += len(data)
        return self._file.write(data)


@contextmanager
def _reading(file: Path) -> Iterator[BinaryIO]:
    if file == _PIPE:
        yield sys.stdin.buffer
        return
    try:
        opened = open(file, "rb")  # noqa: SIM115
    except OSError as error:
        raise BadInput(f"cannot read {file}: {error.strerror}") from None
    with opened:
        yield opened


@contextmanager
def _writing(file: Path) -> Iterator[BinaryIO]:
    if file == _PIPE:
        yield sys.stdout.buffer
    elif file == _NOWHERE:
        with open(file, "wb") as nowhere:
            yield nowhere
    else:
        with replacing(file) as temporary, open(temporary, "wb") as opened:
            yield opened
