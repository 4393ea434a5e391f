"""Rules on the proofs of a submission: decoded, they say what its files must say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fairway.challenge import claims as json_files
from fairway.challenge import logs
from fairway.challenge.claims import ProveClaims, number
from fairway.challenge.contents import shown
from fairway.challenge.submitted import (
    PRINTED,
    TOLERANCE,
    Proof,
    Submission,
    finding,
    is_better,
    is_same,
    listed,
)
from fairway.errors import BadInput
from fairway.page.proof import MOST_FILE_BYTES, page_of_bytes
from fairway.pipeline import verdicts
from fairway.pipeline.command_results import RuleFinding
from fairway.pipeline.results import Decoded


def proof(given: Submission, attached: Proof) -> RuleFinding:
    """Compare the result files and the log of a seed with its decoded proof."""
    rule = f"proof of seed{attached.seed}: decodes to what its files and log state"
    facts = attached.facts
    if facts is None:
        return finding(rule, False, attached.problem)
    wrong = list(_disagreements(given, attached, facts))
    said = f"{facts.bpb:.8f} bits per byte, {facts.text_bytes:,} bytes decoded"
    return finding(rule, not wrong, f"{said}, but: {listed(wrong)}" if wrong else said)


def pages(given: Submission) -> Iterator[RuleFinding]:
    """Compare the page of each seed with the one that its artifact and its proof make."""
    for entry in given.contents.of("page"):
        problem = ""
        try:
            files = [
                logs.read_bytes(entry.path.with_name(name), MOST_FILE_BYTES)
                for name in ("model.fairway", "val.fwp")
            ]
            made = page_of_bytes(*files)
            if logs.read_bytes(entry.path, len(made)) != made:
                problem = "it is another page than this Fairway makes of the model and the proof"
        except BadInput as error:
            problem = str(error)
        said = problem or "it is the page of the model and the proof, byte for byte"
        yield finding(f"page {entry.name}: made of the two files beside it", not problem, said)


def _disagreements(given: Submission, proof: Proof, facts: Decoded) -> Iterator[str]:
    """Yield every value of the result files and of the log that is not what was decoded."""
    if not (proof.place / "prove.json").is_file():
        yield "prove.json is missing"
    for name, expected in _expected(facts, proof.seed).items():
        file = proof.place / f"{name}.json"
        if not file.is_file() or file.is_symlink():
            continue
        tree, problems = json_files.load(file)
        if name == "prove" and not problems:
            problems = json_files.check(tree, ProveClaims)
        yield from (f"{name}.json: {problem}" for problem in problems)
        for field, value in expected.items():
            if field in tree and not is_same(tree[field], value):
                yield f"{name}.json: {field} is {shown(str(tree[field]), 70)}, not {value}"
        yield from _inner(name, tree, facts)
    for log in given.logs:
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
            if is_better(score.bpb.value - PRINTED, facts):
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
            if field in true and not is_same(value, true[field]):
                yield f"verify.json: decoded.{shown(field, 40)} is {shown(str(value), 70)}"
    if name == "score" and "bpb" in tree:
        bpb = number(tree["bpb"])
        if bpb is None or is_better(bpb, facts) or bpb > facts.bpb + TOLERANCE:
            stated = shown(str(tree["bpb"]), 40)
            yield f"score.json: bpb is {stated}, the proof has {facts.bpb:.8f}"
