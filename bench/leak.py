"""What `audit` sees at a cut: how the charges move when all text from there on is another.

    python bench/leak.py --out bench/results/leak.json

Two scorers of tests/gallery on the bytes of LICENSE. Both learn from the text, window by window:
the valid one learns from a window after it has charged it, the leaky one before.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from fairway import distributed
from fairway.io.atomic import write_atomic
from fairway.train.loop import commit

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))
from gallery import scorers  # noqa: E402

TEXT, VOCAB = "LICENSE", 257  # bytes, and 0 for a document's beginning
WINDOW, CUT, SHOWN = 48, 600, 60  # tokens; those on each side of the cut that are kept


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    text = np.frombuffer((ROOT / TEXT).read_bytes(), np.uint8).astype(np.int64) + 1
    tokens = np.concatenate([[0], text])
    changed = tokens.copy()
    changed[CUT:] = np.random.default_rng(1).permutation(tokens[CUT:])
    near = slice(CUT - SHOWN, CUT + SHOWN)
    made = {"valid": scorers.dynamic(VOCAB), "leaky": scorers.slot(VOCAB, WINDOW)}
    about = {
        "text": TEXT, "window": WINDOW, "cut": CUT, "commit": commit(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}", "command": " ".join(sys.argv),
        "device": distributed.describe(distributed.start("cpu"))["device"],
    }  # fmt: skip
    moved = {
        name: np.round((scorer(changed) - scorer(tokens))[near] / np.log(2), 4).tolist()
        for name, scorer in made.items()
    }
    write_atomic(args.out, (json.dumps(about | {"bits_moved": moved}) + "\n").encode())


if __name__ == "__main__":
    main()
