"""`submit --check`: is a submission folder complete, and is what it states true?

Works on any folder in the challenge's form, ours or another's. Nothing of a folder is executed.
Every rule compares two things that the folder holds, or one with a fixed limit, and its name says
which. What a log does not state is "unknown", and unknown is not yes. Attached proofs are decoded,
and then they, not the logs, say what the score and the text are. docs/submit.md lists the rules.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from math import isclose
from pathlib import Path
from typing import Any

from fairway.challenge import claims as json_files
from fairway.challenge import contents, logs
from fairway.challenge.claims import Field, number
from fairway.challenge.contents import Contents, Entry, shown
from fairway.challenge.logs import Log, Reading
from fairway.config.budget import CHALLENGE_BYTES
from fairway.errors import BadInput
from fairway.pipeline import verdicts
from fairway.pipeline.results import CheckResult, Decoded, RuleFinding

LIMIT_S = 600.0  # of training and of evaluation, each
SEEDS = 3
_MOST_SEEDS = 100  # of seed_results
TOLERANCE = 5e-5  # bits per byte, between a claim and a mean
_PRINTED = 5e-5  # what the last digit of a log may add to the tolerance, at most
_PROOF_BYTES = 1 << 30  # of a proof or an artifact that is decoded
_SLACK_S = 0.5  # of a clock that is read once per step
_SCORE_BYTES = 256  # by which a proof may be longer than the score says, and a thousandth
_ANSWER = b"compiles"

_FIELDS = {
    "author": Field(str),
    "github_id": Field(str),
    "name": Field(str),
    "blurb": Field(str),
    "date": Field(str),
    "val_loss": Field((int, float)),
    "val_bpb": Field((int, float)),
    "bytes_total": Field(int),
    "proved_bpb": Field((int, float), required=False),
}
_PROVED = {"bpb": Field((int, float)), "text_sha256": Field(str)}

# FineWeb's validation text: 50,000 documents, 151,080,891 bytes. Scores are of all of its tokens
# but a last part of less than one sequence; these are the counts for sequences of 2,048 tokens that
# the challenge's accepted records state, by the name of the tokenized text.
TEXT_BYTES = 151_080_891
_COUNTS = {
    "sp1024": (62_021_632,),
    "sp4096": (45_508_608, 45_514_752),  # two tokenizers have had this name
    "sp8192": (40_540_160,),
    "caseops": (47_851_520,),
    "byte260": (151_130_112,),
    "bytes": (151_078_912,),
}
_SEQUENCE = 2048
_LONGEST = 65536


def check(folder: Path) -> CheckResult:
    """Check a submission folder against every rule. Raises BadInput when there is none."""
    if not folder.is_dir():
        raise BadInput(f"there is no folder {folder}: give a submission folder")
    return CheckResult(folder=str(folder), findings=list(_Submission(folder).findings()))


def _finding(rule: str, good: bool | None, evidence: str) -> RuleFinding:
    verdict = "unknown" if good is None else "yes" if good else "no"
    return RuleFinding(rule=rule, verdict=verdict, evidence=shown(evidence, 700))


def _list(items: Iterable[object], at_most: int = 6) -> str:
    listed = [str(item) for item in items]
    more = f" and {len(listed) - at_most} more" if len(listed) > at_most else ""
    return "; ".join(listed[:at_most]) + more


def _counts(values: Iterable[float]) -> str:
    return _list((f"{value:,.0f}" for value in values), 4)


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


class _Submission:
    """A folder as it was read, and the rules on it."""

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

    # Reading ------------------------------------------------------------------------------------

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
            log, _ = logs.read(entry.path, entry.name, self.source)
        except BadInput as error:
            self.unreadable.append(f"{entry.name}: {error}")
            return None
        return log

    def _claims(self) -> tuple[dict[str, Any], list[str]]:
        entries = self.contents.of("claims")
        if not entries:
            return {}, ["it is missing, or it is not a regular file"]
        tree, problems = json_files.load(entries[0].path)
        return tree, problems + (json_files.check(tree, _FIELDS) if tree or not problems else [])

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

    # Rules --------------------------------------------------------------------------------------

    def findings(self) -> Iterator[RuleFinding]:
        yield from self._files()
        problems = _list(self.claim_problems)
        said = f"submission.json has its fields{', but: ' + problems if problems else ''}"
        yield _finding("schema", not problems, said)
        yield from self._sizes()
        yield from self._times()
        yield from self._numbers()
        yield from self._seeds()
        yield from self._score()
        yield from self._seed_results()
        yield from self._text()
        yield from self._printed_source()
        for proof in self.proofs:
            yield self._proof(proof)

    def _files(self) -> Iterator[RuleFinding]:
        names = {entry.name for entry in self.contents.files}
        readme = any(name.lower().startswith("readme") for name in names)
        missing = [] if readme else ["README.md"]
        missing += [] if "submission.json" in names else ["submission.json"]
        missing += [] if self.script else ["train_gpt.py"]
        missing += [] if self.logs else ["a training log with a final score"]
        said = f"missing: {', '.join(missing)}" if missing else "all are there"
        if self.contents.left_out:
            said += f" (left out: {_list(self.contents.left_out)})"
        yield _finding("files: README, submission.json, script, log", not missing, said)
        odd = self.contents.odd + self.unreadable
        yield _finding(
            "files: regular, and read in full",
            not odd,
            _list(odd) or "each is a file that was read",
        )
        if not self.script:
            return
        if self.script.name != "train_gpt.py":
            said = f"the script is called {self.script.name}"
            yield _finding("script: its name is train_gpt.py", False, said)
        problem = self.script_problem or _compile(self.script.path)
        said = problem or f"{self.script.name} compiles"
        yield _finding("script: compiles", not problem, said)

    def _sizes(self) -> Iterator[RuleFinding]:
        limit = f"size: total in the logs <= {CHALLENGE_BYTES:,}"
        totals = {log.name: log.total.last for log in self.logs}
        over = {n: t for n, t in totals.items() if t and t.value > CHALLENGE_BYTES}
        vague = [
            n for n, t in totals.items() if not t or t.value + t.slack > CHALLENGE_BYTES
        ]  # rounded megabytes
        if over:
            said = _list(f"{n} states {t.value:,.0f} bytes" for n, t in over.items() if t)
            yield _finding(limit, False, said)
        elif vague or not totals:
            said = f"no total in bytes: {_list(vague)}" if vague else "no log states a total"
            yield _finding(limit, None, said)
        else:
            most = max(t.value for t in totals.values() if t)
            yield _finding(limit, True, f"at most {most:,.0f} bytes by the logs")
        yield self._sum_of_parts()
        if not self.script:
            return
        size = self.script.size_bytes
        counted = sorted({log.code.last.value for log in self.logs if log.code.last})
        without = [log.name for log in self.logs if not log.code.last]
        good = None if without or not counted else counted == [size]
        if any(value != size for value in counted):
            good = False
        said = f"{self.script.name} has {size:,} bytes, the logs count {_counts(counted) or 'none'}"
        yield _finding("size: code in the logs = the script here", good, said)
        yield from self._uncounted()
        yield from self._claimed_sizes()

    def _sum_of_parts(self) -> RuleFinding:
        rule = "size: model + code = total, in each log"
        wrong, silent = [], []
        for log in self.logs:
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
            return _finding(rule, False, _list(wrong))
        if silent or not self.logs:
            return _finding(rule, None, f"not all three are stated: {_list(silent) or 'no log'}")
        return _finding(rule, True, "the parts sum to the total")

    def _uncounted(self) -> Iterator[RuleFinding]:
        """Report files that could hold weights or code, and the size with them."""
        assert self.script
        models = [log.model.last.value for log in self.logs if log.model.last]
        sizes = list(models)
        extra: list[Entry] = []
        attached: list[Entry] = []
        for entry in self.contents.of("uncounted", "script"):
            if entry == self.script or not entry.size_bytes:
                continue
            if contents.could_be_model(entry) and entry.size_bytes in sizes:
                sizes.remove(entry.size_bytes)  # one for each log
                attached.append(entry)
            else:
                extra.append(entry)
        attached += self.contents.of("model")
        more = list(contents.problems(self.contents, self.source))
        extra_bytes = sum(e.size_bytes for e in extra) + sum(size for _, size in more)
        said = ""
        if extra:
            names = _list((e.name for e in extra), 5)
            said = f"{len(extra)} more files, {extra_bytes:,} bytes, are in no count: {names}"
        said = "; ".join(filter(None, [said, _list((sentence for sentence, _ in more), 5)]))
        yield _finding(
            "size: no weights or code beside the script", not said,
            said or "only papers, logs, results and the script",
        )  # fmt: skip
        largest = max([*models, *(e.size_bytes for e in attached)], default=None)
        here = self.script.size_bytes + extra_bytes
        rule = f"size: model + the files here <= {CHALLENGE_BYTES:,}"
        if largest is None:
            said = f"the files here have {here:,} bytes, and no log states the model's"
            yield _finding(rule, None if here <= CHALLENGE_BYTES else False, said)
        else:
            total = int(largest) + here
            said = f"the largest model and what the script may read here are {total:,} bytes"
            yield _finding(rule, total <= CHALLENGE_BYTES, said)

    def _claimed_sizes(self) -> Iterator[RuleFinding]:
        assert self.script
        total = self.claims.get("bytes_total")
        stated = [log.total.last for log in self.logs if log.total.last]
        if isinstance(total, int) and not isinstance(total, bool) and stated:
            good = any(abs(total - t.value) <= t.slack for t in stated)
            logged = _counts(t.value for t in stated)
            said = f"bytes_total is {shown(str(total), 30)}, the logs say {logged}"
            yield _finding("size: bytes_total = a total in the logs", good, said)
        else:
            yield _finding("size: bytes_total = a total in the logs", None, "nothing to compare")
        code = self.claims.get("bytes_code")
        if code is not None:
            size = self.script.size_bytes
            said = f"bytes_code is {shown(str(code), 30)}, {self.script.name} has {size:,} bytes"
            good = number(code) == size
            yield _finding("size: bytes_code = the script here", good, said)
        most = self.claims.get("bytes_artifact_max")
        models = [log.model.last for log in self.logs if log.model.last]
        if most is not None and models:
            largest = max(models, key=lambda r: r.value)
            value = number(most)
            good = value is not None and abs(value - largest.value) <= largest.slack
            said = (
                f"bytes_artifact_max is {shown(str(most), 30)}, the logs say {largest.value:,.0f}"
            )
            yield _finding("size: bytes_artifact_max = the logs' largest model", good, said)

    def _times(self) -> Iterator[RuleFinding]:
        for what, key in (("training", "train"), ("evaluation", "evaluation")):
            rule = f"time: {what} <= {LIMIT_S:.0f} s"
            times = {log.name: getattr(log, key).largest for log in self.logs}
            late = {n: t for n, t in times.items() if t is not None and t > LIMIT_S + _SLACK_S}
            silent = [n for n, t in times.items() if t is None]
            if late:
                yield _finding(rule, False, _list(f"{n}: {t:,.1f} s" for n, t in late.items()))
            elif silent or not times:
                said = f"no time of {what} in {_list(silent)}" if times else "there is no log"
                yield _finding(rule, None, said)
            else:
                yield _finding(rule, True, f"at most {max(times.values()):,.1f} s by the logs")

    def _numbers(self) -> Iterator[RuleFinding]:
        """Report impossible values, and values whose unit or form is unclear."""
        impossible: list[str] = []
        unclear: list[str] = []
        for log in self.logs:
            parts = [log.model, log.code, log.total, log.train, log.evaluation, log.tokens]
            parts.append(log.text_bytes)
            impossible += [f"{log.name}: {x}" for x in log.impossible]
            impossible += [f"{log.name}: {x}" for part in parts for x in part.impossible]
            unclear += [f"{log.name}: {x}" for part in parts for x in part.unclear]
        said = _list(impossible) or "all are"
        yield _finding("numbers: finite and above zero, in the logs", not impossible, said)
        if unclear:
            said = f"unit or form is not clear: {_list(unclear)}"
            yield _finding("units: of times and sizes in the logs", None, said)

    def _seeds(self) -> Iterator[RuleFinding]:
        wrong = []
        for log in self.logs:
            if log.named_seed is not None and log.seeds and log.named_seed not in log.seeds:
                wrong.append(f"{log.name} says seed {_list(sorted(log.seeds))} in its text")
        yield _finding(
            "seeds: a log's name = its text",
            not wrong,
            _list(wrong) or "no log contradicts its name",
        )
        alike: dict[tuple[str, ...], list[str]] = {}
        for log in self.logs:
            alike.setdefault(log.losses, []).append(log.name)
        copies = [" and ".join(names) for x, names in alike.items() if x and len(names) > 1]
        copies += [
            f"seed{one.seed}/ and seed{other.seed}/ hold one artifact"
            for one, other in itertools.combinations(self.proofs, 2)
            if one.facts
            and other.facts
            and one.facts.artifact_sha256 == other.facts.artifact_sha256
        ]
        yield _finding(
            "seeds: each log has losses of its own", not copies,
            f"these state the same losses to the last digit: {_list(copies)}" if copies
            else "no two logs state the same losses",
        )  # fmt: skip
        stated = {log.seed for log in self.logs if log.seed is not None}
        silent = [log.name for log in self.logs if log.seed is None]
        rule = f"seeds: {SEEDS} different ones in the logs' text"
        named = ", ".join(map(str, sorted(stated)))
        said = f"{len(self.logs)} logs, seeds {shown(named) or 'none are named'}"
        if silent:
            said += f"; not one seed in the text of {_list(silent)}"
        if len(stated) >= SEEDS and not silent:
            yield _finding(rule, True, said)
        else:
            possible = len(stated) + len(silent) >= SEEDS
            yield _finding(rule, None if possible else False, said)
        listed = self.claims.get("seeds")
        if isinstance(listed, list) and stated and not silent:
            good = {x for x in listed if isinstance(x, int) and not isinstance(x, bool)} == stated
            good = good and len(listed) == len(stated)
            said = f"submission.json lists {shown(str(listed))}, the logs have {shown(named)}"
            yield _finding("seeds: in submission.json = in the logs", good, said)

    # Score --------------------------------------------------------------------------------------

    def _score(self) -> Iterator[RuleFinding]:
        claimed = number(self.claims.get("val_bpb"))
        rule = "score: val_bpb = the logs' mean"
        if claimed is None or not any(log.scores for log in self.logs):
            said = "nothing to compare: no val_bpb, or no final score in a log"
            yield _finding(rule, None, said)
        else:
            good, said, label = _against_logs(self.logs, self.other_logs, claimed)
            yield _finding(rule, good, said)
            if label is not None:
                yield from self._loss(label)
        if self.proofs:
            yield self._proved_score(claimed)

    def _loss(self, label: str) -> Iterator[RuleFinding]:
        """Compare val_loss with the lines whose bits per byte are the score."""
        claimed = number(self.claims.get("val_loss"))
        losses = [log.by_label()[label].loss for log in self.logs if label in log.by_label()]
        if claimed is None or not losses or any(loss is None for loss in losses):
            return
        good, mean = _is_mean(claimed, [loss for loss in losses if loss])
        said = (
            f"val_loss {claimed} beside a mean of {mean:.6f} nats per token ({label or 'val_loss'})"
        )
        yield _finding("loss: val_loss = the logs' mean", good, said)

    def _proved_score(self, claimed: float | None) -> RuleFinding:
        """Compare the stated score with what the proofs show."""
        rule = "score: val_bpb = the decoded proofs' mean"
        bpb = [proof.facts.bpb for proof in self.proofs if proof.facts]
        logged = {log.seed for log in self.logs}
        unproved = logged - {proof.seed for proof in self.proofs}
        if claimed is None or not bpb or len(bpb) < len(self.proofs):
            return _finding(
                rule, None, "nothing to compare: a proof does not decode, or no val_bpb"
            )
        mean = sum(bpb) / len(bpb)
        separately = number(self.claims.get("proved_bpb"))
        if separately is not None and abs(separately - mean) > TOLERANCE:
            said = f"proved_bpb {separately}, the decoded proofs have {mean:.6f} bits per byte"
            return _finding("score: proved_bpb = the decoded proofs' mean", False, said)
        if unproved:
            seeds = ", ".join(sorted(map(str, unproved)))
            said = f"there are proofs, but none for the logs of seed {shown(seeds)}"
            return _finding("score: a proof for each log", None, said)
        good = abs(claimed - mean) <= TOLERANCE
        said = f"val_bpb {claimed}, the decoded proofs have {mean:.6f} bits per byte"
        return _finding(rule, good, said)

    def _seed_results(self) -> Iterator[RuleFinding]:
        results = self.claims.get("seed_results")
        if not isinstance(results, dict):
            return
        by_seed: dict[str, list[Log]] = {}
        for log in self.logs + self.other_logs:
            own = log.seed if log.seed is not None else log.named_seed
            by_seed.setdefault(str(own), []).append(log)
        proofs = {str(proof.seed): proof.facts for proof in self.proofs if proof.facts}
        wrong: list[str] = []
        if len(results) > _MOST_SEEDS:
            wrong.append(f"{len(results):,} seeds, more than {_MOST_SEEDS} are not looked at")
        for name, result in itertools.islice(results.items(), _MOST_SEEDS):
            seed = shown(str(name), 20)
            if name not in by_seed:
                wrong.append(f"seed {seed} has no log")
                continue
            fields = result if isinstance(result, dict) else {}
            wrong += [
                f"seed {seed} claims {field} {shown(str(fields[field]), 40)}, {source}"
                for field, source in _unsupported(fields, by_seed[name], proofs.get(name))
            ]
        said = _list(wrong) or "each is in its log"
        yield _finding("seed_results: each value = its log and proof", not wrong, said)

    # Text ---------------------------------------------------------------------------------------

    def _text(self) -> Iterator[RuleFinding]:
        facts = [proof.facts for proof in self.proofs if proof.facts]
        hashes = {h for log in self.logs for h in log.text_hashes}
        hashes |= {fact.text_sha256 for fact in facts}
        lengths = {fact.lengths_sha256 for fact in facts}
        sizes = {x.value for log in self.logs for x in log.text_bytes.values}
        sizes |= {float(fact.text_bytes) for fact in facts}
        counts = {x.value for log in self.logs for x in log.tokens.values}
        by_tokenizer: dict[frozenset[str], set[float]] = {}  # one text has several counts
        for log in self.logs:
            by_tokenizer.setdefault(frozenset(log.datasets), set()).update(
                x.value for x in log.tokens.values
            )
        claimed = self.claims.get("text_sha256")
        if claimed is not None:
            hashes.add(shown(str(claimed)))
        groups: list[tuple[str, Collection[object]]] = [
            ("hashes of the text", hashes),
            ("hashes of its documents' lengths", lengths),
            ("sizes in bytes", sizes),
            *(("counts of tokens", _without_remainders(c)) for c in by_tokenizer.values()),
        ]
        several = [
            f"{len(values)} {what}: {shown(_list(sorted(values, key=str), 3), 300)}"
            for what, values in groups
            if len(values) > 1
        ]
        tokens = {float(fact.tokens) for fact in facts}
        if facts and counts and max(counts) > max(sizes) + 50_000:
            several.append(f"{max(counts):,.0f} tokens of a text of {max(sizes):,.0f} bytes")
        elif tokens and counts and max(abs(a - b) for a in counts for b in tokens) > _LONGEST:
            several.append(f"{_counts(counts)} tokens in the logs, {_counts(tokens)} decoded")
        known = hashes or sizes or counts
        said = _list(several) or ("no log states a text" if not known else "one text")
        yield _finding(
            "text: one in submission.json, logs and proofs",
            None if not known else not several,
            said,
        )
        proved = {proof.seed for proof in self.proofs if proof.facts}
        if facts and self.logs and {log.seed for log in self.logs} <= proved:
            yield self._decoded_text(facts)
        else:
            verdicts = [_published(log) for log in self.logs]
            good = _worst([verdict for verdict, _ in verdicts])
            shown_first = [said for verdict, said in verdicts if verdict is good]
            said = _list(dict.fromkeys(shown_first), 3) or "no log states a count of tokens"
            yield _finding("text: tokens in the logs = FineWeb's validation text", good, said)

    def _decoded_text(self, facts: list[Decoded]) -> RuleFinding:
        """Say whether the text that the proofs hold has the size of the challenge's."""
        size, sha256 = facts[0].text_bytes, facts[0].text_sha256
        if abs(size - TEXT_BYTES) <= TEXT_BYTES // 100:
            return _finding("challenge's text: decoded bytes", True, f"{size:,} bytes were decoded")
        said = (
            f"not FineWeb's validation text: the proofs hold {size:,} bytes with SHA-256 {sha256}, "
            f"the challenge's text has {TEXT_BYTES:,} bytes"
        )
        return _finding("challenge's text: decoded bytes", None, said)

    def _printed_source(self) -> Iterator[RuleFinding]:
        printed = [log for log in self.logs if log.prints_source]
        other = [log.name for log in printed if not log.source_matches]
        if printed:
            said = "the source in the logs is the script"
            if other:
                said = f"{_list(other)}: the source in the log is not the script"
            yield _finding("source: printed in the logs = the script here", not other, said)

    # Proofs -------------------------------------------------------------------------------------

    def _proof(self, proof: Proof) -> RuleFinding:
        rule = f"proof of seed{proof.seed}: decodes to what its files and log state"
        facts = proof.facts
        if facts is None:
            return _finding(rule, False, proof.problem)
        wrong = list(self._disagreements(proof, facts))
        said = f"{facts.bpb:.8f} bits per byte, {facts.text_bytes:,} bytes decoded"
        return _finding(rule, not wrong, f"{said}, but: {_list(wrong)}" if wrong else said)

    def _disagreements(self, proof: Proof, facts: Decoded) -> Iterator[str]:
        """Yield every value of the result files and of the log that is not what was decoded."""
        if not (proof.place / "prove.json").is_file():
            yield "prove.json is missing"
        for name, expected in _expected(facts, proof.seed).items():
            file = proof.place / f"{name}.json"
            if not file.is_file() or file.is_symlink():
                continue
            tree, problems = json_files.load(file)
            if name == "prove" and not problems:
                problems = json_files.check(tree, _PROVED)
            yield from (f"{name}.json: {problem}" for problem in problems)
            for field, value in expected.items():
                if field in tree and not _same(tree[field], value):
                    yield f"{name}.json: {field} is {shown(str(tree[field]), 70)}, not {value}"
            yield from _inner(name, tree, facts)
        for log in self.logs:
            if log.seed != proof.seed:
                continue
            model = log.model.last
            if model and abs(model.value - facts.artifact_bytes) > model.slack:
                has = f"the artifact has {facts.artifact_bytes:,}"
                yield f"{log.name} counts {model.value:,.0f} bytes of model, {has}"
            if log.text_hashes and log.text_hashes != {facts.text_sha256}:
                yield f"{log.name} states another SHA-256 of the text"
            if log.artifact_hashes and log.artifact_hashes != {facts.artifact_sha256}:
                yield f"{log.name} states another SHA-256 of the artifact"
            for score in log.scores:
                if _is_better(score.bpb.value - _PRINTED, facts):
                    yield f"{log.name} states {score.bpb.value} bits per byte"


