"""`submit --check`: is a submission folder complete, and is what it states true?

Works on any folder in the challenge's form, ours or another's. Nothing of a folder is executed.
Every rule compares two things that the folder holds, or one with a fixed limit, and its name says
which. What a log does not state is "unknown", and unknown is not yes. Attached proofs are decoded,
and then they, not the logs, say what the score and the text are. docs/submit.md lists the rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from fairway.challenge import check_files, check_proofs, check_scores, check_texts
from fairway.challenge.submitted import Submission, judged
from fairway.errors import BadInput
from fairway.pipeline.command_results import CheckResult, RuleFinding


def check(folder: Path) -> CheckResult:
    """Check a submission folder against every rule. Raises BadInput when there is none."""
    if not folder.is_dir():
        raise BadInput(f"there is no folder {folder}: fairway submit RUN... writes a submission")
    return CheckResult(folder=str(folder), findings=list(_findings(Submission(folder))))


def _schema(given: Submission) -> Iterator[RuleFinding]:
    yield judged("schema", given.claim_problems, (), "submission.json has its fields")


_RULES: tuple[Callable[[Submission], Iterator[RuleFinding]], ...] = (
    check_files.files,
    _schema,
    check_files.sizes,
    check_scores.times,
    check_scores.numbers,
    check_scores.seeds,
    check_scores.score,
    check_scores.seed_results,
    check_texts.text,
    check_files.printed_source,
)


def _findings(given: Submission) -> Iterator[RuleFinding]:
    for rule in _RULES:
        yield from rule(given)
    for attached in given.proofs:
        yield check_proofs.proof(given, attached)
    yield from check_proofs.pages(given)
