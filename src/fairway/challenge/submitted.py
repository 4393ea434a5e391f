"""Read a submission folder: its logs, its claims, its decoded proofs.

What rules share stands here too: tolerances, and findings with their evidence.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import isclose
from pathlib import Path
from typing import Any

from fairway.challenge import claims as json_files
from fairway.challenge import contents, logs
from fairway.challenge.claims import SubmissionClaims, number
from fairway.challenge.contents import Contents, Entry, shown
from fairway.challenge.logs import Log
from fairway.errors import BadInput
from fairway.pipeline import verdicts
from fairway.pipeline.command_results import RuleFinding
from fairway.pipeline.results import Decoded

_PROOF_BYTES = 1 << 30  # of a proof or an artifact that is decoded
TOLERANCE = 5e-5  # bits per byte, between a claim and a mean
PRINTED = 5e-5  # what the last digit of a log may add to the tolerance, at most
_SCORE_BYTES = 256  # by which a proof may be longer than the score says, and a thousandth


@dataclass
class Proof:
    """An attached proof: what was decoded here, or why nothing was."""

    seed: int
    place: Path
    facts: Decoded | None  # of the decoded text and the two files; None: it does not decode
    problem: str


def decoded(model: Path, proof: Path) -> Decoded:
    """Return what a proof decodes to. Raises BadInput.

    Links in a stranger's folder are not followed: the two files are read as they lie there.
    """
    with tempfile.TemporaryDirectory() as out:
        copies = (Path(out, "model.fairway"), Path(out, "val.fwp"))
        for file, copy in zip((model, proof), copies, strict=True):
            try:
                copy.write_bytes(logs.read_bytes(file, _PROOF_BYTES))
            except BadInput as error:
                raise BadInput(f"{file.name}: {error}") from None
        return verdicts.decoded(*copies)


class Submission:
    """A submission folder as it was read. Nothing of it is executed."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.contents: Contents = contents.walk(folder)
        self.script = self.contents.script
        self.script_problem = ""
        self.source = self._source()
        self.unreadable: list[str] = []
        self.logs, self.other_logs = self._logs()
        self.claims, self.claim_problems = self._claims()
        self.proofs = list(self._proofs())
        self.no_logs = [] if self.logs else ["there is no log"]

    def _source(self) -> str:
        if not self.script:
            return ""
        try:
            data = logs.read_bytes(self.script.path, contents.MAX_SCRIPT_BYTES)
        except BadInput as error:
            self.script_problem = str(error)
            return ""
        return logs.decode_text(data)

    def _logs(self) -> tuple[list[Log], list[Log]]:
        """Return the logs of runs, without copies, and further ones in other folders.

        The logs that count lie in the folder or in logs/; if there are none, in any folder.
        """
        found: list[Log] = []
        further: list[Log] = []
        left = contents.MAX_LOGS_BYTES
        for entry in self.contents.of("log"):
            left -= min(entry.size_bytes, logs.MAX_LOG_BYTES)
            if left < 0:
                self.unreadable.append(f"{entry.name}: the logs before it have too many bytes")
                break
            if (log := self._log(entry)) and log.is_run:
                near = log.name.rpartition("/")[0] in ("", "logs")
                (found if near else further).append(log)
        if not found:
            found, further = further, []
        kept: dict[object, Log] = {}
        for log in found:
            values = [(s.label, s.bpb.value) for s in log.scores]
            same = (log.losses, tuple(values), *(r.last for r in (log.model, log.total, log.train)))
            seeds = (log.named_seed, *sorted(log.seeds))
            if same in kept and not set(seeds) - {None} - self._seeds_of(kept[same]):
                continue
            kept[(same, seeds) if same in kept else same] = log
        return list(kept.values()), further

    @staticmethod
    def _seeds_of(log: Log) -> set[int | None]:
        return {log.named_seed, *log.seeds}

    def _log(self, entry: Entry) -> Log | None:
        try:
            text = logs.decode_text(logs.read_bytes(entry.path, logs.MAX_LOG_BYTES))
        except BadInput as error:
            self.unreadable.append(f"{entry.name}: {error}")
            return None
        return logs.parse(text, entry.name, self.source)

    def _claims(self) -> tuple[dict[str, Any], list[str]]:
        entries = self.contents.of("claims")
        if not entries:
            return {}, ["it is missing, or it is not a regular file"]
        tree, problems = json_files.load(entries[0].path)
        return tree, problems or json_files.check(tree, SubmissionClaims)

    def _proofs(self) -> Iterator[Proof]:
        """Decode the proofs of seed*/, in the order of the seeds."""
        names = {e.name.rpartition("/")[0] for e in self.contents.of("proof", "model", "results")}
        places = sorted((int(n[4:]), n) for n in names if n.startswith("seed") and n[4:].isdigit())
        for seed, name in places:
            place = self.folder / name
            try:
                facts, problem = decoded(place / "model.fairway", place / "val.fwp"), ""
            except BadInput as error:
                facts, problem = None, str(error).replace(str(self.folder), "").strip()
            except OSError as error:
                facts, problem = None, f"it cannot be read ({error.strerror})"
            yield Proof(seed, place, facts, problem)


def finding(rule: str, good: bool | None, evidence: str) -> RuleFinding:
    """Return what a rule says; None: the folder does not tell."""
    verdict = "unknown" if good is None else "yes" if good else "no"
    return RuleFinding(rule=rule, verdict=verdict, evidence=shown(evidence, 700))


def judged(
    rule: str, wrong: Iterable[object], silent: Iterable[object], evidence: str
) -> RuleFinding:
    """Return "no" with what is wrong, else "unknown" with what says nothing, else "yes"."""
    for good, said in ((False, listed(wrong)), (None, listed(silent))):
        if said:
            return finding(rule, good, said)
    return finding(rule, True, evidence)


def listed(items: Iterable[object], at_most: int = 6) -> str:
    """Return the first items as one text, and the number of the others."""
    words = [str(item) for item in items]
    more = f" and {len(words) - at_most} more" if len(words) > at_most else ""
    return "; ".join(words[:at_most]) + more


def counted(values: Iterable[float]) -> str:
    """Return counts of bytes or tokens as one text."""
    return listed((f"{value:,.0f}" for value in values), 4)


def is_better(bpb: float, facts: Decoded) -> bool:
    """Say whether a score beats its proof by more than a proof's header and coder cost."""
    shorter = facts.proof_bytes - bpb * facts.text_bytes / 8
    size = facts.proof_bytes
    return bool(bpb <= 0 or shorter > min(_SCORE_BYTES, size / 4) + size / 1000)


def is_same(value: object, expected: object) -> bool:
    if isinstance(expected, bool) or isinstance(value, bool):
        return value is expected
    if isinstance(expected, float):
        found = number(value)
        return found is not None and isclose(found, expected, rel_tol=1e-9)
    return type(value) is type(expected) and value == expected
