"""Write finished runs of one recipe as a folder in the challenge's form.

README.md, submission.json, a log per seed, the script and its requirements; and a folder per seed
with the artifact, the proof and the results, so that the score can be decoded from the folder
alone. Everything is written from typed results.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from fairway import console
from fairway.challenge import script, trainlog
from fairway.challenge.checks import check
from fairway.config import budget
from fairway.config.toml import dumps
from fairway.errors import BadInput
from fairway.io.atomic import short_hash
from fairway.page.proof import is_small, page_of_run
from fairway.pipeline.command_results import SubmitResult
from fairway.pipeline.directory import RunDirectory
from fairway.pipeline.evidence import Proved, proved
from fairway.pipeline.seeds import distinct_seeds
from fairway.pipeline.stage import stages_of
from fairway.significance import paired


def submit(
    runs: Sequence[Path], out: Path, author: str, github_id: str, title: str = ""
) -> SubmitResult:
    """Write the folder `out` and check it. Raises BadInput.

    The script decodes every proof in an empty folder, by a process that cannot open this package,
    before the folder gets its name. What it states as the score is the mean of the proofs that
    were decoded here; other figures of results are claims, and are called so.
    """
    found = sorted((proved(RunDirectory(run)) for run in runs), key=lambda one: one.train.seed)
    distinct_seeds([one.run for one in found])
    if out.exists():
        raise BadInput(f"{out} exists: remove it, or choose another place with --out")
    recipe = found[0].recipe
    partial = out.parent / f".{short_hash(out.name)}.tmp"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        source = script.bundle(recipe)
        (partial / "train_gpt.py").write_bytes(source)
        claims = _claims(found, len(source), author, github_id, title)
        for one in found:
            _copy(one, partial, len(source))
        (partial / "submission.json").write_text(json.dumps(claims, indent=2) + "\n", "utf-8")
        (partial / "README.md").write_text(_readme(found, claims), "utf-8")
        pins = "".join(f"{line}\n" for line in script.requirements(recipe))
        (partial / "requirements.txt").write_text(pins, "utf-8")
        _run_once(partial)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return SubmitResult(
        folder=str(out),
        bundle_bytes=len(source),
        seeds=claims["seeds"],
        val_bpb=claims["val_bpb"],
        check=check(out),
    )


def _claims(
    found: Sequence[Proved], code_bytes: int, author: str, github_id: str, title: str
) -> dict[str, Any]:
    """Return the content of submission.json."""
    first = found[0]
    bpb = [one.decoded.bpb for one in found]
    artifact = max(one.decoded.artifact_bytes for one in found)
    return {
        "author": author,
        "github_id": github_id,
        "name": title or first.recipe.name,
        "blurb": first.recipe.description or first.recipe.name,
        "date": date.today().isoformat(),
        "track": "10min_16mb",
        "val_loss": float(np.mean([one.decoded.nats_per_token for one in found])),
        "val_bpb": float(np.mean(bpb)),
        "val_bpb_std": float(np.std(bpb, ddof=1)) if len(bpb) > 1 else 0.0,
        "seeds": [one.train.seed for one in found],
        "text_sha256": first.decoded.text_sha256,
        "text_rule": first.decoded.text_rule,
        "seed_results": {
            str(one.train.seed): {
                "val_loss": one.decoded.nats_per_token,
                "val_bpb": one.decoded.bpb,
                "claimed_score_bpb": one.score.bpb,
                "artifact_bytes": one.decoded.artifact_bytes,
                "proof_bytes": one.decoded.proof_bytes,
                "steps": one.train.steps,
                "train_time_s": round(one.train.train_s, 3),
                "eval_time_s": round(one.score.seconds, 3),
            }
            for one in found
        },
        "bytes_code": code_bytes,
        "bytes_artifact_max": artifact,
        "bytes_total": artifact + code_bytes,
        "bytes_limit": budget.CHALLENGE_BYTES,
        "hardware": f"{first.train.world_size} x {first.train.device}",
        "pytorch_version": version("torch"),
    }


def _copy(one: Proved, folder: Path, code_bytes: int) -> None:
    """Write the log of a run, and copy its artifact, proof and results into seed<N>/."""
    seed = one.train.seed
    log = trainlog.text(one.recipe, one.run, code_bytes, one.decoded)
    (folder / f"train_seed{seed}.log").write_text(log, "utf-8")
    place = folder / f"seed{seed}"
    place.mkdir()
    for file in (one.run.artifact, one.run.proof_file):
        shutil.copy(file, place)
    if is_small(one.decoded.text_bytes, one.decoded.grade):
        (place / one.run.page.name).write_bytes(page_of_run(one.run))
    for stage in stages_of(one.recipe):
        if stage.cached:  # a verdict is not copied: who gets the folder decodes
            shutil.copy(one.run.path / f"{stage.name}.json", place)


def _run_once(folder: Path) -> None:
    """Let the script decode every proof where it can see nothing else. Raises BadInput."""
    with console.track("the script decodes every proof", 0, "") as _:
        done = script.run_apart(["train_gpt.py", "--check"], folder)
    if done.returncode:
        last = (done.stdout + done.stderr).strip().splitlines()[-1:]
        raise BadInput(f"the script does not reproduce the scores: {' '.join(last)}")


def _readme(found: Sequence[Proved], claims: dict[str, Any]) -> str:
    rows = "\n".join(
        f"| {seed} | {r['val_bpb']:.6f} | {r['claimed_score_bpb']:.6f} | "
        f"{r['artifact_bytes']:,} | "
        f"{r['steps']} | {r['train_time_s']:.1f} | {r['eval_time_s']:.1f} |"
        for seed, r in claims["seed_results"].items()
    )
    summary = ""
    if len(found) > 1:
        estimate = paired([one.decoded.bpb for one in found])
        summary = (
            f"Proved: mean ± standard deviation {estimate.mean:.4f} ± {claims['val_bpb_std']:.4f}, "
            f"95 % interval {estimate.low:.4f} to {estimate.high:.4f}."
        )
    template = Template(Path(__file__).with_name("readme.md").read_text("utf-8"))
    return template.substitute(
        name=claims["name"],
        blurb=claims["blurb"],
        rows=rows,
        summary=summary,
        code=f"{claims['bytes_code']:,}",
        total=f"{claims['bytes_total']:,}",
        limit=f"{claims['bytes_limit']:,}",
        recipe=dumps(found[0].recipe),
        seed=claims["seeds"][0],
    )
