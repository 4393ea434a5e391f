"""Bytes, seconds and memory of a pr264 artifact whose matrices are Gaussian.

    python bench/pack_gaussian.py [--gptq]

Each row of each matrix has its own spread, 10 % around 1 (log-normal). The tokenizer is made of
as many short pieces as the challenge's has. Under the recipe's rule fewer than 14,700,000 bytes are
expected, under gptq no more than its budget (exit 1 if not).
"""

from __future__ import annotations

import argparse
import itertools
import resource
import sys
import time

import numpy as np
import torch

from fairway.coding import artifact
from fairway.config import toml
from fairway.data.byte_tokenizer import train_tokenizer
from fairway.data.tokenizer import Tokenizer
from fairway.formats.tensors import Weights
from fairway.model.parameters import is_matrix, tensors_of
from fairway.pipeline import pack
from fairway.train.calibrate import Curvature

LIMIT_BYTES = 14_700_000


def gaussian_state(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, Weights]:
    """float32 tensors; small ones have spread 1, too."""
    random = np.random.default_rng(seed)
    state = {}
    for name, shape in shapes.items():
        weights = random.standard_normal(shape, np.float32)
        if is_matrix(name):
            weights *= np.exp(0.1 * random.standard_normal((shape[0], 1), np.float32))
        state[name] = np.asarray(weights)
    return state


def tokenizer(vocab_size: int) -> Tokenizer:
    words = (" ".join("".join(w) for w in itertools.product("etaoinsh", repeat=n)) for n in (3, 4))
    return train_tokenizer([w.encode() for w in words], vocab_size)


def entropy_bits(codes: np.ndarray) -> float:
    """Order-0 entropy per code."""
    share = np.unique(codes, return_counts=True)[1] / codes.size
    return float(-(share * np.log2(share)).sum())


def random_curvatures(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, Curvature]:
    """Covariances of 4n random inputs whose channels differ in strength; rows differ, too."""
    random = torch.Generator().manual_seed(seed)
    found = {}
    for name, shape in shapes.items():
        if is_matrix(name):
            m, n = shape
            x = torch.randn(4 * n, n, generator=random)
            x *= torch.exp(0.5 * torch.randn(n, generator=random))
            found[name] = Curvature(x.T @ x / len(x), torch.rand(m, generator=random) + 0.1)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gptq", action="store_true", help="fill 16,000,000 bytes by gptq instead")
    args = parser.parse_args()
    shape = toml.load("pr264", ["pack.quantizer=gptq"] if args.gptq else [])
    words = tokenizer(shape.data.vocab_size)
    tensors = tensors_of(shape.model, words.vocab_size)
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    state = gaussian_state(shapes, seed=0)
    curvatures = random_curvatures(shapes, seed=0) if args.gptq else {}
    print(f"{sum(w.size for w in state.values()):,} weights, {torch.get_num_threads()} threads")
    start = time.perf_counter()
    packed = pack.pack_weights(shape.model, words, state, curvatures, shape.pack)
    done = time.perf_counter()
    made = artifact.read(packed.data)
    print(f"packed in {done - start:.1f} s, opened in {time.perf_counter() - done:.1f} s")
    for part, size in made.parts.items():
        print(f"{part:10} {size:12,}")
    print(f"{'total':10} {len(packed.data):12,}  {made.bits_per_weight:.4f} bits per weight")
    for name in ("blocks.0.attn.q", "blocks.0.mlp.up", "blocks.0.mlp.down", "embed.tokens"):
        row = next(row for row in made.tensors if row.name == name)
        entropy = entropy_bits(made.matrices[name].codes)
        print(
            f"{name}: {row.bits_per_weight:.4f} bits per weight; entropy of its codes {entropy:.4f}"
        )
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"peak memory {peak_bytes / 1e9:.2f} GB")
    return 0 if len(packed.data) < (shape.pack.budget_bytes if args.gptq else LIMIT_BYTES) else 1


if __name__ == "__main__":
    sys.exit(main())
