"""Rules on the files of a submission and their sizes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from fairway.challenge import contents
from fairway.challenge.claims import number
from fairway.challenge.contents import Entry, shown
from fairway.challenge.logs import Reading
from fairway.challenge.submitted import Submission, counted, finding, judged, listed
from fairway.config.budget import CHALLENGE_BYTES
from fairway.pipeline.command_results import RuleFinding

_ANSWER = b"compiles"


def files(given: Submission) -> Iterator[RuleFinding]:
    """Check that the files are there, can be read, and that the script compiles."""
    names = {entry.name for entry in given.contents.files}
    readme = any(name.lower().startswith("readme") for name in names)
    wanted = {
        "README.md": readme,
        "submission.json": "submission.json" in names,
        "train_gpt.py": given.script is not None,
        "a training log with a final score": bool(given.logs),
    }
    missing = [name for name, is_there in wanted.items() if not is_there]
    said = f"missing: {', '.join(missing)}" if missing else "all are there"
    if given.contents.left_out:
        said += f" (left out: {listed(given.contents.left_out)})"
    yield finding("files: README, submission.json, script, log", not missing, said)
    odd = given.contents.odd + given.unreadable
    yield judged("files: regular, and read in full", odd, (), "each is a file that was read")
    if not given.script:
        return
    if given.script.name != "train_gpt.py":
        said = f"the script is called {given.script.name}"
        yield finding("script: its name is train_gpt.py", False, said)
    problem = given.script_problem or _compile(given.script.path)
    said = problem or f"{given.script.name} compiles"
    yield finding("script: compiles", not problem, said)


def sizes(given: Submission) -> Iterator[RuleFinding]:
    """Compare sizes in the logs and in submission.json with the limit and with the files."""
    totals = [(log.name, log.total.last) for log in given.logs]
    yield judged(
        f"size: total in the logs <= {CHALLENGE_BYTES:,}",
        (f"{n} states {t.value:,.0f} bytes" for n, t in totals if t and t.value > CHALLENGE_BYTES),
        [  # rounded megabytes do not tell
            f"{name} states no total in bytes"
            for name, total in totals
            if not total or total.value + total.slack > CHALLENGE_BYTES
        ]
        or given.no_logs,
        f"at most {max((t.value for _, t in totals if t), default=0):,.0f} bytes by the logs",
    )
    yield _sum_of_parts(given)
    if not given.script:
        return
    size = given.script.size_bytes
    stated = [(log.name, log.code.last) for log in given.logs]
    yield judged(
        "size: code in the logs = the script here",
        (f"{n} counts {code.value:,.0f}" for n, code in stated if code and code.value != size),
        [f"{name} counts no code" for name, code in stated if not code] or given.no_logs,
        f"{given.script.name} has {size:,} bytes, as the logs count",
    )
    yield from _uncounted(given)
    yield from _claimed_sizes(given, size)


def _sum_of_parts(given: Submission) -> RuleFinding:
    wrong, silent = [], list(given.no_logs)
    for log in given.logs:
        model, code, total = log.model.last, log.code.last, log.total.last
        if not (model and code and total):
            silent.append(f"{log.name} does not state all three")
        elif abs(model.value + code.value - total.value) > model.slack + code.slack + total.slack:
            wrong.append(
                f"{log.name}: {model.value:,.0f} + {code.value:,.0f} bytes, "
                f"the total is {total.value:,.0f}"
            )
    rule = "size: model + code = total, in each log"
    return judged(rule, wrong, silent, "the parts sum to the total")


def _uncounted(given: Submission) -> Iterator[RuleFinding]:
    """Report files that could hold weights or code, and the size with them."""
    assert given.script
    models = [log.model.last.value for log in given.logs if log.model.last]
    sizes = list(models)
    extra: list[Entry] = []
    attached: list[Entry] = []
    for entry in given.contents.of("uncounted", "script"):
        if entry == given.script or not entry.size_bytes:
            continue
        if contents.could_be_model(entry) and entry.size_bytes in sizes:
            sizes.remove(entry.size_bytes)  # one for each log
            attached.append(entry)
        else:
            extra.append(entry)
    attached += given.contents.of("model")
    more = list(contents.problems(given.contents, given.source))
    extra_bytes = sum(e.size_bytes for e in extra) + sum(size for _, size in more)
    wrong = [sentence for sentence, _ in more]
    if extra:
        names = listed((e.name for e in extra), 5)
        wrong.insert(0, f"{len(extra)} more files, {extra_bytes:,} bytes, are in no count: {names}")
    rule = "size: no weights or code beside the script"
    yield judged(rule, wrong, (), "only papers, logs, results and the script")
    largest = max([*models, *(e.size_bytes for e in attached)], default=None)
    total = given.script.size_bytes + extra_bytes + int(largest or 0)
    said = f"the largest model and what the script may read here are {total:,} bytes"
    yield judged(
        f"size: model + the files here <= {CHALLENGE_BYTES:,}",
        [said] if total > CHALLENGE_BYTES else (),
        [f"{total:,} bytes here, and no log states the model's"] if largest is None else (),
        said,
    )


def _claimed_sizes(given: Submission, code_bytes: int) -> Iterator[RuleFinding]:
    """Compare the sizes that submission.json states with one of what was measured each."""
    models = [log.model.last for log in given.logs if log.model.last]
    totals = [log.total.last for log in given.logs if log.total.last]
    measured = {
        "bytes_total": ("a total in the logs", totals),
        "bytes_code": ("the script here", [Reading(code_bytes)]),
        "bytes_artifact_max": (
            "the logs' largest model",
            sorted(models, key=lambda reading: reading.value)[-1:],
        ),
    }
    for field, (what, readings) in measured.items():
        rule, claimed = f"size: {field} = {what}", given.claims.get(field)
        if claimed is not None and readings:
            value = number(claimed)
            good = value is not None and any(abs(value - r.value) <= r.slack for r in readings)
            said = counted(r.value for r in readings)
            yield finding(rule, good, f"{field} is {shown(str(claimed), 30)}; {what}: {said}")
        elif field == "bytes_total":
            yield finding(rule, None, "nothing to compare")


def printed_source(given: Submission) -> Iterator[RuleFinding]:
    """Compare the source that logs begin with with the script."""
    printed = [log for log in given.logs if log.prints_source]
    if printed:
        yield judged(
            "source: printed in the logs = the script here",
            (f"{log.name} prints another source" for log in printed if not log.source_matches),
            (),
            "the source in the logs is the script",
        )


def _compile(script: Path) -> str:
    """Return why a script does not compile; in a process of its own, with limits; "" if it does.

    Compiling runs nothing of a script, but a hostile one can ask for all memory.
    """
    code = (
        "import resource,sys;"
        "resource.setrlimit(resource.RLIMIT_AS,(1<<31,1<<31));"
        "resource.setrlimit(resource.RLIMIT_CPU,(30,30));"
        "compile(sys.stdin.buffer.read(),'script','exec',dont_inherit=True);"
        "print('compiles')"
    )
    try:
        with open(script, "rb") as source:
            done = subprocess.run(
                [sys.executable, "-I", "-W", "ignore", "-c", code],
                stdin=source, capture_output=True, check=False, timeout=60,
            )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return "it could not be compiled within a minute"
    if done.stdout.strip() == _ANSWER:
        return ""
    lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else f"the compiler ended with code {done.returncode}"
