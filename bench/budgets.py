"""Bits per byte over byte budgets: the weights of one trained run, packed at several sizes.

    python bench/budgets.py RUN --budgets 100000,200000,400000 --out bench/results/budgets-demo.json

Each budget is packed with Fairway's quantizer and with plain rounding (`gptq`, `uniform`), and the
packed network is scored in separate windows. RUN stays as it is; the runs lie beside it.
"""

from __future__ import annotations

import argparse
import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

from fairway import distributed
from fairway.io.atomic import write_atomic
from fairway.pipeline import runner
from fairway.pipeline.directory import RunDirectory
from fairway.pipeline.results import PackResult, TrainResult
from fairway.train.loop import commit


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="a run directory after train")
    parser.add_argument("--budgets", required=True, help="bytes, as in 100000,200000")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    trained = RunDirectory(args.run).require(TrainResult)
    rows = []
    for quantizer in ("gptq", "uniform"):
        for budget in map(int, args.budgets.split(",")):
            run = RunDirectory(args.run.with_name(f"{args.run.name}-{quantizer}-{budget}"))
            shutil.copytree(args.run, run.path, dirs_exist_ok=True)
            recipe = run.load([f"pack.budget_bytes={budget}", f"pack.quantizer={quantizer}"])
            run.create(recipe)
            packed = runner.perform(recipe, run, PackResult)
            rows.append(
                {
                    "quantizer": quantizer,
                    "budget_bytes": budget,
                    "artifact_bytes": packed.artifact_bytes,
                    "bits_per_weight": round(packed.bits_per_weight, 4),
                    "bpb": round(packed.val_bpb_after, 6),
                }
            )
    about = {
        "recipe": RunDirectory(args.run).load().name,
        "parameters": trained.parameters,
        "bpb_before_packing": round(trained.val_bpb, 6),
        "commit": commit(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "command": f"bench/budgets.py RUN --budgets {args.budgets}",
        "device": distributed.describe(distributed.start("cpu"))["device"],
    }
    write_atomic(args.out, (json.dumps(about | {"rows": rows}, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
