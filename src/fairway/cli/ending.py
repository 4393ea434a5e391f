"""How a command ends: one rule from exceptions to exit codes (docs/commands.md)."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from fairway import __version__
from fairway.errors import BadInput, Interrupted

FAULT = 3
_ELSEWHERE = "choose another place with --out or -o"
_REFUSALS = {  # errno: (what the system says in our words, or nothing; what to do)
    errno.ENOSPC: ("the disk is full", "make room and give the same command again"),
    errno.EDQUOT: ("the disk is full", "make room and give the same command again"),
    errno.EFBIG: ("a file may not be that large here", _ELSEWHERE),
    errno.EACCES: ("no permission", _ELSEWHERE),
    errno.EPERM: ("no permission", _ELSEWHERE),
    errno.EROFS: ("nothing can be written here", _ELSEWHERE),
    errno.ENOENT: ("", "check the name; the folder of an output must be there"),
    errno.ENOTDIR: ("a part of this path is no folder", "check the name"),
    errno.EISDIR: ("it is a folder", "give the name of a file"),
    errno.ENAMETOOLONG: ("the name is too long", "choose a shorter one with --out or -o"),
    errno.ELOOP: ("its links lead in a circle", "give the file itself"),
    errno.EMFILE: ("", "raise the limit of open files (ulimit -n)"),
}
_HUB = ("huggingface_hub", "pyarrow")  # of the extra hf
_STREAMS = {0: "standard input", 1: "standard output", 2: "standard error"}


def exit_code(work: Callable[[], int]) -> int:
    """Return the exit code of `work`; whatever it raises becomes one sentence on stderr.

    An exception that has no sentence is a fault of ours: it is shown with its traceback.
    """
    try:
        return work()
    except (Interrupted, KeyboardInterrupt):
        _say("stopped; the same command goes on from here")
        return 130
    except Exception as error:
        sentence = _sentence(error)
        if sentence:
            _say(sentence)
            return 2
        show_traceback(error)
        _say(
            "this is a fault of Fairway, not of what you gave it: please report the lines above "
            f"together with the command (version {__version__})"
        )
        return FAULT


def _say(sentence: str) -> None:
    from fairway import console

    console.error(sentence)


def show_traceback(error: BaseException) -> None:
    """Print where an exception came from, line by line, on stderr."""
    from fairway import console

    console.result_lines("".join(traceback.format_exception(error)).rstrip())


def _sentence(error: Exception) -> str:
    """Say what went wrong, if the user can mend it; empty for our own mistakes."""
    if isinstance(error, BadInput):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] in _HUB:
        return f"this command needs {error.name}: pip install 'fairway[hf]'"
    if isinstance(error, MemoryError) or _is_out_of_memory(error):
        return "out of memory: choose a smaller model, window or batch (--set model.dim=...)"
    if isinstance(error, BrokenPipeError):
        return closed_by_reader(error)
    if isinstance(error, RuntimeError) and str(error).startswith("Symlink loop from "):
        name = str(error).removeprefix("Symlink loop from ")  # Path.resolve, before Python 3.13
        error = OSError(errno.ELOOP, os.strerror(errno.ELOOP), name.strip("'"))
    if isinstance(error, OSError):
        return _refused(error)
    return ""


def closed_by_reader(error: BrokenPipeError) -> str:
    """Say which output nobody takes any more."""
    return f"whoever read {error.filename or 'standard output'} has closed it"


def _is_out_of_memory(error: Exception) -> bool:
    """Say whether torch or the system reports it: torch has no one type of exception for it."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    text = str(error).lower()
    return isinstance(error, RuntimeError) and (
        "out of memory" in text or "can't allocate memory" in text
    )


def _refused(error: OSError) -> str:
    """Say what the system refused, where, and what to do."""
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if _is_name(name)]
    if not names and error.errno == errno.ENOENT and not _has_folder():
        return "the current folder is not there any more: go to another one (cd)"
    ours, advice = _REFUSALS.get(
        error.errno or 0, ("", "look into it, then give the command again")
    )
    reason = ours or error.strerror or str(error) or type(error).__name__
    where = f" ({' to '.join(names)})" if names else ""
    return f"{reason[:1].lower()}{reason[1:]}{where}: {advice}"


def _is_name(name: object) -> bool:
    return isinstance(name, str | bytes) and bool(name)


def _has_folder() -> bool:
    try:
        os.getcwd()
    except OSError:
        return False
    return True


# The three streams of a process ------------------------------------------------------------------


def hold_streams() -> None:
    """Make closed and narrow streams harmless, before anything is opened or printed.

    A closed stream's number would be given to the next file, and what libraries print would go
    into it: /dev/null takes the number, and Python's stream stays None. What an encoding lacks is
    printed as an escape.
    """
    for number in _STREAMS:
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def standard_output() -> Iterator[None]:
    """Give standard output inside the block.

    Raises BadInput where it is closed, and OSError that names it.
    """
    if sys.stdout is None:
        raise BadInput("standard output is closed: leave it open, or name a file with -o")
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.filename is None:
            error.filename = _STREAMS[1]
        raise


def leave_ranks() -> None:
    """Leave torchrun's process group, if this process is in one.

    The group has threads of its own. Where Python's end destroys it under them, the process aborts
    now and then ("terminate called without an active exception").
    """
    if distributed := sys.modules.get("fairway.distributed"):
        distributed.stop()


def let_go() -> None:
    """Drop what nobody can take any more, so that Python's own end is quiet."""
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), number)
