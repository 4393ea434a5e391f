"""Bytes and seconds of a pr264 artifact whose matrices are Gaussian: python bench/pack_gaussian.py

Each row of each matrix has its own spread, 10 % around 1 (log-normal). The tokenizer is made of
as many short pieces as the challenge's has; fewer than 14,700,000 bytes are expected (exit 1 if
not).
"""

from __future__ import annotations

import itertools
import sys
import time

import numpy as np
import torch

from fairway import recipe
from fairway.model.gpt import skeleton
from fairway.pack import artifact, pack, quantize
from fairway.text.tokenizer import Tokenizer, train_tokenizer

LIMIT_BYTES = 14_700_000


def gaussian_state(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, torch.Tensor]:
    """float32 tensors; small ones have spread 1 too, so that their fp16 bytes do not repeat."""
    random = np.random.default_rng(seed)
    state = {}
    for name, shape in shapes.items():
        weights = random.standard_normal(shape, np.float32)
        if quantize.part_of(name) != "small":
            weights *= np.exp(0.1 * random.standard_normal((shape[0], 1), np.float32))
        state[name] = torch.from_numpy(np.asarray(weights))
    return state


def tokenizer(vocab_size: int) -> Tokenizer:
    words = (" ".join("".join(w) for w in itertools.product("etaoinsh", repeat=n)) for n in (3, 4))
    return train_tokenizer([w.encode() for w in words], vocab_size)


def entropy_bits(codes: np.ndarray) -> float:
    """Order-0 entropy per code."""
    share = np.unique(codes, return_counts=True)[1] / codes.size
    return float(-(share * np.log2(share)).sum())


def main() -> int:
    shape = recipe.load("pr264")
    words = tokenizer(shape.data.vocab_size)
    state = gaussian_state(skeleton(shape.model, words.vocab_size, words.bos_id), seed=0)
    print(f"{sum(t.numel() for t in state.values()):,} weights")
    for run in ("with numba's compilation, where nothing is cached", "warm"):
        start = time.perf_counter()
        data = artifact.write(shape.model, words, state, shape.pack)
        written = time.perf_counter()
        made = artifact.read(data)
        done = time.perf_counter()
        pack.check_equal(made, state, shape.pack)
        print(f"{run}: write {written - start:.2f} s, read {done - written:.2f} s")
    for part, size in made.parts.items():
        print(f"{part:10} {size:12,}")
    print(f"{'total':10} {len(data):12,}  {pack.bits_per_weight(made):.4f} bits per weight")
    for name in ("blocks.0.attn.q", "blocks.0.mlp.up", "blocks.0.mlp.down", "embed.tokens"):
        row = next(row for row in made.tensors if row.name == name)
        codes, _ = quantize.codes_from_weights(
            state[name].numpy(), row.code_bits, shape.pack.row_scale
        )
        spent = f"{row.bits_per_weight:.4f} bits per weight with its scales"
        print(f"{name}: {spent}; entropy of its codes {entropy_bits(codes):.4f}")
    return 0 if len(data) < LIMIT_BYTES else 1


if __name__ == "__main__":
    sys.exit(main())
