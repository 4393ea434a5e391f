"""Rules on the files of a submission and their sizes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from fairway.challenge import contents
from fairway.challenge.claims import number
from fairway.challenge.contents import Entry, shown
from fairway.challenge.submitted import Submission, counted, finding, listed
from fairway.config.budget import CHALLENGE_BYTES
from fairway.pipeline.results import RuleFinding

_ANSWER = b"compiles"


def files(given: Submission) -> Iterator[RuleFinding]:
    """Check that the files are there, can be read, and that the script compiles."""
    names = {entry.name for entry in given.contents.files}
    readme = any(name.lower().startswith("readme") for name in names)
    missing = [] if readme else ["README.md"]
    missing += [] if "submission.json" in names else ["submission.json"]
    missing += [] if given.script else ["train_gpt.py"]
    missing += [] if given.logs else ["a training log with a final score"]
    said = f"missing: {', '.join(missing)}" if missing else "all are there"
    if given.contents.left_out:
        said += f" (left out: {listed(given.contents.left_out)})"
    yield finding("files: README, submission.json, script, log", not missing, said)
    odd = given.contents.odd + given.unreadable
    yield finding(
        "files: regular, and read in full",
        not odd,
        listed(odd) or "each is a file that was read",
    )
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
    limit = f"size: total in the logs <= {CHALLENGE_BYTES:,}"
    totals = {log.name: log.total.last for log in given.logs}
    over = {n: t for n, t in totals.items() if t and t.value > CHALLENGE_BYTES}
    vague = [
        n for n, t in totals.items() if not t or t.value + t.slack > CHALLENGE_BYTES
    ]  # rounded megabytes
    if over:
        said = listed(f"{n} states {t.value:,.0f} bytes" for n, t in over.items() if t)
        yield finding(limit, False, said)
    elif vague or not totals:
        said = f"no total in bytes: {listed(vague)}" if vague else "no log states a total"
        yield finding(limit, None, said)
    else:
        most = max(t.value for t in totals.values() if t)
        yield finding(limit, True, f"at most {most:,.0f} bytes by the logs")
    yield _sum_of_parts(given)
    if not given.script:
        return
    size = given.script.size_bytes
    stated = sorted({log.code.last.value for log in given.logs if log.code.last})
    without = [log.name for log in given.logs if not log.code.last]
    good = None if without or not stated else stated == [size]
    if any(value != size for value in stated):
        good = False
    said = f"{given.script.name} has {size:,} bytes, the logs count {counted(stated) or 'none'}"
    yield finding("size: code in the logs = the script here", good, said)
    yield from _uncounted(given)
    yield from _claimed_sizes(given)


def _sum_of_parts(given: Submission) -> RuleFinding:
    rule = "size: model + code = total, in each log"
    wrong, silent = [], []
    for log in given.logs:
        model, code, total = log.model.last, log.code.last, log.total.last
        if not (model and code and total):
            silent.append(log.name)
            continue
        slack = model.slack + code.slack + total.slack
        if abs(model.value + code.value - total.value) > slack:
            wrong.append(
                f"{log.name}: {model.value:,.0f} + {code.value:,.0f} bytes, "
                f"the total is {total.value:,.0f}"
            )
    if wrong:
        return finding(rule, False, listed(wrong))
    if silent or not given.logs:
        return finding(rule, None, f"not all three are stated: {listed(silent) or 'no log'}")
    return finding(rule, True, "the parts sum to the total")


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
    said = ""
    if extra:
        names = listed((e.name for e in extra), 5)
        said = f"{len(extra)} more files, {extra_bytes:,} bytes, are in no count: {names}"
    said = "; ".join(filter(None, [said, listed((sentence for sentence, _ in more), 5)]))
    yield finding(
        "size: no weights or code beside the script", not said,
        said or "only papers, logs, results and the script",
    )  # fmt: skip
    largest = max([*models, *(e.size_bytes for e in attached)], default=None)
    here = given.script.size_bytes + extra_bytes
    rule = f"size: model + the files here <= {CHALLENGE_BYTES:,}"
    if largest is None:
        said = f"the files here have {here:,} bytes, and no log states the model's"
        yield finding(rule, None if here <= CHALLENGE_BYTES else False, said)
    else:
        total = int(largest) + here
        said = f"the largest model and what the script may read here are {total:,} bytes"
        yield finding(rule, total <= CHALLENGE_BYTES, said)


def _claimed_sizes(given: Submission) -> Iterator[RuleFinding]:
    assert given.script
    total = given.claims.get("bytes_total")
    stated = [log.total.last for log in given.logs if log.total.last]
    if isinstance(total, int) and not isinstance(total, bool) and stated:
        good = any(abs(total - t.value) <= t.slack for t in stated)
        logged = counted(t.value for t in stated)
        said = f"bytes_total is {shown(str(total), 30)}, the logs say {logged}"
        yield finding("size: bytes_total = a total in the logs", good, said)
    else:
        yield finding("size: bytes_total = a total in the logs", None, "nothing to compare")
    code = given.claims.get("bytes_code")
    if code is not None:
        size = given.script.size_bytes
        said = f"bytes_code is {shown(str(code), 30)}, {given.script.name} has {size:,} bytes"
        good = number(code) == size
        yield finding("size: bytes_code = the script here", good, said)
    most = given.claims.get("bytes_artifact_max")
    models = [log.model.last for log in given.logs if log.model.last]
    if most is not None and models:
        largest = max(models, key=lambda r: r.value)
        value = number(most)
        good = value is not None and abs(value - largest.value) <= largest.slack
        said = f"bytes_artifact_max is {shown(str(most), 30)}, the logs say {largest.value:,.0f}"
        yield finding("size: bytes_artifact_max = the logs' largest model", good, said)


def printed_source(given: Submission) -> Iterator[RuleFinding]:
    """Compare the source that logs begin with with the script."""
    printed = [log for log in given.logs if log.prints_source]
    other = [log.name for log in printed if not log.source_matches]
    if printed:
        said = "the source in the logs is the script"
        if other:
            said = f"{listed(other)}: the source in the log is not the script"
        yield finding("source: printed in the logs = the script here", not other, said)


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
