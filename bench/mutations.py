"""Damaged and hostile files: each must be refused by name, or be a valid file of something else.

    python bench/mutations.py [--count 10000] [--seed 0] [ARTIFACT]
    python bench/mutations.py --streams [--count 5000] [--seed 0] [ARTIFACT]

The second line mutates a compressed file of five chunks that the artifact made. An accident must
always be noticed, and what was written before its chunk must be right.

Prints how many were refused and how many opened, the slowest and the peak of memory. The exit code
is 1 if anything else happened. tests/pack/test_artifact.py runs a smaller number.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import struct
import sys
import time
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from fairway.errors import BadInput
from fairway.pack import artifact
from fairway.predict.sample import continuation
from fairway.prove import compress
from fairway.prove.codec import Reader, join, read_chunk, varint

GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "tiny-v2.fairway"
PARTS = artifact.PARTS
HUGE = (0, 1, 2, 255, 4096, 1 << 16, (1 << 24) + 1, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)


def bodies(data: bytes) -> dict[str, bytes]:
    """The parts of a good file."""
    lengths = struct.unpack_from("<" + "II" * len(PARTS), data, 6)[::2]
    ends = artifact.HEADER_BYTES + np.cumsum(lengths)
    return {
        part: data[end - length : end]
        for part, length, end in zip(PARTS, lengths, ends.tolist(), strict=True)
    }


def sealed(parts: dict[str, bytes], version: int = artifact.VERSION) -> bytes:
    """A file with these bodies and right checksums, as a hostile writer would make it."""
    header = struct.pack("<4sH", artifact.MAGIC, version)
    for body in parts.values():
        header += struct.pack("<II", len(body), zlib.crc32(body))
    return header + struct.pack("<I", zlib.crc32(header)) + b"".join(parts.values())


def damaged(data: bytes, random: np.random.Generator) -> bytes:
    """An accident: flipped bits, zeros, lost, doubled, moved or added bytes. Always a change."""
    while True:
        found, place = bytearray(data), int(random.integers(len(data)))
        kind, width = int(random.integers(6)), 1 + int(random.integers(60))
        if kind == 0:
            for at in random.integers(len(data), size=1 + width // 20):
                found[at] ^= 1 << int(random.integers(8))
        elif kind == 1:
            found[place : place + width] = bytes(len(found[place : place + width]))
        elif kind == 2:
            del found[place:]
        elif kind == 3:
            del found[place : place + width]
        elif kind == 4:
            found[place:place] = found[place : place + width]
        else:
            found += random.bytes(width)
        if found != data:
            return bytes(found)


def hostile(data: bytes, random: np.random.Generator) -> bytes:
    """An attack: right checksums around wrong contents."""
    parts = bodies(data)
    part = str(random.choice(PARTS))
    kind = int(random.integers(7))
    if kind == 0 and parts[part]:
        parts[part] = damaged(parts[part], random)
    elif kind == 1:
        other = str(random.choice(PARTS))
        parts[part], parts[other] = parts[other], parts[part]
    elif kind == 2:
        first = bytes([int(random.integers(3))])
        parts[part] = first + random.bytes(int(random.integers(1 << int(random.integers(14)))))
    elif kind == 3:  # a network of another shape
        tree = json.loads(parts["recipe"])
        for key in random.choice(list(tree), 1 + int(random.integers(3))):
            tree[str(key)] = random.choice([*HUGE, -1, 0.5, 1e300, 8, 16, 48, 8192]).item()
            if isinstance(json.loads(parts["recipe"])[str(key)], int):
                tree[str(key)] = int(tree[str(key)])
        parts["recipe"] = json.dumps(tree).encode()
    elif kind == 4:  # lengths and checksums of the header
        header = bytearray(data[: artifact.HEADER_BYTES - 4])
        at = 6 + 4 * int(random.integers(2 * len(PARTS)))
        header[at : at + 4] = struct.pack("<I", int(random.choice(HUGE)))
        return bytes(header) + struct.pack("<I", zlib.crc32(header)) + data[artifact.HEADER_BYTES :]
    elif kind == 5:  # contents of another version
        return sealed(parts, int(random.choice([0, 1, 3, 65535])))
    else:
        parts[part] = bytes([int(random.integers(256))]) * int(random.integers(1 << 16))
    return sealed(parts)


def outcome(mutant: bytes, accident: bool) -> str:
    try:
        made = artifact.read(mutant)
    except BadInput as error:
        named = "the header" in str(error) or any(f"part {p}" in str(error) for p in PARTS)
        return "refused" if named else f"refused without a place: {error}"
    except Exception as error:  # whatever it is, it is a finding
        return f"{type(error).__name__}: {error}"
    if accident:
        return "an accident was not noticed"
    finite = all(bool(torch.isfinite(t).all()) for t in made.state.values())
    return "opened" if finite else "opened to weights that are no numbers"


def run(data: bytes, count: int, seed: int) -> tuple[Counter[str], float]:
    """How many mutants ended how, and the seconds that the slowest took."""
    random, counts, slowest = np.random.default_rng(seed), Counter[str](), 0.0
    for i in range(count):
        accident = i % 3 == 0
        mutant = (damaged if accident else hostile)(data, random)
        start = time.perf_counter()
        result = outcome(mutant, accident)
        slowest = max(slowest, time.perf_counter() - start)
        if not accident and mutant == data:
            result = "unchanged"
        counts[result] += 1
    return counts, slowest


# Compressed files ---------------------------------------------------------------------------


def compressed(model: Path) -> tuple[bytes, list[bytes]]:
    """A file, and the texts of its chunks: what the model itself writes, and noise."""
    texts = [b"".join(continuation(model, b"", 60, 1.0, seed)) for seed in range(4)]
    texts = [text[: compress.CHUNK_BYTES].ljust(compress.CHUNK_BYTES) for text in texts]
    texts.insert(2, np.random.default_rng(1).bytes(compress.CHUNK_BYTES))
    target = io.BytesIO()
    compress.compress(model, io.BytesIO(b"".join(texts)), target, "exact", lambda done: None)
    return target.getvalue(), texts


def chunks_of(data: bytes) -> list[bytes]:
    """The header and the chunks of a good file, without their checksums."""
    reader = Reader(data, "")
    reader.take(9)
    ends, parts = [0, 9], []
    reader.check()
    while reader.position < len(data):
        ends.append(reader.position)
        read_chunk(reader)
        ends.append(reader.position - 4)
    for start, end in zip(ends[::2], ends[1::2], strict=True):
        parts.append(data[start:end])
    return parts


def hostile_stream(data: bytes, random: np.random.Generator) -> bytes:
    """Right checksums around wrong contents."""
    parts = chunks_of(data)
    at = int(random.integers(len(parts)))
    kind = int(random.integers(4))
    if kind == 0:
        parts[at] = damaged(parts[at], random)
    elif kind == 1:
        other = int(random.integers(len(parts)))
        parts[at], parts[other] = parts[other], parts[at]
    elif kind == 2:  # huge claims
        numbers = [int(random.choice(HUGE)) for _ in range(5)]
        parts[at] = bytes([int(random.integers(3))]) + b"".join(map(varint, numbers))
    else:
        parts.insert(at, random.bytes(int(random.integers(1 << int(random.integers(12))))))
    return join(parts)


def stream_outcome(model: Path, mutant: bytes, accident: bool, texts: list[bytes]) -> str:
    target = io.BytesIO()
    try:
        compress.decompress(model, io.BytesIO(mutant), target, lambda done: None)
    except BadInput as error:
        if accident and not b"".join(texts).startswith(target.getvalue()):
            return "wrong bytes before the damage"
        return "refused" if str(error) else "refused without a sentence"
    except Exception as error:  # whatever it is, it is a finding
        return f"{type(error).__name__}: {error}"
    return "an accident was not noticed" if accident else "opened"


def run_streams(model: Path, count: int, seed: int) -> tuple[Counter[str], float]:
    data, texts = compressed(model)
    random, counts, slowest = np.random.default_rng(seed), Counter[str](), 0.0
    for i in range(count):
        accident = i % 2 == 0
        mutant = (damaged if accident else hostile_stream)(data, random)
        start = time.perf_counter()
        counts[stream_outcome(model, mutant, accident, texts)] += 1
        slowest = max(slowest, time.perf_counter() - start)
    return counts, slowest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artifact", nargs="?", type=Path, default=GOLDEN)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--streams", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    data = options.artifact.read_bytes()
    artifact.read(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if options.streams:
        compress.CHUNK_BYTES = 100
        counts, slowest = run_streams(options.artifact, options.count, options.seed)
    else:
        counts, slowest = run(data, options.count, options.seed)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for result, number in counts.most_common():
        print(f"{number:8,} {result}")
    print(
        f"slowest {slowest:.2f} s; peak of memory {peak / 1024:.0f} MiB, {before / 1024:.0f} before"
    )
    sys.exit(bool(set(counts) - {"refused", "opened", "unchanged"}))


if __name__ == "__main__":
    main()
