"""Write files that are whole or absent, whatever is killed; lock folders; hash files.

Every file is written under a temporary name, flushed and renamed, so that a kill at any moment
leaves either the old file or the new one.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fairway.errors import BadInput
from fairway.io import foreign


def short_hash(text: str) -> str:
    """Return 48 bits of SHA-256 in hexadecimal, for names and stamps."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:12]


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold an advisory lock, which a killed process releases by itself. Raises BadInput."""
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
    """Return the permissions of a file, or None without one. Raises IsADirectoryError."""
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
    root, digest = Path(__file__).resolve().parents[1], hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(f"{file.relative_to(root).as_posix()} {sha256_file(file)}\n".encode())
    return digest.hexdigest()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a regular file. Raises BadInput."""
    with foreign.open_file(path, "the file") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
