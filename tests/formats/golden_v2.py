"""Makes tests/golden/tiny-v2.fairway: python tests/pack/golden_v2.py

The integers come from SHAKE-256, so they are the same everywhere and whatever the coder does.
Every feature of the format is in it: exponents of rows and columns, columns that are those of the
matrix before and others, fp16 scales, a wide matrix, empty rows, rows like the one above, large
codes.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from fairway.coding import artifact
from fairway.coding.artifact import Artifact
from fairway.formats import tensors as stored
from fairway.formats.tensors import Codes, Matrix, Quantized
from fairway.model.gpt import tensors_of

GOLDEN = Path(__file__).parents[1] / "golden" / "tiny-v2.fairway"
VERSION_1 = GOLDEN.with_name("tiny-v1.fairway")  # its network and tokenizer are used again


def bell(name: str, shape: tuple[int, ...]) -> Codes:
    """Integers around 0, nearly Gaussian, of spread 209."""
    size = int(np.prod(shape))
    eight = np.frombuffer(hashlib.shake_256(name.encode()).digest(8 * size), np.uint8)
    return (eight.reshape(size, 8).astype(np.int16).sum(1) - 1020).reshape(shape).astype(np.int16)


def matrix(name: str, shape: tuple[int, int]) -> Matrix:
    m, n = shape
    leaf = name.rsplit(".", 1)[-1]
    codes = bell(name, shape) // (20 if leaf == "tokens" else 120)  # spreads of 10 and 2
    if leaf == "tokens":
        codes[5:8] = codes[4] + bell(f"{name} apart", (3, n)) // 120  # nearly the row above
    if leaf == "o":
        codes[1] = 0
    if leaf == "up":
        codes[0, 0] = stored.NARROW_CODE
    if leaf == "down":  # wide
        codes[2, 1], codes[0, 3] = stored.LARGEST_CODE, -1234
    if leaf.startswith("bigram"):
        scales = (np.abs(bell(f"{name} rows", (m,))) + 9).astype(np.float16) / np.float16(16384)
        return Matrix(
            codes, scales.view(np.uint16).astype(np.int64), np.zeros(n, np.int64), "fp16_row"
        )
    rows = -20 + bell(f"{name} rows", (m,)).astype(np.int64) // 100
    owner = name.replace(".k", ".q").replace(".v", ".q")  # q, k and v have the same columns
    return Matrix(
        codes, rows, bell(f"{owner} columns", (n,)).astype(np.int64) // 150, "log2_quarter"
    )


def quantized(like: Artifact) -> Quantized:
    tensors = tensors_of(like.model, like.vocab_size, like.bos_id)
    matrices, vectors = {}, {}
    for name, shape, part, _ in tensors:
        if part == "small":
            vectors[name] = 200 + bell(name, shape) // 4, -28 - len(vectors)
        else:
            matrices[name] = matrix(name, shape)
    return Quantized(matrices, vectors)


def make() -> bytes:
    like = artifact.read(VERSION_1)
    return artifact.write(like.model, like.tokenizer, quantized(like))


if __name__ == "__main__":
    GOLDEN.write_bytes(make())
    print(f"{GOLDEN}: {GOLDEN.stat().st_size:,} bytes")
