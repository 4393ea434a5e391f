"""A decoder written from docs/formats.md alone, in plain Python: it shares no code with Fairway.

Only the names and shapes of the network's parameters come from there.
"""

from __future__ import annotations

import struct
import zlib
from bisect import bisect_right
from itertools import accumulate
from math import prod
from pathlib import Path

import numpy as np

from fairway.coding import artifact
from fairway.model.gpt import tensors_of

GOLDEN = Path(__file__).parent.parent / "golden" / "tiny-v1.fairway"
PARTS = ("recipe", "tokenizer", "embedding", "attention", "mlp", "bigram", "small")
LAST_NAMES = {
    "embedding": ("tokens",),
    "attention": ("q", "k", "v", "o"),
    "mlp": ("up", "down"),
    "bigram": ("bigram_table", "bigram_proj"),
}


def table(weights: list[int]) -> list[int]:
    total, size = max(sum(weights), 1), len(weights)
    sums = list(accumulate(weights, initial=0))
    c = [w * (2**30 - size) // total + i for i, w in enumerate(sums)]
    c[-1] = 2**30
    return c


UNIFORM = table([1] * 256)
DIFFERENCES = table([2 ** max(0, 20 - min(d, 256 - d) // 4) for d in range(256)])


class Stream:
    def __init__(self, data: bytes) -> None:
        self.digits, self.span = iter(data), 2**64 - 1
        self.rest = 0  # stream - low
        for _ in range(8):
            self.shift()

    def shift(self) -> None:
        self.rest = self.rest * 256 + next(self.digits, 0)

    def symbol(self, c: list[int]) -> int:
        unit = self.span >> 30
        s = bisect_right(c, min(self.rest // unit, 2**30 - 1)) - 1
        self.rest -= unit * c[s]
        self.span = unit * (c[s + 1] - c[s])
        while self.span < 2**56:
            self.span *= 256
            self.shift()
        return s

    def symbols(self, n: int, alphabet: int) -> list[int]:
        first, last = self.symbol(UNIFORM), self.symbol(UNIFORM)
        counts, level = [0] * alphabet, 0
        for i in range(first, last + 1):
            level = (level + self.symbol(DIFFERENCES)) % 256
            e = max(level // 8 - 1, 0)
            counts[i] = (level - 8 * e) * 2**e + 2**e // 2
        c = table(counts)
        return [self.symbol(c) for _ in range(n)]

    def halves(self, n: int) -> np.ndarray:
        high = self.symbols(n, 256)
        low = [self.symbol(UNIFORM) for _ in range(n)]
        words = [256 * h + x for h, x in zip(high, low, strict=True)]
        return np.array(words, "<u2").view("<f2").astype(np.float32)


def decode(data: bytes, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    magic, version, *entries, checksum = struct.unpack_from("<4sH14II", data)
    assert (magic, version, checksum) == (b"FWAY", 1, zlib.crc32(data[:62]))
    bodies, start = {}, 66
    for part, length, crc in zip(PARTS, entries[::2], entries[1::2], strict=True):
        bodies[part] = data[start : start + length]
        assert zlib.crc32(bodies[part]) == crc
        start += length
    assert start == len(data)
    found = {}
    for part, last_names in LAST_NAMES.items():
        inside = {n: s for n, s in shapes.items() if n.split(".")[-1] in last_names}
        bits, stream = bodies[part][0], Stream(bodies[part][1:])
        scales = stream.halves(sum(s[0] for s in inside.values()))
        for name, shape in inside.items():
            codes = np.array(stream.symbols(prod(shape), 2**bits)) - 2 ** (bits - 1)
            own, scales = scales[: shape[0]], scales[shape[0] :]
            found[name] = codes.reshape(shape).astype(np.float32) * own[:, None]
    others = {n: s for n, s in shapes.items() if n not in found}
    values = Stream(bodies["small"]).halves(sum(prod(s) for s in others.values()))
    for name, shape in others.items():
        found[name], values = values[: prod(shape)].reshape(shape), values[prod(shape) :]
    return found


def test_formats_page_suffices_to_decode() -> None:
    made = artifact.read(GOLDEN)
    tensors = tensors_of(made.model, made.vocab_size, made.bos_id)
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    found = decode(GOLDEN.read_bytes(), shapes)
    assert found.keys() == made.state.keys()
    for name, weights in made.state.items():
        assert np.array_equal(found[name], weights.numpy())