def _expected(facts: Decoded, seed: int) -> dict[str, dict[str, object]]:
    """Return what the result files of a seed must say, by file and field."""
    found = {kind.stage: fields for kind, fields in verdicts.truth(facts, "val.fwp").items()}
    for name in ("pack", "score"):  # nothing in a submission may be stale
        found[name]["artifact_sha256"] = facts.artifact_sha256
    found["train"]["seed"] = seed
    found["verify"] = {"verified": True, "reason": "", "bpb": facts.bpb}
    return found


def _inner(name: str, tree: dict[str, Any], facts: Decoded) -> Iterator[str]:
    """Compare values for which equality is not the rule."""
    if name == "pack" and isinstance(parts := tree.get("parts"), dict):
        sizes = [number(size) for size in parts.values()]
        if None in sizes or sum(size for size in sizes if size) != facts.artifact_bytes:
            yield "pack.json: parts do not sum to the artifact's bytes"
    if name == "pack" and "within_budget" in tree:
        budget = number(tree.get("budget_bytes"))
        if tree["within_budget"] is not (budget is None or facts.artifact_bytes <= budget):
            yield f"pack.json: within_budget is {shown(str(tree['within_budget']), 40)}"
    if name == "verify" and isinstance(inner := tree.get("decoded"), dict):
        true = facts.model_dump()
        for field, value in inner.items():
            if field in true and not _same(value, true[field]):
                yield f"verify.json: decoded.{shown(field, 40)} is {shown(str(value), 70)}"
    if name == "score" and "bpb" in tree:
        bpb = number(tree["bpb"])
        if bpb is None or _is_better(bpb, facts) or bpb > facts.bpb + TOLERANCE:
            stated = shown(str(tree["bpb"]), 40)
            yield f"score.json: bpb is {stated}, the proof has {facts.bpb:.8f}"


