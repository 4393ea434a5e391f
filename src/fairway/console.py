"""Print progress, tables and metrics on stderr; `--json` prints results on stdout."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from fairway.io import foreign


class _Stderr(Console):
    def on_broken_pipe(self) -> None:
        """Print nothing from here on. By default rich would end the process and close stdout."""
        self.quiet = True


_console = _Stderr(stderr=True, highlight=False, emoji=False)
_LINE_EVERY_S = 20.0  # progress lines where stderr is no terminal
_FIRST_LINE_S = 5.0  # it says early how long the work will take
_began = time.perf_counter()
_level = 0  # below 0: results and errors only; above: all there is to say


def choose_level(level: int) -> None:
    """Print results and errors only (-1), progress and remarks, too (0), or details, too (1)."""
    global _level
    _level = level


def level() -> int:
    """Return what `choose_level` chose."""
    return _level


@contextmanager
def quietly(wanted: bool = True) -> Iterator[None]:
    """Print nothing inside the block, if that is wanted; nor do processes that it starts."""
    before = _level, _console.quiet
    if wanted:
        choose_level(-1)
        silence()
    try:
        yield
    finally:
        choose_level(before[0])
        _console.quiet = before[1]


def silence() -> None:
    """Print nothing from here on, as ranks other than 0 do."""
    _console.quiet = True


def printable(text: str, keep: str = "") -> str:
    """Return `text` with escapes for all that a terminal obeys or does not show.

    Names and foreign files can hold line ends, colours, and marks that turn lines around: nobody
    may write a line of ours with them. Characters of `keep` stay.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text
    )


def say(text: str) -> None:
    """Print one line of progress or a remark; nothing with --quiet."""
    if _level >= 0:
        begun = f"[{time.perf_counter() - _began:.1f} s] " if _level > 0 else ""
        result(begun + text)


def detail(text: str) -> None:
    """Print one line with --verbose."""
    if _level > 0:
        say(text)


def result(text: str) -> None:
    """Print one line of what a command found, also with --quiet."""
    _print(Text(printable(text)))


def result_lines(text: str) -> None:
    """Print a text of several lines, also with --quiet."""
    _print(Text(printable(text, "\n\t")))


def warn(text: str) -> None:
    """Print a warning; nothing with --quiet."""
    if _level >= 0:
        _print(Text.assemble(("warning:", "yellow"), " " + printable(text)))


