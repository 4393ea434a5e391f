"""Kill -9 every stage at random moments; the same command must end with the same bytes.

    python bench/kill.py [--times 10] [--root FOLDER]

Each stage of `tiny` is started, killed at a moment drawn uniformly from the time that it took
uninterrupted, and started again until it finishes; its products are compared by hash.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SETS = ["train.steps=150", "run.checkpoint_every_s=0.2"]
PRODUCTS = {
    "prepare": lambda run: sorted((run.parent / "data").rglob("*.*")),
    "train": lambda run: [run / "weights.safetensors"],
    "pack": lambda run: [run / "model.fairway"],
    "score": lambda run: [run / "score_documents.npy"],
    "prove": lambda run: [run / "proof" / "val.fwp"],
}


def command(stage: str, run: Path) -> list[str]:
    line = [sys.executable, "-m", "fairway", stage]
    if stage in ("pack", "score", "prove"):
        return [*line, str(run)]
    return [*line, "tiny", "--out", str(run), *(o for s in SETS for o in ("--set", s))]


def digest(stage: str, run: Path) -> str:
    total = hashlib.sha256()
    for file in PRODUCTS[stage](run):
        if file.name != "manifest.json" and not file.name.startswith("."):  # it holds a duration
            total.update(file.name.encode() + file.read_bytes())
    return total.hexdigest()


def start(stage: str, run: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command(stage, run), env=environment, stderr=subprocess.DEVNULL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--root", type=Path, default=None)
    args = parser.parse_args()
    root = args.root or Path(tempfile.mkdtemp(prefix="fairway-kill-"))
    whole, moments, failures = root / "whole" / "runs" / "tiny", random.Random(1), 0
    for stage in PRODUCTS:
        before = root / f"before-{stage}"
        if whole.parent.exists():
            shutil.copytree(whole.parent, before)
        began = time.perf_counter()
        assert start(stage, whole).wait() == 0
        seconds, expected = time.perf_counter() - began, digest(stage, whole)
        killed = same = 0
        for attempt in range(args.times):
            folder = root / f"{stage}-{attempt}"
            if before.exists():
                shutil.copytree(before, folder)
            run = folder / "tiny"
            process = start(stage, run)
            time.sleep(moments.uniform(0, seconds))
            process.kill()
            killed += process.wait() < 0
            assert start(stage, run).wait() == 0
            same += digest(stage, run) == expected
            shutil.rmtree(folder)
        failures += args.times - same
        print(f"{stage}: {seconds:.1f} s uninterrupted; {killed} of {args.times} killed before the"
              f" end; {same} of {args.times} ended with the same bytes", flush=True)  # fmt: skip
    raise SystemExit(failures > 0)


if __name__ == "__main__":
    main()