def _is_better(bpb: float, facts: Decoded) -> bool:
    """Say whether a score beats its proof by more than a proof's header and coder cost."""
    shorter = facts.proof_bytes - bpb * facts.text_bytes / 8
    size = facts.proof_bytes
    return bool(bpb <= 0 or shorter > min(_SCORE_BYTES, size / 4) + size / 1000)


def _same(value: object, expected: object) -> bool:
    if isinstance(expected, bool) or isinstance(value, bool):
        return value is expected
    if isinstance(expected, float):
        found = number(value)
        return found is not None and isclose(found, expected, rel_tol=1e-9)
    return type(value) is type(expected) and value == expected


def _is_mean(claimed: float, readings: list[Reading]) -> tuple[bool, float]:
    """Say whether a claim is the mean of printed values; also return the mean.

    The tolerance is fixed, and grows by the digits that the logs leave open, never by the claim's.
    """
    mean = sum(reading.value for reading in readings) / len(readings)
    near = TOLERANCE + min(_PRINTED, max(reading.slack for reading in readings)) + 1e-9
    return abs(claimed - mean) <= near, mean


def _sharpest(labels: list[str], runs: list[Log]) -> list[str]:
    """Drop labels whose score is printed again with more digits: x, where there is x_exact."""
    best: dict[str, tuple[float, str]] = {}
    for label in labels:
        slack = max(log.by_label()[label].bpb.slack for log in runs)
        name = label.replace("_exact", "")
        if name not in best or slack < best[name][0]:
            best[name] = (slack, label)
    return [label for label in labels if best[label.replace("_exact", "")][1] == label]


