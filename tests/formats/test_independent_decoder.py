"""A decoder written from docs/formats.md alone, in plain Python: it shares no code with Fairway.

Only the names and shapes of the network's parameters come from there.
"""

from __future__ import annotations

import struct
import zlib
from functools import cache
from math import prod
from pathlib import Path

import numpy as np

from fairway.coding import artifact
from fairway.model.gpt import tensors_of

GOLDEN = Path(__file__).parent.parent / "golden" / "tiny-v2.fairway"
PARTS = ("recipe", "tokenizer", "embedding", "attention", "mlp", "bigram", "small")
KINDS = ["q", "k", "v", "o", "up", "down", "tokens", "bigram_table", "bigram_proj"]
LAST_NAMES = {
    "embedding": ("tokens",),
    "attention": ("q", "k", "v", "o"),
    "mlp": ("up", "down"),
    "bigram": ("bigram_table", "bigram_proj"),
}
QUARTERS = np.float32([2 ** (i / 4) for i in range(4)])
ONE = 1 << 60
CLASSES = [(k, 0) for k in range(12)]  # (least magnitude, bits inside)
for k in range(12, 40):
    inside = (k - 11) // 2 + 2
    CLASSES.append(((2 + (k - 11) % 2) << inside, inside))


def level(x: int) -> int:
    o = (x + 1).bit_length() - 1
    return 4 * o + 4 * (x + 1) // 2**o - 4


