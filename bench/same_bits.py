"""One hash of all frequencies, however and wherever they are computed.

    python bench/same_bits.py ARTIFACT [--tokens 512] [--json]

Every row is a process of its own; all must print the same SHA-256. Tokens are drawn at random, with
documents of all lengths. `--one WAY` computes one of them here and prints its hash.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from fairway import console
from fairway.coding import artifact
from fairway.exact.cpu import Network
from fairway.exact.operands import Operands, prepare

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from oracles.exact_network import ExactNetwork

LANES = 3
LEVELS = {  # of the libraries that compute products, and of the compiler
    "as it is": {},
    "one thread": {"OMP_NUM_THREADS": "1"},
    "oneDNN SSE4.1": {"ONEDNN_MAX_CPU_ISA": "SSE41"},
    "oneDNN AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2"},
    "MKL compatible": {"MKL_CBWR": "COMPATIBLE"},
    "MKL AVX2": {"MKL_CBWR": "AVX2"},
    "ATen default": {"ATEN_CPU_CAPABILITY": "default"},
    "ATen AVX2": {"ATEN_CPU_CAPABILITY": "avx2"},
    "numba for any x86-64": {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "+sse2"},
}
WAYS = ("blocks", "steps", "one lane at a time", "uneven blocks")


def tables(operands: Operands, tokens: np.ndarray, edges: list[int]) -> np.ndarray:
    """int64[L, S, V+1], computed in blocks that end at `edges`."""
    network = Network(operands, len(tokens), max(b - a for a, b in pairwise(edges)))
    found = []
    for first, last in pairwise(edges):
        table = np.empty((len(tokens) * (last - first), operands.vocab_size + 1), np.int64)
        network.forward(tokens[:, first:last]).cumulative(table)
        found.append(table.reshape(len(tokens), last - first, -1))
    return np.concatenate(found, 1)


def compute(way: str, operands: Operands, tokens: np.ndarray) -> str:
    """SHA-256 of the tables."""
    S = tokens.shape[1]
    if way == "oracle":
        oracle = ExactNetwork(operands, len(tokens))
        found = np.stack([oracle.step(column).copy() for column in tokens.T], 1)
    elif way == "steps":
        found = tables(operands, tokens, list(range(S + 1)))
    elif way == "one lane at a time":
        found = np.concatenate([tables(operands, lane[None], [0, S]) for lane in tokens])
    elif way == "uneven blocks":
        found = tables(operands, tokens, [0, 1, 2, S // 3, S // 2 + 1, S])
    else:
        found = tables(operands, tokens, [0, *range(64, S, 64), S])
    return hashlib.sha256(found.tobytes()).hexdigest()


def draw(operands: Operands, count: int) -> np.ndarray:
    random = np.random.default_rng(11)
    tokens = random.integers(0, operands.vocab_size, (LANES, count))
    tokens[random.random(tokens.shape) < 0.01] = operands.bos_id
    return tokens


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--tokens", type=int, default=512, help="per lane")
    parser.add_argument("--oracle", action="store_true", help="also the numpy oracle (slow)")
    parser.add_argument("--one", help="|".join([*WAYS, "oracle"]))
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.one:
        operands = prepare(artifact.read(args.artifact))
        print(compute(args.one, operands, draw(operands, args.tokens)))
        return 0
    cases = [(level, way) for level in LEVELS for way in WAYS]
    cases += [("as it is", "oracle")] * args.oracle
    rows = []
    for level, way in cases:
        command = [sys.executable, __file__, str(args.artifact), "--tokens", str(args.tokens)]
        done = subprocess.run(
            [*command, "--one", way],
            env=os.environ | LEVELS[level],
            capture_output=True,
            text=True,
            check=False,
        )
        found = done.stdout.strip() or f"failed: {done.stderr.strip()[-200:]}"
        rows.append({"level": level, "way": way, "sha256": found})
        console.say(f"{level}, {way}: {found[:16]}")
    same = len({row["sha256"] for row in rows}) == 1
    console.say(f"{len(rows)} rows, {'all the same' if same else 'NOT the same'}")
    if args.json:
        print(json.dumps({"torch": torch.__version__, "same": same, "rows": rows}))
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
