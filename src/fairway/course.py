"""The run folder: the only place that knows file names; what is done, what is stale.

Every file is written under a temporary name, flushed and renamed, so that a kill at any moment
leaves either the old file or the new one. docs/course.md says which change makes what stale.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import hashlib
import json
import operator
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from fairway import foreign
from fairway.errors import BadInput
from fairway.recipe import Recipe, dumps, load
from fairway.results import VERBS, Result

R = TypeVar("R", bound=Result)


@dataclass(frozen=True)
class Stage:
    """What a verb's result depends on. Raise `version` when its code changes what it makes."""

    sections: tuple[str, ...]  # of the recipe, or one key of a section
    after: str | None
    version: int


STAGES: dict[str, Stage] = {
    "data": Stage(("data",), None, 1),
    "train": Stage(("model", "optim", "train"), "data", 2),
    "pack": Stage(("pack",), "train", 2),
    "score": Stage(("adapt", "score", "prove.lanes"), "pack", 4),
    "prove": Stage(("adapt", "prove"), "pack", 3),
    "verify": Stage((), "prove", 1),
}


def downstream(verb: str) -> list[str]:
    """`verb` and every verb whose result depends on it, in the order of the course."""
    found = [verb]
    for name, stage in STAGES.items():  # a stage comes after the one it depends on
        if stage.after in found:
            found.append(name)
    return found


class Run:
    """Paths and results of one run folder. Creating it touches no file."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.recipe = self.path / "recipe.toml"
        self.env = self.path / "env.json"
        self.metrics = self.path / "metrics.jsonl"
        self.tensorboard = self.path / "tensorboard"
        self.clock = self.path / "clock.json"
        self.checkpoint = self.path / "checkpoint.safetensors"
        self.weights = self.path / "weights.safetensors"
        self.calibration = self.path / "calibration.safetensors"
        self.artifact = self.path / "model.fairway"
        self.proof = self.path / "proof"
        self.proof_file = self.proof / "val.fwp"
        self.prove_checkpoint = self.path / "prove.partial"
        self.prove_learned = self.path / "prove.learned"  # what an adapting network has become
        self.score_learned = self.path / "score.learned"
        self.score_documents = self.path / "score_documents.npy"
        self.report = self.path / "report.html"
        self.data_root = self.path.parent / "data"

    def about(self, text: Path) -> Run:
        """Where results about another text than the validation split go: a folder inside."""
        return Run(self.path / "texts" / text.stem)

    def data_folder(self, result: Result) -> Path:
        """Folder of the shards that `result`, a DataResult, names."""
        return self.path / str(result.folder)  # type: ignore[attr-defined]

    def load(self, sets: Sequence[str] = ()) -> Recipe:
        """The recipe in the folder, with overrides. Raises BadInput."""
        if not self.recipe.is_file():
            raise BadInput(
                f"{self.path} is no run folder (it has no recipe.toml): fairway play makes one"
            )
        return load(str(self.recipe), sets)

    def create(self, recipe: Recipe) -> None:
        """Make the folder and write the resolved recipe. Raises BadInput."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_atomic(self.recipe, dumps(recipe).encode())
        except OSError as error:
            raise BadInput(
                f"cannot write to the run folder {self.path}: {error.strerror}; "
                "choose another with --out"
            ) from None

    def stamp(
        self, verb: str, recipe: Recipe, source: str = "", before: Result | None = None
    ) -> str:
        """What `verb`'s result depends on, as `part=hash` words: code, sections, upstream result.

        `source` is the fingerprint of the documents, for the verb `data`; `before` the upstream
        result where it is not this run's.
        Raises BadInput when the verb before it has no result yet.
        """
        stage = STAGES[verb]
        parts, tree = {"code": str(stage.version)}, recipe.model_dump(mode="json")
        for name in stage.sections:
            value: Any = functools.reduce(operator.getitem, name.split("."), tree)
            parts[name] = short_hash(json.dumps(value))
        if stage.after:
            parts[stage.after] = short_hash((before or self.need(stage.after)).stamp)
        else:
            parts["documents"] = short_hash(source)
        return " ".join(f"{part}={value}" for part, value in parts.items())

    def result(self, verb: str) -> Result | None:
        """Return the stage's result, or None when there is none that can be read."""
        try:
            tree = foreign.read_json(self.path / f"{verb}.json", "the result")
            return VERBS[verb].model_validate(tree)
        except (foreign.Missing, foreign.Malformed, ValidationError):
            return None

    def need(self, verb: str) -> Result:
        """The verb's result. Raises BadInput when there is none."""
        result = self.result(verb)
        if result is None:
            advice = f"run fairway {verb} on it first"
            if verb in ("data", "train"):  # which take a recipe
                advice = f"fairway play {self.recipe} --out {self.path} makes it"
            raise BadInput(f"{self.path} has no finished '{verb}' yet: {advice}")
        return result

    def fresh(self, verb: str, stamp: str, kind: type[R]) -> R | None:
        """The finished result when its inputs have not changed, else None."""
        result = self.result(verb)
        return result if isinstance(result, kind) and result.stamp == stamp else None

    def finish(self, verb: str, result: Result) -> None:
        write_atomic(
            self.path / f"{verb}.json", (json.dumps(result.tree(), indent=2) + "\n").encode()
        )

    def forget(self, verb: str) -> None:
        """Drop a finished result and what it was made of, so that the verb runs again."""
        result = self.result(verb)
        (self.path / f"{verb}.json").unlink(missing_ok=True)
        if verb == "data" and result is not None:
            folder = self.data_folder(result).resolve()
            if folder.parent == self.data_root.resolve():
                shutil.rmtree(folder, ignore_errors=True)
        if verb == "train":
            self.checkpoint.unlink(missing_ok=True)
        if verb == "prove":
            self.prove_checkpoint.unlink(missing_ok=True)
            self.prove_learned.unlink(missing_ok=True)
        if verb == "score":
            self.score_learned.unlink(missing_ok=True)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder against a second command. Raises BadInput with its process id."""
        with lock_folder(self.path):
            yield


def stamp_changes(before: str, after: str) -> list[str]:
    """Names of the parts in which two stamps of one verb differ."""
    old, new = (dict(word.partition("=")[::2] for word in s.split()) for s in (before, after))
    return [part for part in new if new[part] != old.get(part)]


def short_hash(text: str) -> str:
    """48 bits of SHA-256 in hexadecimal: for names and stamps."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:12]


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """An advisory lock that a killed process releases by itself. Raises BadInput."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        flags |= os.O_NOFOLLOW | os.O_NONBLOCK  # in a foreign folder it may be a link or a pipe
        number = os.open(folder / ".lock", flags, 0o666)
        if not stat.S_ISREG(os.fstat(number).st_mode):
            os.close(number)
            raise OSError(errno.EINVAL, "its .lock is no file")
        handle = os.fdopen(number, "r+", errors="replace")
    except OSError as error:
        raise BadInput(
            f"cannot write to {folder}: {error.strerror}; choose another with --out"
        ) from None
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            handle.seek(0)
            raise BadInput(
                f"{folder} is in use by process {handle.read().strip() or 'unknown'}: "
                "wait for it or stop it"
            ) from None
        handle.seek(0)
        handle.truncate()
        handle.write(str(os.getpid()))
        handle.flush()
        yield


def write_atomic(path: Path, data: bytes) -> None:
    """Write under a temporary name, flush to disk, rename. Raises OSError."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(data)


