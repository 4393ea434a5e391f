"""`submit --check`: is a submission folder complete, and does it say what its logs say?

Works on any folder in the challenge's form, ours or another's. Nothing of a folder is executed;
proofs, where a folder has them, are decoded. Rules: REFERENCE D1.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from fairway.budget import CHALLENGE_BYTES
from fairway.errors import BadInput
from fairway.results import CheckResult, RuleFinding

LIMIT_S = 600.0  # of training and of evaluation, each
SEEDS = 3
_FIELDS: dict[str, type | tuple[type, ...]] = {
    "author": str,
    "github_id": str,
    "name": str,
    "blurb": str,
    "date": str,
    "val_loss": (int, float),
    "val_bpb": (int, float),
    "bytes_total": int,
}
_CODE = {".py", ".c", ".cu", ".cpp", ".sh"}
_SLACK_S = 0.5  # of a clock that is read once per step


@dataclass(frozen=True)
class Log:
    """What a training log says; None where it says nothing."""

    name: str
    seed: int | None
    artifact_bytes: int | None
    code_bytes: int | None
    total_bytes: int | None
    train_s: float | None
    eval_s: float | None
    scores: list[float]  # bits per byte after training, in order; the last is the headline
    val_tokens: int | None
    source_matches: bool | None  # whether the script it prints is the one in the folder


def check(folder: Path) -> CheckResult:
    """Raises BadInput when there is no such folder."""
    if not folder.is_dir():
        raise BadInput(f"there is no folder {folder}: give a submission folder")
    script = _script(folder)
    source = script.read_text("utf-8", "replace") if script else ""
    names = sorted(f for f in folder.iterdir() if f.suffix in (".log", ".txt"))
    logs = [_read(f, source) for f in names if f.name != "requirements.txt"]
    logs = _distinct([log for log in logs if log.scores or log.total_bytes])
    claims, problems = _claims(folder / "submission.json", _FIELDS)
    findings = [
        *_files(folder, script, logs),
        _finding("schema", not problems, "submission.json has its fields" + _list(problems)),
        *_sizes(folder, script, logs, claims),
        *_times(logs),
        *_seeds(logs),
        *_scores(logs, claims),
        *_consistency(logs),
        *_proofs(folder, claims),
    ]
    return CheckResult(folder=str(folder), findings=findings)


def _finding(rule: str, good: bool | None, evidence: str) -> RuleFinding:
    return RuleFinding(
        rule=rule,
        verdict="unknown" if good is None else "yes" if good else "no",
        evidence=evidence,
    )


def _list(problems: list[str]) -> str:
    return ", but: " + "; ".join(problems) if problems else ""


# Reading ----------------------------------------------------------------------------------------


def _script(folder: Path) -> Path | None:
    scripts = sorted(folder.glob("train_gpt*.py"), key=lambda f: (f.name != "train_gpt.py", f.name))
    return scripts[0] if scripts else None


def _distinct(logs: list[Log]) -> list[Log]:
    """Without copies of a log under a second name."""
    kept: dict[tuple[object, ...], Log] = {}
    for log in logs:
        kept.setdefault((log.seed, log.total_bytes, log.train_s, *log.scores), log)
    return list(kept.values())


def _claims(
    file: Path, fields: Mapping[str, type | tuple[type, ...]]
) -> tuple[dict[str, Any], list[str]]:
    """What stands in a JSON file, and what is wrong with it."""
    try:
        tree = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        return {}, ["it is missing"]
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        return {}, [f"it is not valid JSON ({error})"]
    if not isinstance(tree, dict):
        return {}, ["it is no object"]
    problems = [f"no {name}" for name in fields if name not in tree]
    for name, kind in fields.items():
        value = tree.get(name)
        if name in tree and (not isinstance(value, kind) or isinstance(value, bool)):
            problems.append(f"{name} is {json.dumps(value)[:40]}")
    if isinstance(date := tree.get("date"), str) and not re.match(r"\d{4}-\d\d-\d\d", date):
        problems.append(f"date is '{date}', not YYYY-MM-DD")
    return tree, problems


def _number(value: object) -> float | None:
    """None: it is none, or not finite."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if isfinite(value) else None
    except OverflowError:
        return None


