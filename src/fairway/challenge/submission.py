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
from fairway.config.schema import Recipe
from fairway.config.toml import dumps
from fairway.errors import BadInput
from fairway.io.atomic import short_hash
from fairway.pipeline import runner, verdicts
from fairway.pipeline.directory import Job, RunDirectory
from fairway.pipeline.results import Decoded, SubmitResult
from fairway.pipeline.stage import stages_of
from fairway.report.compare import one_recipe
from fairway.report.report import Results, seeds_table


def submit(
    runs: Sequence[Path], out: Path, author: str, github_id: str, title: str = ""
) -> SubmitResult:
    """Write the folder `out` and check it. Raises BadInput.

    The script decodes every proof in an empty folder, by a process that cannot open this package,
    before the folder gets its name. What it states as the score is the mean of the proofs that
    were decoded here; other figures of results are claims, and are called so.
    """
    found = [(RunDirectory(folder), _ready(RunDirectory(folder))) for folder in runs]
    _different_seeds(found)
    one_recipe(runs)
    if out.exists():
        raise BadInput(f"{out} exists: remove it, or choose another place with --out")
    found.sort(key=lambda pair: _seed(pair[1]))
    recipe = found[0][0].load()
    partial = out.parent / f".{short_hash(out.name)}.tmp"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        source = script.bundle(recipe)
        (partial / "train_gpt.py").write_bytes(source)
        claims = _claims(recipe, found, len(source), author, github_id, title)
        for run, results in found:
            _copy(run, recipe, partial, results, len(source))
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


def _seed(results: Results) -> int:
    assert results.train
    return results.train.seed


def _decoded(results: Results) -> Decoded:
    assert results.verdict
    assert results.verdict.decoded
    return results.verdict.decoded


def _ready(run: RunDirectory) -> Results:
    """Return the results of a run whose proof holds. Raises BadInput where it does not."""
    recipe = run.load()
    runner.require_current(Job(recipe, run), [s.result for s in stages_of(recipe) if s.cached])
    verdict = verdicts.known_or_decoded(run)
    if not verdict.verified:
        raise BadInput(f"the proof of {run.path} does not hold: {verdict.reason}")
    return Results(run)


def _different_seeds(found: Sequence[tuple[RunDirectory, Results]]) -> None:
    """Raise BadInput unless every run has a seed of its own."""
    seeds = [_seed(results) for _, results in found]
    if len(set(seeds)) < len(seeds):
        raise BadInput(f"the runs have the seeds {seeds}: each seed belongs in once")


def _claims(
    recipe: Recipe,
    found: Sequence[tuple[RunDirectory, Results]],
    code_bytes: int,
    author: str,
    github_id: str,
    title: str,
) -> dict[str, Any]:
    """Return the content of submission.json."""
    per_seed: dict[str, dict[str, float]] = {}
    for _, r in found:
        assert r.train
        assert r.score
        decoded = _decoded(r)
        per_seed[str(r.train.seed)] = {
            "val_loss": decoded.nats_per_token,
            "val_bpb": decoded.bpb,
            "claimed_score_bpb": r.score.bpb,
            "artifact_bytes": decoded.artifact_bytes,
            "proof_bytes": decoded.proof_bytes,
            "steps": r.train.steps,
            "train_time_s": round(r.train.train_s, 3),
            "eval_time_s": round(r.score.seconds, 3),
        }
    bpb = [x["val_bpb"] for x in per_seed.values()]
    artifact = max(int(x["artifact_bytes"]) for x in per_seed.values())
    first = found[0][1].train
    assert first
    return {
        "author": author,
        "github_id": github_id,
        "name": title or recipe.name,
        "blurb": recipe.description or recipe.name,
        "date": date.today().isoformat(),
        "track": "10min_16mb",
        "val_loss": float(np.mean([x["val_loss"] for x in per_seed.values()])),
        "val_bpb": float(np.mean(bpb)),
        "val_bpb_std": float(np.std(bpb, ddof=1)) if len(bpb) > 1 else 0.0,
        "seeds": [_seed(results) for _, results in found],
        "text_sha256": _decoded(found[0][1]).text_sha256,
        "text_rule": _decoded(found[0][1]).text_rule,
        "seed_results": per_seed,
        "bytes_code": code_bytes,
        "bytes_artifact_max": artifact,
        "bytes_total": artifact + code_bytes,
        "bytes_limit": budget.CHALLENGE_BYTES,
        "hardware": f"{first.world_size} x {first.device}",
        "pytorch_version": version("torch"),
    }