def error(text: str) -> None:
    """Print an error on stderr."""
    _print(Text.assemble(("error:", "red"), " " + printable(text)))


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table: numbers to the right, all else to the left.

    Cells that the terminal's width has no room for are broken between words, and within words of
    more than 30 characters; nothing is cut.
    """
    cells = [[printable(str(cell)) for cell in row] for row in rows]
    shown, by_column = Table(), list(zip(columns, *cells, strict=True))
    for (head, *values), width in zip(by_column, _widths(by_column), strict=True):
        numbers = all(v[:1] in "0123456789+-.?" and len(v.split()) < 4 for v in values)
        justify: Literal["left", "right"] = "right" if numbers else "left"
        shown.add_column(Text(head), justify=justify, width=width, overflow="fold")
    for row in cells:
        shown.add_row(*map(Text, row))
    _print(Text(printable(title), style="italic"))
    _print(shown)


def _widths(by_column: list[tuple[str, ...]]) -> list[int]:
    """Return the width of each column, so that all fit into the terminal if words allow it."""
    widths = [max(map(cell_len, cells)) for cells in by_column]
    words = [[cell_len(word) for cell in cells for word in cell.split()] for cells in by_column]
    least = [min(30, max(lengths, default=0)) for lengths in words]
    while sum(widths) > _console.width - 3 * len(widths) - 1:
        spare, widest = max((w if w > least[i] else 0, i) for i, w in enumerate(widths))
        if not spare:
            break
        widths[widest] -= 1
    return widths


def _print(shown: RenderableType) -> None:
    """Print to stderr. Once nobody can read that, the work goes on in silence."""
    try:
        _console.print(shown, soft_wrap=not isinstance(shown, Table))
    except OSError:
        silence()


class Task:
    """Progress of one piece of long work; `update` may be called at any rate.

    The speed is shown in `unit`s per second, or not at all where the unit is empty.
    """

    def __init__(self, progress: Progress | None, task: TaskID, what: str, total: float, unit: str):
        self._progress, self._task = progress, task
        self._what, self._total, self._unit = what, total, unit
        self._start = time.perf_counter()
        self._last = self._start - max(_LINE_EVERY_S - _FIRST_LINE_S, 0.0)
        self._first: float | None = None

    def update(self, done: float, **values: object) -> None:
        """Show that `done` of the total is done, and `values` beside it (loss=…, bpb=…)."""
        if self._first is None:
            self._first = done  # work that an earlier process did
        now = time.perf_counter()
        rate = (done - self._first) / max(now - self._start, 1e-9)
        speed = [f"{rate:,.0f} {self._unit}/s"] if self._unit and rate > 0 else []
        note = "  ".join([*speed, *(f"{k} {v}" for k, v in values.items())])
        if self._progress is not None:
            self._progress.update(self._task, completed=done, note=note)
        elif now - self._last >= _LINE_EVERY_S / (10 if _level > 0 else 1):
            self._last = now
            if not self._total:
                say(f"{self._what}: {done:,.0f} {self._unit}  {note}")
                return
            left_s = (self._total - done) / rate if rate > 0 else 0.0
            left = f"{left_s:.0f} s" if left_s < 120 else f"{left_s / 60:.0f} min"
            left = f"  about {left} left" if rate > 0 else ""
            say(f"{self._what}: {done / self._total:.0%}  {note}{left}")


@contextmanager
def track(what: str, total: float, unit: str) -> Iterator[Task]:
    """Show progress of `what`: a bar on a terminal, a line every 20 s elsewhere (verbose: 2 s).

    A total of 0 is one that nobody knows.
    """
    if not _console.is_terminal or _console.quiet or _level < 0:
        yield Task(None, TaskID(0), what, total, unit)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=_console, transient=True) as progress:
        task = progress.add_task(what, total=total or None, note="")
        yield Task(progress, task, what, total, unit)


@contextmanager
def ctrl_c() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether Ctrl-C was pressed, to save at the end of a step.

    The second Ctrl-C interrupts at once.
    """
    asked = threading.Event()

    def note(number: int, frame: object) -> None:
        asked.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        say("saving, then stopping (Ctrl-C again stops at once)")

    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Return the numbers of each line of a metrics.jsonl, of which "step" is always there.

    Lines that a kill has cut are left out, with a warning; no file: no lines. Raises BadInput.
    """
    try:
        entries, cut = foreign.read_json_lines(path, "the metrics")
    except foreign.Missing:
        return []
    lines = [{k: v for k, v in e.items() if isinstance(v, int | float)} for e in entries]
    good = [line for line in lines if isinstance(line.get("step"), int)]
    if cut := cut + len(lines) - len(good):
        warn(f"{path}: {cut} of {cut + len(good)} lines are cut or hold no step; left out")
    return good


class Metrics:
    """Append-only metrics.jsonl and TensorBoard events of one run.

    Lines of steps after `resume_step` (written by a killed process) are dropped first.
    """

    def __init__(self, path: Path, tensorboard: Path | None, resume_step: int = 0) -> None:
        kept: list[str] = []
        if resume_step and path.exists():
            kept = [json.dumps(e) for e in read_metrics(path) if e["step"] <= resume_step]
        self._file = open(path, "w", encoding="utf-8")  # noqa: SIM115
        self._file.writelines(line + "\n" for line in kept)
        self._file.flush()
        self._board: Any = None
        if tensorboard is not None:
            os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(tensorboard), purge_step=resume_step or None)

    def log(self, step: int, **values: float) -> None:
        """Write the values of a step."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        if self._board is not None:
            self._board.close()