def _read(file: Path, source: str) -> Log:
    text = file.read_text("utf-8", "replace").replace("\r\n", "\n")
    printed = bool(source) and "\nimport torch" in text
    body = text.replace(source.strip(), "") if source.strip() in text else text
    lines = [
        line for line in body.splitlines() if not re.search(r"log0?\(|print\(|f\"|f'|^\s*#", line)
    ]

    def last(pattern: str) -> float | None:
        found = [m for line in lines for m in re.findall(pattern, line)]
        return float(str(found[-1]).replace(",", "")) if found else None

    def whole(pattern: str) -> int | None:
        value = last(pattern)
        return None if value is None else int(value)

    named = re.search(r"seed[_-]?(\d+)", file.name)
    seed = int(named[1]) if named else whole(r"^\s*(?:.*[ ,])?seed[:=]\s*(\d+)")
    train_ms = [
        float(m) for line in lines for m in re.findall(r"train_time:\s*(\d+\.?\d*)ms", line)
    ]
    total_eval_s, eval_ms = last(r"total_eval_time:(\d+\.?\d*)s"), last(r"eval_time:\s*(\d+)ms")
    scores = [
        float(m[1])
        for line in lines
        if not line.lstrip().startswith(("step", "diagnostic", "val_step", "ttp", "warmup"))
        and (m := re.search(r"val_bpb[:=]\s*(\d+\.\d+)", line))
    ]
    seconds = [t for t in (total_eval_s, eval_ms and eval_ms / 1000) if t is not None]
    return Log(
        name=file.name,
        seed=seed,
        artifact_bytes=whole(r"Serialized model(?! raw)[^:]*:\s*([\d,]+) bytes"),
        code_bytes=whole(r"Code size[^:]*:\s*([\d,]+) bytes"),
        total_bytes=whole(r"Total submission size[^:]*:\s*([\d,]+) bytes"),
        train_s=max(train_ms) / 1000 if train_ms else None,
        eval_s=max(seconds) if seconds else None,
        scores=scores,
        val_tokens=whole(r"val_loader:.*tokens:(\d+)") or whole(r"val_tokens:\s*(\d+)"),
        source_matches=source.strip() in text if printed else None,
    )


# Rules ------------------------------------------------------------------------------------------


def _files(folder: Path, script: Path | None, logs: list[Log]) -> Iterator[RuleFinding]:
    missing = [n for n in ("README.md", "submission.json") if not (folder / n).is_file()]
    missing += [] if script else ["train_gpt.py"]
    missing += [] if logs else ["a training log with a final score"]
    yield _finding(
        "files", not missing, f"missing: {', '.join(missing)}" if missing else "all are there"
    )
    if script and script.name != "train_gpt.py":
        yield _finding("script's name", False, f"the script is called {script.name}")
    if script:
        text = script.read_bytes()
        try:
            compile(text, script.name, "exec", dont_inherit=True)
            problem = ""
        except (SyntaxError, ValueError) as error:
            problem = str(error)
        yield _finding("script compiles", not problem, problem or f"{script.name} compiles")


def _sizes(
    folder: Path, script: Path | None, logs: list[Log], claims: dict[str, Any]
) -> Iterator[RuleFinding]:
    over = [log for log in logs if (log.total_bytes or 0) > CHALLENGE_BYTES]
    totals = [log.total_bytes for log in logs if log.total_bytes]
    known = bool(totals) or None
    said = f"at most {max(totals):,} bytes by the logs" if totals else "no log states a total"
    if over:
        said = "; ".join(f"{x.name} states {x.total_bytes:,} bytes" for x in over)
    yield _finding(f"size <= {CHALLENGE_BYTES:,}", not over if known else None, said)
    counted = {log.code_bytes for log in logs if log.code_bytes}
    if script and counted:
        size = script.stat().st_size
        shown = " and ".join(f"{n:,}" for n in sorted(counted))
        same = counted == {size}
        yield _finding(
            "code's size", same, f"{script.name} has {size:,} bytes, the logs count {shown}"
        )
        artifacts = [log.artifact_bytes for log in logs if log.artifact_bytes]
        if artifacts and not same:
            real = max(artifacts) + size
            yield _finding(
                "size as shipped",
                real <= CHALLENGE_BYTES,
                f"the largest artifact and {script.name} as it lies here are {real:,} bytes",
            )
    if script:
        others = [f for f in folder.rglob("*") if f.suffix in {*_CODE, ".model"} and f != script]
        size = sum(f.stat().st_size for f in others)
        listed = ", ".join(sorted(f.name for f in others)[:5])
        yield _finding(
            "nothing beside the script",
            not others,
            f"{len(others)} more files of code or tokenizers, {size:,} bytes, are in no count: "
            f"{listed}" if others else "one script",
        )  # fmt: skip
    total = claims.get("bytes_total")
    if isinstance(total, int) and totals:
        yield _finding(
            "bytes_total",
            total in totals,
            f"bytes_total is {total:,}, the logs say {' and '.join(f'{n:,}' for n in totals)}",
        )