def _against_logs(
    runs: list[Log], further: list[Log], claimed: float
) -> tuple[bool | None, str, str | None]:
    """Return (verdict, evidence, the label of the score that the claim is the mean of).

    A claim that is the mean of one log per seed, where there are more, is not known to be the
    runs' score: which of them count is a choice.
    """
    scored = [log for log in runs if log.scores]
    if len(scored) < len(runs):
        silent = [log.name for log in runs if not log.scores]
        return None, f"no final score in {_list(silent)}", None
    labels = _sharpest(list(logs.labels_of_all(runs)), runs)
    for label in labels:
        good, mean = _is_mean(claimed, [log.by_label()[label].bpb for log in runs])
        if good:
            said = f"val_bpb {claimed} is the mean of {label or 'val_bpb'} ({mean:.6f})"
            return True, said, label
    headline = [log.scores[-1].bpb for log in runs]
    mean = sum(reading.value for reading in headline) / len(headline)
    said = f"val_bpb {claimed}, the mean of the logs' last scores is {mean:.6f}"
    groups: dict[object, list[Log]] = {}
    further = [log for log in further if log.scores and log.seed is not None]
    for log in [*runs, *further]:
        groups.setdefault(log.seed if log.seed is not None else log.name, []).append(log)
    if len(groups) < len(runs) + len(further):
        for choice in itertools.islice(itertools.product(*groups.values()), 4096):
            chosen = list(choice)
            for label in logs.labels_of_all(chosen):
                if _is_mean(claimed, [log.by_label()[label].bpb for log in chosen])[0]:
                    names = ", ".join(log.name for log in chosen)
                    more = "there are more logs of these seeds"
                    return None, f"val_bpb {claimed} is a mean of {names}: {more}", None
    if not labels and _is_mean(claimed, headline)[0]:
        return None, f"{said}, and they are of different kinds", None
    if len(runs) > 1 and any(_is_mean(claimed, [s.bpb])[0] for log in runs for s in log.scores):
        said = f"val_bpb {claimed} is one value of the logs; the mean of their last is {mean:.6f}"
    return False, said, None


