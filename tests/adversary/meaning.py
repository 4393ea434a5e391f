"""The campaign of meaning: every lie of lies.py through every command that states something.

    python tests/adversary/meaning.py RUN_DIR [--every N] [--json FILE]

A statement is a cell of a table with its headings, a sentence, a label of a picture with its value,
or a line of JSON. A lie is accepted when a command that succeeds states something that it does not
state about the honest run, without a word that says where it comes from ("claimed", "stale",
"NOT VERIFIED"); or when the verdict is "verified" although a file contradicts the artifact and the
proof. Each accepted lie is printed. Needs RUN_DIR/../data.
"""

from __future__ import annotations

import argparse
import html
import json
import os
import platform
import re
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from lies import Lie, folder_lies, lies, pair_lies

from fairway import console
from fairway.challenge import checks, submission, trainlog
from fairway.errors import BadInput
from fairway.io.atomic import sha256_file
from fairway.pipeline import plan, verdicts
from fairway.pipeline import prove as proving
from fairway.pipeline.directory import Job, RunDirectory
from fairway.pipeline.evidence import proved
from fairway.pipeline.results import TrainResult
from fairway.report import compare, export, report

MARKS = ("claimed", "stale", "Stale", "NOT VERIFIED", "NOT verified", "does not hold")
Statements = dict[str, bool]  # what is said: whether a word beside it says where it comes from


# What is stated ----------------------------------------------------------------------------------


def marked(text: str) -> bool:
    return any(mark in text for mark in MARKS)


def of_page(page: str) -> Statements:
    """All that a page states, with the headings that it stands under."""
    found: Statements = {}

    def state(text: str, context: str = "") -> None:
        found[html.unescape(f"{context} {text}".strip().rstrip("."))] = marked(context + text)

    for sentence in _sentences(_first(r'class="headline">(.*?)</p>', page)):
        state(sentence)
    for section in re.findall(r"<section>(.*?)</section>", page, re.S):
        title = _first(r"<h2>(.*?)</h2>", section)
        rows = [re.findall(r"<t[hd]>(.*?)</t[hd]>", r) for r in section.split("<tr>")[1:]]
        for row in rows[1:]:
            found |= of_row(title, rows[0], row)
        for sentence in _sentences(_first(r"<p class='note'>(.*?)</p>", section)):
            state(sentence, f"{title}:")
    figure, badge = (
        _first(r'class="figure">(.*?)</p>', page),
        _first(r'class="badge.*?>(.*?)<', page),
    )
    if figure:
        state(figure, badge)
    for name, value in re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", page):
        state(f"{name}: {value}", badge if badge == "claimed" else "")
    for caption, drawn in re.findall(r"<figcaption>(.*?)</figcaption>(.*?)</figure>", page, re.S):
        for note in _sentences(_first(r'class="note">(.*?)</p>', drawn)):
            state(note, f"{caption}:")
        for svg in drawn.split("<svg")[1:]:
            texts = [*re.findall(r"<text[^>]*>(.*?)</text>", svg, re.S), ""]
            for said, following in pairwise(texts):
                if not re.search("[a-z]", said):  # of an axis; it says something of a curve alone
                    if 'class="lo"' in svg:
                        state(said, f"{caption}:")
                elif re.match(r"[\d.,]+$", following):  # a bar's name and value
                    state(f"{said}: {following}", f"{caption}:")
                else:
                    state(said, f"{caption}:")
    for title, text in re.findall(r"<summary>(.*?)</summary><pre>(.*?)</pre>", page, re.S):
        for line in text.splitlines():
            state(line, f"{title}:")
    return found


def of_row(title: str, columns: list[str], row: list[str]) -> Statements:
    whole = f"{title} {' '.join(row)}"
    name = "" if marked(columns[0]) else row[0]
    return {
        f"{title} | {name} | {column}: {cell}": marked(whole + column)
        for column, cell in zip(columns, row, strict=False)
        if cell
    }


def _first(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.S)
    return found[1] if found else ""


def _sentences(text: str) -> list[str]:
    return [s for s in re.split(r"(?<=[a-z)])\. |\n", text) if s.strip()]


def of_lines(text: str) -> Statements:
    """Markdown: rows of a table under its headings, and lines. A column with * is marked."""
    found: Statements = {}
    columns: list[str] = []
    stars = "with * are claimed" in text
    for line in text.splitlines():
        if not line.startswith("|"):
            columns = []
            found |= {s: marked(s) for s in _sentences(line)}
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not columns:
            columns = [c + (" claimed" if stars and c.endswith("*") else "") for c in cells]
        else:
            found |= of_row("", columns, cells)
    return found


# Commands ----------------------------------------------------------------------------------------