def _copy(
    run: RunDirectory, recipe: Recipe, folder: Path, results: Results, code_bytes: int
) -> None:
    """Write the log of a run, and copy its artifact, proof and results into seed<N>/."""
    own = run.load() if run.recipe.exists() else recipe
    seed = _seed(results)
    log = trainlog.text(own, run, code_bytes, _decoded(results))
    (folder / f"train_seed{seed}.log").write_text(log, "utf-8")
    place = folder / f"seed{seed}"
    place.mkdir()
    for file in (run.artifact, run.proof_file):
        shutil.copy(file, place)
    for stage in stages_of(own):
        if stage.cached:  # a verdict is not copied: who gets the folder decodes
            shutil.copy(run.path / f"{stage.name}.json", place)


def _run_once(folder: Path) -> None:
    """Let the script decode every proof where it can see nothing else. Raises BadInput."""
    with console.track("the script decodes every proof", 0, "") as _:
        done = script.run_apart(folder / "train_gpt.py", ["--check"], folder)
    if done.returncode:
        last = (done.stdout + done.stderr).strip().splitlines()[-1:]
        raise BadInput(f"the script does not reproduce the scores: {' '.join(last)}")


def _readme(found: Sequence[tuple[RunDirectory, Results]], claims: dict[str, Any]) -> str:
    rows = "\n".join(
        f"| {seed} | {r['val_bpb']:.6f} | {r['claimed_score_bpb']:.6f} | "
        f"{r['artifact_bytes']:,} | "
        f"{r['steps']} | {r['train_time_s']:.1f} | {r['eval_time_s']:.1f} |"
        for seed, r in claims["seed_results"].items()
    )
    summary = ""
    if len(found) > 1:
        table = seeds_table([run for run, _ in found])
        mean, interval = (dict(zip(table.columns, row, strict=True)) for row in table.rows[-2:])
        summary = (
            f"Proved: mean ± standard deviation {mean['proved']}, "
            f"95 % interval {interval['proved']}."
        )
    return _README.substitute(
        name=claims["name"],
        blurb=claims["blurb"],
        rows=rows,
        summary=summary,
        code=f"{claims['bytes_code']:,}",
        total=f"{claims['bytes_total']:,}",
        limit=f"{claims['bytes_limit']:,}",
        recipe=dumps(found[0][0].load()),
        seed=claims["seeds"][0],
    )


_README = Template("""# $name

$blurb

| seed* | proved bits per byte | scored* | artifact, bytes | steps* | training, s* | scoring, s* |
| ---: | ---: | ---: | ---: | ---: | ---: | ---: |
$rows

$summary Columns with * are claimed: they are copied from results, and no file shows them.
Code: $code bytes (train_gpt.py, as it lies here). Code and the largest artifact: $total of
$limit bytes.

## Reproduce

    pip install -r requirements.txt
    python train_gpt.py --check                     # decodes every proof and prints its score
    python train_gpt.py --seed $seed --out run      # the claimed seed: trains, proves, verifies

On 8 GPUs the first two words are torchrun --standalone --nproc-per-node 8.
Where the data lies: --set data.path=FOLDER --set data.tokenizer=FILE.

A proof is the validation text as a compressed file, which the artifact alone decodes: its length
is the score. It shows that the predictions are causal, normalised and made before they learn. It
does not show that the artifact was not trained on the text.

train_gpt.py holds the modules of Fairway that this recipe needs, minified and compressed; it
unpacks them into a temporary folder.

## Recipe

```toml
$recipe```
""")