def _unsupported(
    fields: dict[str, Any], runs: list[Log], facts: Decoded | None
) -> Iterator[tuple[str, str]]:
    """Yield (field, where it is not) of a seed's results."""
    name = runs[0].name
    for field in ("val_bpb", "claimed_score_bpb"):
        if field in fields:
            value = number(fields[field])
            scores = [score.bpb for log in runs for score in log.scores]
            if value is None or not any(_is_mean(value, [score])[0] for score in scores):
                yield field, f"which {name} does not say"
    if facts and "val_bpb" in fields:
        value = number(fields["val_bpb"])
        if value is None or _is_better(value, facts):
            yield "val_bpb", f"the decoded proof has {facts.bpb:.8f}"
    if "proved_bpb" in fields and facts and not _same(fields["proved_bpb"], facts.bpb):
        yield "proved_bpb", f"the decoded proof has {facts.bpb}"
    if "val_loss" in fields:
        value = number(fields["val_loss"])
        stated = [score.loss for log in runs for score in log.scores if score.loss]
        if stated and (value is None or not any(_is_mean(value, [loss])[0] for loss in stated)):
            yield "val_loss", f"which {name} does not say"
    if "proof_bytes" in fields and facts and not _same(fields["proof_bytes"], facts.proof_bytes):
        yield "proof_bytes", f"the decoded proof has {facts.proof_bytes:,}"
    if "artifact_bytes" in fields:
        sizes = [r for log in runs for r in (log.model.last, log.total.last) if r]
        value = number(fields["artifact_bytes"])
        if sizes and (value is None or not any(abs(value - r.value) <= r.slack for r in sizes)):
            yield "artifact_bytes", f"which {name} does not say"
    for field, key in (("train_time_s", "train"), ("eval_time_s", "evaluation")):
        readings = [r for log in runs for r in getattr(log, key).values]
        value = number(fields.get(field))
        if field in fields and readings:
            near = [
                r
                for r in readings
                if value is not None and abs(r.value - value) <= min(1, r.value / 100) + r.slack
            ]
            if not near:
                yield field, f"which {name} does not say"