def page_of_run(run: RunDirectory, other: RunDirectory) -> Statements:
    return of_page(report.write(run).read_text("utf-8"))


def page_of_runs(run: RunDirectory, other: RunDirectory) -> Statements:
    page = run.path.parent / "both.html"
    report.write_many([run, other], page)
    return of_page(page.read_text("utf-8"))


def comparison(run: RunDirectory, other: RunDirectory) -> Statements:
    """The page and the line of JSON, which is one statement: its fields stand side by side."""
    found = compare.compare([run.path], [other.path], 0.005)
    page = run.path.parent / "comparison.html"
    report.write_comparison(found, compare.tables(found), page)
    line = found.model_dump_json()
    return of_page(page.read_text("utf-8")) | {f"JSON {line}": marked(line)}


def card(run: RunDirectory, other: RunDirectory) -> Statements:
    """What `push` checks and writes, without the Hub."""
    if not verdicts.known(run):
        raise BadInput("push would decode first")
    return of_lines(export.card(proved(run), "user/name"))


def submitted(run: RunDirectory, other: RunDirectory) -> Statements:
    """What `submit` checks and writes, without the script: its README, figures and log."""
    if not verdicts.known(run):
        raise BadInput("submit would decode first")
    found = [proved(run)]
    claims = submission._claims(found, 1000, "A", "a", "T")
    log = trainlog.text(run.load(), run, 1000, found[0].decoded)
    readme = submission._readme(found, claims).partition("## Recipe")[0]
    keys = ("val_bpb", "val_loss", "bytes_total", "text_sha256")
    scores = {key: claims.get(key) for key in keys}
    said = {f"submission.json {key}: {value}": False for key, value in scores.items()}
    words = ("proof:", "final_", "Serialized", "Total")  # of the log: the score and its sizes
    said |= {f"log: {line}": False for line in log.splitlines() if line.startswith(words)}
    return of_lines(readme) | {re.sub(r" (encode|eval)_time:.*", "", s): m for s, m in said.items()}


def known_verdict(run: RunDirectory, other: RunDirectory) -> Statements:
    """What the end of `run`, and `submit` and `push`, say when the proof was decoded before."""
    return _of_verdict(verdicts.known(run))


def decoded_verdict(run: RunDirectory, other: RunDirectory) -> Statements:
    """`verify RUN`."""
    return _of_verdict(verdicts.verify(Job(run.load(), run)))


def _of_verdict(verdict: Any) -> Statements:
    if verdict is None:
        raise BadInput("nobody here has decoded this proof")
    lines = [re.sub(r" decoded in .*", "", verdict.sentence)]
    lines += report.verdict_lines(verdict)
    return {line: not verdict.verified or marked(line) for line in lines}


def dry_run(run: RunDirectory, other: RunDirectory) -> Statements:
    """What `run --dry-run` says of `verify`: is there anything left to do?"""
    if plan.plan(run.load(), run)[-1].reason:
        raise BadInput("verify would run")
    return {"verify: finished": False}


VERDICTS = ("verdict", "verify RUN", "run --dry-run")
COMMANDS: dict[str, Callable[[RunDirectory, RunDirectory], Statements]] = {
    "report RUN": page_of_run,
    "report RUN RUN -o": page_of_runs,
    "compare": comparison,
    "push": card,
    "submit": submitted,
    "verdict": known_verdict,
    "run --dry-run": dry_run,
}


# The judge ---------------------------------------------------------------------------------------