@contextmanager
def replacing(
    path: Path, like: os.stat_result | None = None, follow: bool = False
) -> Iterator[Path]:
    """Yield a temporary file beside `path`; on success it is flushed and renamed, else removed.

    It is there from the start, so that a folder which takes no file is found before the work. The
    mode stays that of the file replaced; with `like`, the output gets mode and time of that file,
    and only we can read it meanwhile. A link is replaced itself, so that no foreign folder leads
    us to other files; with `follow`, the file behind it is. Raises OSError that names `path`.
    """
    try:
        if follow:
            path = Path(os.path.realpath(path))
        mode = _mode(path)
        temporary = path.parent / f".{short_hash(path.name)}{secrets.token_hex(4)}.tmp"
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if like else 0o666))
        try:
            if mode is not None and not like:
                os.chmod(temporary, mode)
            yield temporary
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            if like:
                os.utime(temporary, ns=(like.st_atime_ns, like.st_mtime_ns))
                os.chmod(temporary, stat.S_IMODE(like.st_mode) & 0o777)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        if error.filename is None or os.fsdecode(error.filename).endswith(".tmp"):
            error.filename, error.filename2 = str(path), None
        raise


def _mode(path: Path) -> int | None:
    """Permissions of the file that stands there; None where none does. Raises IsADirectoryError."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
    return stat.S_IMODE(mode) & 0o777 if stat.S_ISREG(mode) else None


class _Tried(Exception):
    """`check_writable` has seen enough."""


def check_writable(path: Path) -> None:
    """Find out before the work that `path` can be written later. Raises OSError."""
    with suppress(_Tried), replacing(path, follow=True):
        raise _Tried


@functools.cache
def code_sha256() -> str:
    """Return the SHA-256 of all source files of the package and their names, in hexadecimal."""
    root, digest = Path(__file__).resolve().parent, hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(f"{file.relative_to(root).as_posix()} {sha256_file(file)}\n".encode())
    return digest.hexdigest()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a regular file. Raises BadInput."""
    with foreign.open_file(path, "the file") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