def mean_of(level: int) -> int:
    return (4 + level % 4) * 256 * 2 ** (level // 4) // 4 - 128


def exp(a: int, b: int) -> int:
    h = max((a // b).bit_length() + 4, 4)
    x = a * ONE // (b * 2**h)
    t = total = ONE
    for i in range(1, 18):
        t = -(t * x >> 60) // i
        total += t
    for _ in range(h):
        total = total * total >> 60
    return total


@cache
def chances(level: int) -> list[int]:
    m = mean_of(level)
    found = [2**22 * m // (2**12 + m)] * 40
    if m >= 2**12:
        f = exp(10**6 << 24, 3141593 * m * m)
        g, t, j, k, sums = f * f >> 60, ONE, 0, 0, [0] * 40
        while t > 0 and j <= 196607:
            k += k < 39 and j >= CLASSES[k + 1][0]
            sums[k] += t if j == 0 else 2 * t
            t, f, j = t * f >> 60, f * g >> 60, j + 1
        tails = [sum(sums[k:]) for k in range(41)]
        found = [2**22 * tails[k + 1] // tails[k] if tails[k] else 0 for k in range(40)]
    return [min(max(q, 2**14), 2**22 - 2**14) for q in found]


powers = [ONE]
for _ in range(2048):
    powers.append(powers[-1] * exp(1, 256) >> 60)
squash = {s: min(2**76 // (ONE + e), 65520) for s, e in enumerate(powers)}
squash |= {-s: 65536 - p for s, p in squash.items() if s}
stretch, s = [], -2048
for j in range(4096):
    while s < 2047 and squash[s] < 16 * j + 8:
        s += 1
    stretch.append(s)


class Stream:
    """One stream and its contexts."""

    def __init__(self, data: bytes) -> None:
        self.digits, self.span, self.rest = iter(data), 2**64 - 1, 0  # rest: stream - low
        for _ in range(8):
            self.rest = self.rest * 256 + next(self.digits, 0)
        first = [(chances(i), 20) for i in range(64)] * 2
        first += [(chances(level(8 * (i % 16 + i // 16) + 4)), 5) for i in range(256)]
        first += [(chances(2 * (i % 32)), 10) for i in range(1024)] + [([2**21] * 40, 0)] * 17
        self.slots = [[[q, count] for q in qs] for qs, count in first]
        self.slots[1424][0] = [2**16, 20]
        self.weights = [[[29491, 9830, 9830, 13107, 3277] for _ in range(40)] for _ in range(16)]

    def bit(self, p: int) -> int:
        bound = (self.span >> 16) * p
        bit = int(self.rest < bound)
        self.rest, self.span = (self.rest, bound) if bit else (self.rest - bound, self.span - bound)
        while self.span < 2**56:
            self.span *= 256
            self.rest = self.rest * 256 + next(self.digits, 0)
        return bit

    def raw(self, bits: int) -> int:
        value = 0
        for _ in range(bits):
            value = 2 * value + self.bit(2**15)
        return value

    def learn(self, slot: list[int], b: int) -> None:
        slot[0] += ((2**22 * b - slot[0]) * (65536 // (slot[1] + 2))) >> 16
        slot[1] = min(slot[1] + 1, 1000)

    def integer(self, contexts: list[int], kind: int) -> int:
        k = 0
        while k < 39:
            slots, w = [self.slots[c][k] for c in contexts], self.weights[kind][k]
            s = [stretch[q >> 10] for q, _ in slots]
            d = min(max(sum(x * y for x, y in zip(w, s, strict=True)) >> 16, -2047), 2047)
            p = squash[d]
            b = self.bit(p)
            for i in range(5):
                w[i] += (s[i] * (65536 * b - p) + 2**17) >> 18
                self.learn(slots[i], b)
            if not b:
                break
            k += 1
        magnitude, inside = CLASSES[k]
        if inside:
            slot = self.slots[1424][k]
            b = self.bit(min(max(slot[0] >> 6, 16), 65520))
            self.learn(slot, b)
            magnitude += b * 2 ** (inside - 1) + self.raw(inside - 1)
        return -magnitude if magnitude and self.raw(1) else magnitude

    def rows(self, m: int, n: int, kind: int) -> np.ndarray:
        found = np.zeros((m + 2, n + 2), np.int64)  # two rows and columns of 0 before
        mean = mean_of(self.raw(6))
        columns, apart = [mean] * n, mean
        for r in range(m):
            copied = False
            if r and n:  # is it coded as differences to the row above?
                slot = self.slots[1424][0]
                copied = bool(self.bit(min(max(slot[0] >> 6, 16), 65520)))
                self.learn(slot, copied)
            row = apart if copied else mean
            above2, above, own = np.abs(found[r : r + 3]).tolist()
            if copied:
                above2 = above = [0] * (n + 2)
            for c in range(n):
                left, left2, up, up2 = own[c + 1], own[c], above[c + 2], above2[c + 2]
                x = (columns[c] >> 8) * (row >> 8) // max(mean >> 8, 1)
                z = row >> 8 if copied else columns[c] >> 8
                x = row >> 8 if copied else x
                x, y = level(min(x, 4095)), level(min(3 * (2 * (left + up) + left2 + up2), 4095))
                z = level(min(z, 4095))
                near = 128 + 16 * min(left, 15) + min(up, 15)
                under = 15 if copied else kind
                contexts = [x, 64 + z, near, 384 + 32 * (y // 2) + x // 2, 1408 + under]
                value = self.integer(contexts, under)
                own[c + 2] = abs(value)
                found[r + 2, c + 2] = value + (found[r + 1, c + 2] if copied else 0)
                a = abs(value) << 12
                row += ((a - row) * (65536 // (min(c, 4000) + 24))) >> 16
                if not copied:
                    columns[c] += ((a - columns[c]) * (65536 // (min(r, 200) + 10))) >> 16
                    mean += ((a - mean) * (65536 // (min(r * n + c, 4000) + 60))) >> 16
            apart = row if copied else apart
        return found[2:, 2:]

    def list(self, count: int, kind: int) -> np.ndarray:
        mean, found = 256 * (self.raw(18) - 2**17), []
        for difference in self.rows(1, count, kind)[0].tolist():
            found.append(difference + ((mean + 128) >> 8))
            mean += (256 * found[-1] - mean) >> 3
        return np.array(found, np.int64)


def step(e: np.ndarray) -> np.ndarray:
    return np.ldexp(QUARTERS[e % 4], e // 4)


def decode(data: bytes, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Of a file whose parts have one stream each."""
    magic, version, *entries, checksum = struct.unpack_from("<4sH14II", data)
    assert (magic, version, checksum) == (b"FWAY", 2, zlib.crc32(data[:62]))
    bodies, start = {}, 66
    for part, length, crc in zip(PARTS, entries[::2], entries[1::2], strict=True):
        bodies[part] = data[start : start + length]
        assert zlib.crc32(bodies[part]) == crc
        start += length
    assert start == len(data)
    found = {}
    for part, last_names in LAST_NAMES.items():
        halves, stream, columns = bodies[part][0], Stream(bodies[part][1:]), np.zeros(0)
        for name, shape in shapes.items():
            last = name.split(".")[-1]
            if last not in last_names:
                continue
            wide = stream.raw(1)
            steps = stream.list(shape[0], 12)[:, None]
            if not halves and not (len(columns) == shape[1] and stream.raw(1)):
                columns = stream.list(shape[1], 13)
            codes = stream.rows(*shape, KINDS.index(last))
            assert wide == (np.abs(codes).max() > 127)
            scale = steps.astype("<u2").view("<f2") if halves else step(steps + columns)
            found[name] = codes.astype(np.float32) * scale.astype(np.float32)
    stream = Stream(bodies["small"])
    for name, shape in shapes.items():
        if name not in found:
            scale = step(np.array(stream.raw(10) - 512))
            found[name] = stream.list(prod(shape), 14).reshape(shape).astype(np.float32) * scale
    return found


def test_formats_page_suffices_to_decode() -> None:
    made = artifact.read(GOLDEN)
    tensors = tensors_of(made.model, made.vocab_size, made.bos_id)
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    found = decode(GOLDEN.read_bytes(), shapes)
    assert found.keys() == made.state.keys()
    for name, weights in made.state.items():
        assert np.array_equal(found[name], weights.numpy())
