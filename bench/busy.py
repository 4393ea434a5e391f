"""Train beside busy processes: tokens per second, and against a fair share of the processor.

    python bench/busy.py [--recipe mini] [--seconds 30] [--busy 0 1 4] [--json]
                         [--python PYTHON ...] [--set KEY=VALUE ...]

Each busy process counts without end. N cores beside b of them leave a training of N threads the
share N / (N + b). --python names interpreters whose `fairway` is measured, in turn, so that two
commits are compared in one run; the default is this one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SPIN = "while True: pass"


@contextmanager
def busy(count: int) -> Iterator[None]:
    processes = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def tokens_per_s(python: str, recipe: str, sets: list[str], others: int) -> float:
    with tempfile.TemporaryDirectory(prefix="fairway-busy-") as folder:
        options = ["--out", f"{folder}/run", *(word for s in sets for word in ("--set", s))]
        command = [python, "-m", "fairway"]
        subprocess.run([*command, "prepare", recipe, *options], check=True, capture_output=True)
        with busy(others):
            subprocess.run([*command, "train", recipe, *options], check=True, capture_output=True)
        saved = json.loads(Path(folder, "run/train.json").read_text("utf-8"))
        return float(saved.get("result", saved)["tokens_per_s"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="mini")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 4])
    parser.add_argument("--python", nargs="+", default=[sys.executable])
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    sets = [*args.set, f"train.seconds={args.seconds}", "run.validate_tokens=1024"]
    sets += ["run.train_limit_s=100000", "data.held_out_bytes=100000"]
    rows = []
    for others in args.busy:
        for place, python in enumerate(args.python):
            rate = tokens_per_s(python, args.recipe, sets, others)
            rows.append({"busy": others, "python": place, "tokens_per_s": rate})
            quiet = next(r["tokens_per_s"] for r in rows if r["python"] == place)
            share = quiet * cores / (cores + others)
            print(f"busy {others}, python {place}: {rate:,.0f} tokens/s, {rate / share:.2f} of it")
    if args.json:
        print(json.dumps({"cores": cores, "recipe": args.recipe, "rows": rows}))


if __name__ == "__main__":
    main()