def _without_remainders(counts: set[float]) -> set[float]:
    """Merge counts of tokens of one text: each may leave out the last part of a sequence."""
    largest = max(counts, default=0.0)
    same = {c for c in counts if largest - c < min(_LONGEST, largest / 100)}
    return counts - same | ({largest} if same else set())


def _published(log: Log) -> tuple[bool | None, str]:
    """Say whether a log's counts of tokens fit the challenge's validation text, and why."""
    counts = [reading.value for reading in log.tokens.values]
    if not counts:
        return None, f"{log.name} states no count of validation tokens"
    named = {name for name in log.datasets if name in _COUNTS}
    if "caseops" in log.datasets:
        named = {"caseops"}
    other = sorted(log.datasets - named) if not named else []
    allowed = [low for name in (named or _COUNTS) for low in _COUNTS[name]]
    wrong = [count for count in counts if not any(_is_count(count, x, log) for x in allowed)]
    if not wrong:
        return (
            True,
            f"{counts[-1]:,.0f} validation tokens ({', '.join(sorted(named)) or 'published'})",
        )
    said = f"{log.name} states {_counts(wrong)} validation tokens"
    if other and min(wrong) * 8 >= TEXT_BYTES:
        return None, f"{said} of {shown(', '.join(other))}, whose count is not known here"
    published = ", ".join(f"{n}: {_counts(_COUNTS[n])}" for n in sorted(named or _COUNTS))
    return False, f"{said}; FineWeb's validation text has {published}"


def _is_count(count: float, low: int, log: Log) -> bool:
    """Say whether a count covers the whole text but for the rest of one sequence.

    low: the count with sequences of 2,048 tokens, so that the text has up to 2,048 more.
    """
    sequence = min(max(log.sequence, 1), _LONGEST)
    if sequence > _SEQUENCE and count % sequence == 0:
        return count in (low // sequence * sequence, (low + _SEQUENCE) // sequence * sequence)
    return low <= count <= low + _SEQUENCE


def _worst(verdicts: list[bool | None]) -> bool | None:
    if False in verdicts:
        return False
    return None if None in verdicts or not verdicts else True


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