def _times(logs: list[Log]) -> Iterator[RuleFinding]:
    for rule, key in (("training", "train_s"), ("evaluation", "eval_s")):
        times = {log.name: getattr(log, key) for log in logs if getattr(log, key) is not None}
        late = {name: t for name, t in times.items() if t > LIMIT_S + _SLACK_S}
        shown = "; ".join(f"{name}: {t:.1f} s" for name, t in (late or times).items())
        yield _finding(
            f"{rule} <= {LIMIT_S:.0f} s",
            not late if times else None,
            shown or f"no log states the time of {rule}",
        )


def _seeds(logs: list[Log]) -> Iterator[RuleFinding]:
    seeds = [log.seed for log in logs if log.seed is not None]
    shown = ", ".join(map(str, seeds)) or "none are named"
    enough = len(set(seeds)) >= SEEDS and len(seeds) == len(logs)
    several = f"{len(logs)} logs, seeds {shown}"
    yield _finding(f"{SEEDS} seeds", enough if seeds or len(logs) < SEEDS else None, several)


def _scores(logs: list[Log], claims: dict[str, Any]) -> Iterator[RuleFinding]:
    finals = [log.scores[-1] for log in logs if log.scores]
    claimed = _number(claims.get("val_bpb"))
    if not finals or claimed is None:
        yield _finding("score", None, "nothing to compare: no val_bpb, or no final score in a log")
        return
    digits = len(str(claimed).partition(".")[2])
    mean = sum(finals) / len(finals)
    near = 0.5 * 10.0**-digits + 5e-5  # logs may round to four digits
    every = [x for log in logs for x in log.scores]
    if abs(claimed - mean) <= near:
        good, said = True, f"val_bpb {claimed} is the mean of the logs ({mean:.6f})"
    elif any(abs(claimed - x) <= near for x in every):
        good = len(finals) == 1
        said = f"val_bpb {claimed} is one value of the logs, whose headlines' mean is {mean:.6f}"
    else:
        good, said = False, f"val_bpb {claimed} is in no log; the headlines' mean is {mean:.6f}"
    yield _finding("score", good, said)
    yield from _seed_results(logs, claims)


def _seed_results(logs: list[Log], claims: dict[str, Any]) -> Iterator[RuleFinding]:
    results = claims.get("seed_results")
    if not isinstance(results, dict):
        return
    by_seed = {str(log.seed): log for log in logs}
    wrong = []
    for seed, result in results.items():
        log, said = (
            by_seed.get(str(seed)),
            result.get("val_bpb") if isinstance(result, dict) else None,
        )
        bpb = _number(said)
        if log is None:
            wrong.append(f"seed {seed} has no log")
        elif said is not None and not any(bpb and abs(bpb - x) <= 1e-4 for x in log.scores):
            wrong.append(f"seed {seed} claims {str(said)[:40]}, which {log.name} does not say")
    yield _finding("seed_results", not wrong, "; ".join(wrong) or "each is in its log")


def _consistency(logs: list[Log]) -> Iterator[RuleFinding]:
    tokens = {log.val_tokens for log in logs if log.val_tokens}
    if tokens:
        shown = " and ".join(f"{n:,}" for n in sorted(tokens))
        yield _finding("one validation text", len(tokens) == 1, f"{shown} validation tokens")
    printed = {log.name: log.source_matches for log in logs if log.source_matches is not None}
    if printed:
        other = [name for name, same in printed.items() if not same]
        said = (
            f"{', '.join(other)}: the source in the log is not the script"
            if other
            else ("the source in the logs is the script")
        )
        yield _finding("source in the logs", not other, said)


def _proofs(folder: Path, claims: dict[str, Any]) -> Iterator[RuleFinding]:
    """Of folders that have them: seed*/ with prove.json, model.fairway and val.fwp."""
    seeds = claims.get("seed_results")
    for results in sorted(folder.glob("seed*/prove.json")):
        from fairway.prove.proof import decode

        name = results.parent.name
        claimed, problems = _claims(results, {"bpb": float, "text_sha256": str})
        if problems:
            yield _finding(f"proof of {name}", False, f"prove.json: {'; '.join(problems)}")
            continue
        proof = results.parent / "val.fwp"
        seed = seeds.get(name.removeprefix("seed")) if isinstance(seeds, dict) else None
        listed = seed.get("proved_bpb") if isinstance(seed, dict) else None
        with tempfile.TemporaryDirectory() as out:
            try:
                found = decode(results.parent / "model.fairway", proof, Path(out, "text"))
                bpb = 8 * proof.stat().st_size / found.text_bytes
                good = (bpb, found.text_sha256) == (claimed["bpb"], claimed["text_sha256"])
                said = f"{bpb:.8f} bits per byte, {found.text_bytes:,} bytes decoded"
                if listed is not None and listed != bpb:
                    good, said = False, f"{said}, submission.json says {str(listed)[:40]}"
            except (BadInput, OSError) as error:
                good, said = False, str(error)
        yield _finding(f"proof of {name}", good, said)
