"""What a submission's script runs: all stages of its recipe, or the check of what lies beside it.

    python train_gpt.py --out runs/mine [--seed 42] [--set data.path=FOLDER]
    python train_gpt.py --check

Under torchrun the first form trains on all processes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import traceback
from pathlib import Path

from fairway import console
from fairway.challenge import trainlog
from fairway.config.schema import Recipe
from fairway.config.toml import load
from fairway.errors import BadInput, Interrupted
from fairway.io import foreign
from fairway.pipeline.directory import RunDirectory
from fairway.pipeline.prove import decode
from fairway.pipeline.results import PrepareResult
from fairway.pipeline.runner import run_stages
from fairway.pipeline.stage import stages_of
from fairway.pipeline.verify import compared, verify_files


def main(recipe: str, script: str) -> int:
    """Return the exit code: 0 good, 1 the verdict is no, 2 bad input, 3 a fault of ours."""
    parser = argparse.ArgumentParser(prog=f"python {Path(script).name}")
    parser.add_argument("--out", type=Path, default=Path("run"), help="run directory")
    parser.add_argument("--seed", help="of the training run; default: the recipe's")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--check", action="store_true", help="decode the proofs in seed*/")
    given = parser.parse_args()
    seed = [] if given.seed is None else [f"train.seed={given.seed}"]
    try:
        if given.check:
            return check(Path(script).resolve().parent)
        return run_all(load(recipe, [*given.set, *seed]), RunDirectory(given.out), Path(script))
    except (BadInput, OSError) as error:
        console.error(str(error))
        return 2
    except (Interrupted, KeyboardInterrupt):
        return 130
    except Exception:
        traceback.print_exc()
        return 3


def run_all(recipe: Recipe, run: RunDirectory, script: Path) -> int:
    """Run every stage, and write the log in the challenge's words to RUN/train.log and stdout."""
    results = run_stages(recipe, run, [stage.name for stage in stages_of(recipe) if stage.cached])
    if "prove" not in results:  # another rank of torchrun shares only the training
        return 0
    prepared = run.require(PrepareResult)
    verdict = compared(
        verify_files(run.artifact, run.proof_file),
        "the validation text",
        prepared.text_sha256,
        prepared.lengths_sha256,
    )
    run.record(verdict)
    if not (verdict.verified and verdict.decoded):
        print(verdict.failure)
        return 1
    text = trainlog.text(recipe, run, script.stat().st_size, verdict.decoded)
    (run.path / "train.log").write_text(text, "utf-8")
    print(text, end="")
    return 0


def check(folder: Path) -> int:
    """Decode the proof of every seed, with its artifact alone, and compare with its results."""
    seeds = sorted(folder.glob("seed*/prove.json"))
    if not seeds:
        raise BadInput(f"{folder} holds no folder seed* with results, so there is nothing to check")
    good = True
    for results in seeds:
        claimed = foreign.read_json(results, "the result")
        with tempfile.TemporaryDirectory() as out:
            proof = results.parent / "val.fwp"
            try:
                found = decode(results.parent / "model.fairway", proof, Path(out, "text"))
            except BadInput as error:
                print(f"{results.parent.name}: NOT verified: {error}")
                good = False
                continue
        bpb = 8 * proof.stat().st_size / found.text_bytes
        same = (bpb, found.text_sha256) == (claimed["bpb"], claimed["text_sha256"])
        good = good and same
        verdict = "verified" if same else f"NOT verified, {claimed['bpb']:.8f} is claimed"
        print(
            f"{results.parent.name}: {bpb:.8f} bits per byte, {found.text_bytes} bytes, {verdict}"
        )
    sys.stdout.flush()
    return 0 if good else 1