@dataclass
class Place:
    """Honest runs, copies of them to lie in, and the state folders of two users."""

    honest: Path
    scratch: Path

    def __post_init__(self) -> None:
        self.states = ["known", "unknown"]
        for state in ("known", "unknown"):
            (self.scratch / state).mkdir(exist_ok=True)
        self.use("known")
        recipe, first = RunDirectory(self.honest).load(), RunDirectory(self.copy("first"))
        verdict = verdicts.verify(Job(recipe, first))
        assert verdict.verified, verdict.reason
        self.truth: dict[tuple[str, str], Statements] = {}
        for state in self.states:
            self.use(state)
            for name in COMMANDS:
                run, other = self.fresh("honest")
                try:
                    self.truth[name, state] = COMMANDS[name](run, other)
                except BadInput:
                    self.truth[name, state] = {}

    def use(self, state: str) -> None:
        """Be a user who has decoded the honest proof, or one who has decoded nothing."""
        os.environ["XDG_STATE_HOME"] = str(self.scratch / state)
        verdicts._decoded_here.clear()

    def copy(self, name: str, to: str = "tiny") -> Path:
        place = self.scratch / name
        run = place / to
        shutil.copytree(self.honest, run, copy_function=os.link)
        (run / "report.html").unlink(missing_ok=True)
        if not (place / "data").exists():
            shutil.copytree(self.honest.parent / "data", place / "data")
        return run

    def fresh(self, name: str) -> tuple[RunDirectory, RunDirectory]:
        """A copy of the run, and beside it the same with another seed."""
        shutil.rmtree(self.scratch / name, ignore_errors=True)
        run, other = self.copy(name), self.copy(name, "other")
        tree = json.loads((other / "train.json").read_text("utf-8")) | {"seed": 99}
        (other / "train.json").unlink()
        (other / "train.json").write_text(json.dumps(tree), "utf-8")
        return RunDirectory(run), RunDirectory(other)

    def judge(self, lie: Lie, command: str, state: str, name: str = "lie") -> str | None:
        """Return what was accepted, "" if nothing was, None if the command refused."""
        run, other = self.fresh(name)
        lie.tell(run.path)
        self.use(state)
        try:
            said = COMMANDS.get(command, decoded_verdict)(run, other)
        except (BadInput, OSError):
            return None
        except Exception:
            return "a fault: " + traceback.format_exc(limit=-1)
        truth = self.truth.get((command, state)) or self.truth["verdict", "known"]
        if command in VERDICTS and lie.follows and not all(said.values()):
            return f"states that {next(s for s, m in said.items() if not m)}"
        new = [text for text, is_marked in said.items() if text not in truth and not is_marked]
        new = [text for text in new if re.search(r"\d|verified", text)]  # not "not proved yet"
        if run.proof_file.exists():  # its hash is computed, whoever wrote it
            true = f"SHA-256 of the proof: <code>{sha256_file(run.proof_file)}</code>"
            new = [text for text in new if text != true]
        if lie.file in ("two files", "model.fairway"):  # their bytes are read where they lie
            new = [text for text in new if not text.startswith("Where the ")]
        return f"states: {'; '.join(new[:3])}" if new else ""


def judge_pair(model: bytes, proof: bytes, text: bytes, place: Path) -> str | None:
    """Decode a pair in this process: a text that is not the honest one must have a true figure."""
    (place / "m").write_bytes(model)
    (place / "p").write_bytes(proof)
    (place / "out").unlink(missing_ok=True)
    try:
        found = proving.decode(place / "m", place / "p", place / "out")
    except BadInput:
        return None
    except Exception:
        return "a fault: " + traceback.format_exc(limit=-1)
    import hashlib

    out = (place / "out").read_bytes()
    true = found.text_sha256 == hashlib.sha256(out).hexdigest() and found.text_bytes == len(out)
    if hasattr(found, "bpb"):
        true = true and found.bpb == 8 * len(proof) / len(out)
        true = true and found.artifact_sha256 == hashlib.sha256(model).hexdigest()
    if not true:
        return "states other figures than the two files have"
    return "" if out == text else "decodes to another text"


def submission_folder(honest: Path, scratch: Path) -> Path:
    """A folder as `submit` writes it, with a short script and one artifact under three seeds."""
    root = scratch / "made"
    found = []
    for seed in (1, 2, 3):
        run = RunDirectory(shutil.copytree(honest, root / str(seed)))
        run.record(run.require(TrainResult).model_copy(update={"seed": seed}))
        lines = [json.loads(line) for line in run.metrics.read_text("utf-8").splitlines()]
        moved = [json.dumps(x | {"loss": x["loss"] + seed / 1000}) for x in lines]
        run.metrics.write_text("\n".join(moved) + "\n", "utf-8")
        found.append(proved(run))
    folder = root / "out"
    folder.mkdir()
    script = b"print('a stand-in')\n"
    (folder / "train_gpt.py").write_bytes(script)
    claims = submission._claims(found, len(script), "A", "a", "T")
    for one in found:
        submission._copy(one, folder, len(script))
    (folder / "submission.json").write_text(json.dumps(claims), "utf-8")
    (folder / "README.md").write_text(submission._readme(found, claims), "utf-8")
    return folder


def judge_folder(lie: Lie, folder: Path, honest: dict[str, str], scratch: Path) -> str | None:
    """Accepted: no rule is worse than for the honest folder."""
    at = scratch / "lied"
    shutil.rmtree(at, ignore_errors=True)
    shutil.copytree(folder, at, copy_function=os.link)
    lie.tell(at)
    try:
        found = {f.rule: f.verdict for f in checks.check(at).findings}
    except BadInput:
        return None
    except Exception:
        return "a fault: " + traceback.format_exc(limit=-1)
    worse = [r for r, v in found.items() if v != "yes" and honest.get(r) in ("yes", None)]
    worse += [r for r, v in found.items() if v == "no" and honest.get(r) == "unknown"]
    worse += [r for r in honest if r not in found]
    return None if worse else "every rule is as good as for the honest folder"


