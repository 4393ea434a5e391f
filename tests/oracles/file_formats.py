"""Read every file format once more, from docs/formats.md alone, in plain Python.

It shares no code with Fairway, imports nothing of it, and reads good files: what is wrong ends in
an AssertionError. A network's names and shapes, and frequencies of its tokens, are given to it.
"""

from __future__ import annotations

import json
import struct
import zlib
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import cache
from math import prod
from typing import Any, NamedTuple, Protocol

import brotli
import numpy as np

PARTS = ("recipe", "tokenizer", "embedding", "attention", "mlp", "bigram", "small")
KINDS = ["q", "k", "v", "o", "up", "down", "tokens", "bigram_table", "bigram_proj", "gate"]
LAST_NAMES = {
    "embedding": ("tokens",),
    "attention": ("q", "k", "v", "o", "gate"),
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
    """One stream of the range coder."""

    def __init__(self, data: bytes) -> None:
        self.digits, self.span, self.rest = iter(data), 2**64 - 1, 0  # rest: stream - low
        for _ in range(8):
            self.rest = self.rest * 256 + next(self.digits, 0)

    def keep(self, start: int, width: int) -> None:
        self.rest, self.span = self.rest - start, width
        while self.span < 2**56:
            self.span *= 256
            self.rest = self.rest * 256 + next(self.digits, 0)

    def bit(self, p: int) -> int:
        bound = (self.span >> 16) * p
        bit = int(self.rest < bound)
        self.keep(*((0, bound) if bit else (bound, self.span - bound)))
        return bit

    def symbol(self, c: Sequence[int]) -> int:
        """A symbol under cumulative frequencies that end with 2^30."""
        unit = self.span >> 30
        s = bisect_right(c, min(self.rest // unit, 2**30 - 1)) - 1
        self.keep(unit * int(c[s]), unit * int(c[s + 1] - c[s]))
        return s

    def raw(self, bits: int) -> int:
        value = 0
        for _ in range(bits):
            value = 2 * value + self.bit(2**15)
        return value


def learn(slot: list[int], b: int, limit: int) -> None:
    slot[0] += ((2**22 * b - slot[0]) * (65536 // (slot[1] + 2))) >> 16
    slot[1] = min(slot[1] + 1, limit)


class Integers(Stream):
    """A stream of integers, and its contexts."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        first = [(chances(i), 20) for i in range(64)] * 2
        first += [(chances(level(8 * (i % 16 + i // 16) + 4)), 5) for i in range(256)]
        first += [(chances(2 * (i % 32)), 10) for i in range(1024)] + [([2**21] * 40, 0)] * 17
        self.slots = [[[q, count] for q in qs] for qs, count in first]
        self.slots[1424][0] = [2**16, 20]
        self.weights = [[[29491, 9830, 9830, 13107, 3277] for _ in range(40)] for _ in range(16)]

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
                learn(slots[i], b, 1000)
            if not b:
                break
            k += 1
        magnitude, inside = CLASSES[k]
        if inside:
            slot = self.slots[1424][k]
            b = self.bit(min(max(slot[0] >> 6, 16), 65520))
            learn(slot, b, 1000)
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
                learn(slot, copied, 1000)
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


def unpack(data: bytes) -> bytes:
    """Decode the text of a tokenizer: context mixing over the bits of its bytes."""
    size, at = number(data, 0)
    stream, text, word = Stream(data[at:]), bytearray(), 2**32
    slots: list[dict[int, list[int]]] = [{} for _ in range(7)]
    weights = [[24000] * 7 for _ in range(8)]
    piece = length = 0
    for _ in range(size):
        before = [255] * 4 + list(text[-4:])
        hashes = [0]
        for order in range(1, 5):
            hashes.append(sum(before[-i] << 8 * (i - 1) for i in range(1, order + 1)))
        hashes += [piece, length]
        hashes = [(h + c) * 0x9E3779B1 % word for c, h in enumerate(hashes)]
        known = 1
        for _ in range(8):
            found = []
            for c, h in enumerate(hashes):
                place = (h ^ known * 0x85EBCA6B % word) * 0xC2B2AE35 % word >> 14
                found.append(slots[c].setdefault(place, [2**21, 0]))
            s = [stretch[q >> 10] if count else 0 for q, count in found]
            w = weights[sum(count > 0 for _, count in found)]
            d = min(max(sum(x * y for x, y in zip(w, s, strict=True)) >> 16, -2047), 2047)
            p = squash[d]
            b = stream.bit(p)
            for i in range(7):
                w[i] += (s[i] * (65536 * b - p) + 2**13) >> 14
                learn(found[i], b, 255)
            known = 2 * known + b
        byte = known - 256
        text.append(byte)
        piece, length = (piece ^ (byte + 1)) * 0x01000193 % word, length + 1
        if byte == 255:
            piece = length = 0
    return bytes(text)


class Artifact(NamedTuple):
    recipe: dict[str, Any]
    tokenizer: tuple[int, bytes]  # its kind and its text
    bodies: dict[str, bytes]


def artifact(data: bytes) -> Artifact:
    magic, version, *entries, checksum = struct.unpack_from("<4sB14II", data)
    assert (magic, version, checksum) == (b"FWAY", 1, zlib.crc32(data[:61]))
    bodies, start = {}, 65
    for part, length, crc in zip(PARTS, entries[::2], entries[1::2], strict=True):
        bodies[part] = data[start : start + length]
        assert zlib.crc32(bodies[part]) == crc
        start += length
    assert start == len(data)
    tokenizer = bodies["tokenizer"][0], unpack(bodies["tokenizer"][1:])
    return Artifact(json.loads(bodies["recipe"]), tokenizer, bodies)


def weights(bodies: dict[str, bytes], shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Decode weights in float32, of parts with one stream each."""
    found = {}
    for part, last_names in LAST_NAMES.items():
        fp16_rows, stream, columns = bodies[part][0], Integers(bodies[part][1:]), np.zeros(0)
        for name, shape in shapes.items():
            last = name.split(".")[-1]
            if last not in last_names:
                continue
            wide = stream.raw(1)
            steps = stream.list(shape[0], 12)[:, None]
            if not fp16_rows and not (len(columns) == shape[1] and stream.raw(1)):
                columns = stream.list(shape[1], 13)
            codes = stream.rows(*shape, KINDS.index(last))
            assert wide == (np.abs(codes).max() > 127)
            scale = steps.astype("<u2").view("<f2") if fp16_rows else step(steps + columns)
            found[name] = codes.astype(np.float32) * scale.astype(np.float32)
    stream = Integers(bodies["small"])
    for name, shape in shapes.items():
        if name not in found:
            scale = step(np.array(stream.raw(10) - 512))
            found[name] = stream.list(prod(shape), 14).reshape(shape).astype(np.float32) * scale
    return found


# Proofs and compressed files ---------------------------------------------------------------------


def number(data: bytes, at: int) -> tuple[int, int]:
    """A varint, and where it ends."""
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        shift, at = shift + 7, at + 1
        if data[at - 1] < 128:
            assert shift == 7 or data[at - 1]  # the shortest form
            return value, at


class Coded(NamedTuple):
    tokens: int
    starts: list[tuple[int, int]]  # of each lane, and whether it is inside a document
    stream: bytes


def coded(data: bytes, at: int) -> tuple[Coded, int]:
    tokens, at = number(data, at)
    lanes, at = number(data, at)
    starts = [(0, 0)]
    for _ in range(lanes - 1):
        step, at = number(data, at)
        starts.append((starts[-1][0] + step // 2, step % 2))
    size, at = number(data, at)
    assert size <= 4 * tokens + 8
    return Coded(tokens, starts, data[at : at + size]), at + size


class Frequencies(Protocol):
    """What a network says of the next tokens of lanes 0, 1, ..., of which some have ended."""

    def step(self, tokens: np.ndarray) -> np.ndarray:
        """Take the tokens before, int64[n]; return cumulative frequencies up to 2^30, [n, V+1]."""
        ...

    def observe(self, tokens: np.ndarray) -> None: ...


def tokens_of(c: Coded, bos: int, frequencies: Frequencies) -> list[int]:
    ends = [place for place, _ in c.starts[1:]] + [c.tokens]
    firsts = [place + (not inside) for place, inside in c.starts]
    runs = [(first, end - first) for first, end in zip(firsts, ends, strict=True)]
    runs.sort(key=lambda run: -run[1])
    tokens, stream = [bos] * c.tokens, Stream(c.stream)
    fed = [bos] * len(runs)
    for s in range(runs[0][1]):
        active = [first + s for first, length in runs if length > s]
        rows = frequencies.step(np.array(fed[: len(active)]))
        fed = [stream.symbol(row) for row in rows]
        frequencies.observe(np.array(fed))
        for place, token in zip(active, fed, strict=True):
            tokens[place] = token
    return tokens


def check(data: bytes, start: int, at: int, crc: int) -> tuple[int, int]:
    """Hold a part's checksum against it; where the next begins, and the checksum."""
    found = zlib.crc32(data[start:at], crc)
    assert data[at : at + 4] == found.to_bytes(4, "little")
    return at + 4, found


class Proof(NamedTuple):
    arithmetic: int
    text: bytes
    artifact: bytes
    logits: bytes
    environment: str
    learning: bytes
    chunks: list[Coded | list[bytes]]


def proof(data: bytes) -> Proof:
    assert data[:5] == b"FWPF\1"
    arithmetic, text, made_by = data[5], data[6:14], data[14:18]
    count, at = number(data, 18)
    logits = environment = learning = b""
    if arithmetic:
        logits, at = data[at : at + 4], at + 4
        size, at = number(data, at)
        environment, at = data[at : at + size], at + size
        size, at = number(data, at)
        learning, at = data[at : at + size], at + size
    chunks: list[Coded | list[bytes]] = []
    start = crc = 0  # the first checksum covers the header, too
    for _ in range(count):
        documents, at = number(data, at)
        if documents:
            lengths = []
            for _ in range(documents):
                length, at = number(data, at)
                lengths.append(length)
            stored = []
            for length in lengths:
                stored.append(data[at : at + length])
                at += length
            chunks.append(stored)
        else:
            chunk, at = coded(data, at)
            chunks.append(chunk)
        at, crc = check(data, start, at, crc)
        start = at
    assert at == len(data)
    return Proof(arithmetic, text, made_by, logits, environment.decode(), learning, chunks)


def compressed(data: bytes, decode: Callable[[Coded], list[bytes]]) -> bytes:
    """Decode a compressed file in exact arithmetic; decode: documents that a network coded."""
    assert data[:5] == b"FWZ\1\2"
    at, crc = check(data, 0, 9, 0)
    text = b""
    while True:
        start = at
        kind, at = number(data, at)
        if not kind:
            at, crc = check(data, start, at, crc)
            assert at == len(data)
            return text
        if kind <= 2:
            size, at = number(data, at)
            body, at = data[at : at + size], at + size
            text += brotli.decompress(body) if kind == 2 else body
        else:
            groups = []
            for _ in range(kind - 2):
                general, at = number(data, at)
                documents, at = number(data, at)
                groups.append((general, documents))
            plain, found = b"", []
            if any(general for general, _ in groups):
                size, at = number(data, at)
                plain, at = brotli.decompress(data[at : at + size]), at + size
            if any(documents for _, documents in groups):
                c, at = coded(data, at)
                found = decode(c)
                assert data[at : at + 4] == zlib.crc32(b"".join(found)).to_bytes(4, "little")
                at += 4
            for general, documents in groups:
                text += plain[:general] + b"".join(found[:documents])
                plain, found = plain[general:], found[documents:]
        at, crc = check(data, start, at, crc)