# The campaign ------------------------------------------------------------------------------------


def trials(honest: Path, every: int, decode_every: int, states: Iterable[str]) -> list[Any]:
    """All (lie, command, state); `verify RUN` for a sample, since it takes seconds each."""
    told = list(lies(honest))
    chosen = [(lie, c, s) for s in states for lie in told for c in COMMANDS][::every]
    whole = [lie for lie in told if lie.file in ("two files", "model.fairway", "proof/val.fwp")]
    fields = [lie for lie in told if lie.follows and lie not in whole]
    again = [*whole, *fields[::decode_every]] if decode_every else []
    return [*chosen, *((lie, "verify RUN", "unknown") for lie in again)]


def run_jobs(jobs: int, work: Callable[[int], list[Any]]) -> list[Any]:
    """Do work(job) in a process each; the results in one list."""
    with tempfile.TemporaryDirectory() as place:
        pids = []
        for job in range(jobs):
            pid = os.fork()
            if pid == 0:
                try:
                    (Path(place) / str(job)).write_text(json.dumps(work(job)), "utf-8")
                except BaseException:
                    traceback.print_exc()
                    os._exit(1)
                os._exit(0)
            pids.append(pid)
        codes = [os.waitpid(pid, 0)[1] for pid in pids]  # of all: they share a folder
        if any(codes):
            raise SystemExit("the campaign failed")
        return [x for job in range(jobs) for x in json.loads((Path(place) / str(job)).read_text())]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--decode-every", type=int, default=10, help="of lies for verify RUN")
    parser.add_argument("--folder-every", type=int, default=1, help="of lies for submit --check")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    console.silence()
    began, honest = time.monotonic(), given.run.resolve()
    with tempfile.TemporaryDirectory() as scratch_name:

        def work(job: int) -> list[Any]:
            scratch = Path(scratch_name) / str(job)
            scratch.mkdir()
            place = Place(honest, scratch)
            done: list[Any] = []
            told = trials(honest, given.every, given.decode_every, place.states)
            for lie, command, state in told[job :: given.jobs]:
                said = place.judge(lie, command, state)
                kind = "follows" if lie.follows else "claim"
                done.append([lie.file, f"{lie.name} [{state}]", command, kind, said])
            place.use("known")
            model, proof = (
                (honest / name).read_bytes() for name in ("model.fairway", "proof/val.fwp")
            )
            proving.decode(honest / "model.fairway", honest / "proof/val.fwp", scratch / "text")
            text = (scratch / "text").read_bytes()
            pairs = list(pair_lies(model, proof))[:: given.every]
            for file, name, m, p in pairs[job :: given.jobs]:
                said = judge_pair(m, p, text, scratch)
                if said == "decodes to another text":  # true of these two files, and no lie
                    said = ""
                done.append([file, name, "verify MODEL PROOF", "follows", said])
            folder = submission_folder(honest, scratch)
            good = {f.rule: f.verdict for f in checks.check(folder).findings}
            of_folder = list(folder_lies(folder))[:: given.folder_every]
            for lie in of_folder[job :: given.jobs]:
                said = judge_folder(lie, folder, good, scratch)
                done.append([lie.file, lie.name, "submit --check", "follows", said])
            return done

        done = run_jobs(given.jobs, work)
    accepted = [trial for trial in done if trial[4]]
    for file, name, command, kind, said in accepted:
        print(f"{command}: {file}: {name} ({kind}): {said}"[:400])
    table: dict[str, Any] = {}
    for key, column in (("by_command", 2), ("by_file", 0), ("by_kind", 3)):
        told, taken = (Counter(t[column] for t in ts) for ts in (done, accepted))
        table[key] = {name: {"lies": told[name], "accepted": taken[name]} for name in sorted(told)}
        for name in sorted(told):
            print(f"{name}: {told[name]} lies, {taken[name]} accepted")
    refused = sum(trial[4] is None for trial in done)
    different = len({(t[0], t[1].partition(" [")[0]) for t in done})
    about = {
        "command": " ".join(["meaning.py", *sys.argv[2:]]),
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    summary = about | {"lies": different, "trials": len(done), "accepted": len(accepted),
               "refused": refused, "seconds": round(time.monotonic() - began)} | table  # fmt: skip
    if given.json:
        given.json.write_text(json.dumps(summary, indent=1) + "\n", "utf-8")
    print(f"{different} lies in {len(done)} trials, {len(accepted)} accepted, {refused} refused")
    return 1 if accepted else 0


if __name__ == "__main__":
    sys.exit(main())
