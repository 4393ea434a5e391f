"""Damaged and hostile files: each must be refused by name, or be a valid file of something else.

    python bench/mutations.py [--count 10000] [--seed 0] [ARTIFACT]
    python bench/mutations.py --streams [--count 5000] [--seed 0] [ARTIFACT]

The second line mutates a compressed file of four chunks (all network, mixed, all brotli, stored), a
proof, and the header of a proof in floating point, in turn. An accident must always be noticed, and
what was written before its chunk must be right. The artifact is read once, texts are a few hundred
bytes.

Prints how many were refused and how many opened, the slowest and the peak of memory. The exit code
is 1 if anything else happened. tests/formats run a sample.
"""

from __future__ import annotations

import argparse
import atexit
import functools
import io
import json
import resource
import shutil
import struct
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fairway import console
from fairway.coding import artifact, compress, exact_model, fwz_chunks, online, session
from fairway.coding.codec import Codec
from fairway.coding.sample import continuation
from fairway.config.schema import Adapt
from fairway.errors import BadInput
from fairway.exact.operands import prepare
from fairway.formats import fwz
from fairway.formats.artifact import HEADER_BYTES, MAGIC, PARTS, VERSION
from fairway.formats.proof import Digest, Header, Machine, ProofChunk, read_chunks, text_digest
from fairway.io.binary import Reader, join, varint
from fairway.pipeline import prove

GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "tiny.fairway"
FINE = ("refused", "opened", "unchanged")
HUGE = (0, 1, 2, 255, 4096, 1 << 16, (1 << 24) + 1, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)


def bodies(data: bytes) -> dict[str, bytes]:
    """Return the parts of a good file."""
    lengths = struct.unpack_from("<" + "II" * len(PARTS), data, 5)[::2]
    ends = HEADER_BYTES + np.cumsum(lengths)
    return {
        part: data[end - length : end]
        for part, length, end in zip(PARTS, lengths, ends.tolist(), strict=True)
    }


def sealed(parts: dict[str, bytes], version: int = VERSION) -> bytes:
    """Return a file with these bodies and right checksums, as a hostile writer would make it."""
    header = MAGIC + bytes([version])
    for body in parts.values():
        header += struct.pack("<II", len(body), zlib.crc32(body))
    return header + struct.pack("<I", zlib.crc32(header)) + b"".join(parts.values())


def damaged(data: bytes, random: np.random.Generator) -> bytes:
    """Return an accident, always a change: bits flipped, bytes lost, doubled, moved or added."""
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
    """Return an attack: right checksums around wrong contents."""
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
        header = bytearray(data[: HEADER_BYTES - 4])
        at = 5 + 4 * int(random.integers(2 * len(PARTS)))
        header[at : at + 4] = struct.pack("<I", int(random.choice(HUGE)))
        return bytes(header) + struct.pack("<I", zlib.crc32(header)) + data[HEADER_BYTES:]
    elif kind == 5:  # contents of another version
        return sealed(parts, int(random.choice([0, 2, 3, 255])))
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
    """Return how many mutants ended how, and the seconds that the slowest took."""
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


# Compressed files and proofs ----------------------------------------------------------------


@dataclass(frozen=True)
class Subject:
    """A good file, and how its mutants are opened."""

    parts: list[bytes]  # the header and the chunks, without their checksums
    text: bytes
    open: Callable[[bytes, io.BytesIO], None]  # writes what a file holds; raises BadInput


def opened_once(model: Path) -> None:
    """Let the artifact, which is no mutant, be read and prepared once for all mutants."""
    artifact.read = functools.cache(artifact.read)
    operands_once = prepare(artifact.read(model))
    vars(exact_model)["prepare"] = lambda opened: operands_once


def subjects(model: Path) -> dict[str, Subject]:
    opened = artifact.read(model)
    prose = b"".join(continuation(opened, b"", 400, 1.0, 0))[:700]
    with session.coding_session(opened, "exact") as (coding_model, _):
        codec = Codec(coding_model, opened.tokenizer)
        return {
            "compressed file": compressed(model, codec, prose),
            "proof": exact_proof(model, codec, prose[:300]),
            "header of a proof in floating point": float_header(),
        }


def compressed(model: Path, codec: Codec, prose: bytes) -> Subject:
    """All network, all brotli, stored, and mixed chunks of five pieces of 60 bytes."""
    fwz.PIECE_BYTES = 60
    noise, runs = np.random.default_rng(1).bytes(300), bytes(range(60)) * 5
    texts = [prose[:300], prose[:120] + runs[:60] + noise[:60] + prose[300:360], runs, noise]
    parts = [compress._header(artifact.read(model).sha256, None)]
    for text, chosen in zip(texts, ({0, 1, 2, 3, 4}, {0, 1, 4}, set(), None), strict=True):
        cut = list(fwz_chunks.cut(text))
        if chosen is None:
            parts.append(fwz_chunks.encode(codec, text, lambda done: None))
        else:
            charged = fwz_chunks._ask(codec, cut, [40] * len(cut), lambda done: None)
            chunk = fwz_chunks._chunk(codec, cut, chosen & set(charged.pieces), charged)
            parts.append(chunk.to_bytes())

    def read(mutant: bytes, target: io.BytesIO) -> None:
        compress.decompress(artifact.read(model), io.BytesIO(mutant), target, lambda done: None)

    return Subject([*parts, fwz.end()], b"".join(texts), read)


def exact_proof(model: Path, codec: Codec, prose: bytes) -> Subject:
    """Two chunks of two documents each."""
    documents, digest = [prose[:100], prose[100:150], prose[150:290], prose[290:]], Digest()
    bodies = []
    for pair in (documents[:2], documents[2:]):
        tokens = codec.tokenizer.encode_documents(pair)
        bodies.append(codec.encode(tokens, pair, 2, lambda done, bits: None).body)
    for document in documents:
        digest.update(document)
    header = Header(
        machine=None,
        learning=b"",
        text=text_digest(digest.text_sha256, digest.lengths_sha256),
        artifact=bytes.fromhex(artifact.read(model).sha256)[:4],
        chunks=len(bodies),
    )
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)

    def read(mutant: bytes, target: io.BytesIO) -> None:
        file, out = folder / "proof", folder / "out"
        file.write_bytes(mutant)
        out.unlink(missing_ok=True)
        try:
            prove.decode(model, file, out)
        finally:  # what stands under its final name counts, also after an error
            if out.exists():
                target.write(out.read_bytes())

    return Subject([header.to_bytes() + bodies[0], *bodies[1:]], prose, read)


def float_header() -> Subject:
    """With an environment and adaptation. The text is what it says, as far as it is printed."""
    machine = Machine(False, b"abcd", "2.13.0+cpu|x86_64|AMD EPYC|AVX512|float32")
    learning = online.to_bytes(Adapt(method="lora"))
    header = Header(machine, learning, b"t" * 8, b"a" * 4, 1)
    stored = ProofChunk(None, [b"abc"]).to_bytes()

    def read(mutant: bytes, target: io.BytesIO) -> None:
        reader = Reader(mutant, "the proof's header")
        found = Header.read(reader)
        read_chunks(reader, found.chunks)
        target.write(repr((found, online.from_bytes(found.learning))).encode())

    good = io.BytesIO()
    read(join([header.to_bytes() + stored]), good)
    return Subject([header.to_bytes() + stored], good.getvalue(), read)


def hostile_stream(parts: list[bytes], random: np.random.Generator) -> bytes:
    """Right checksums around wrong contents."""
    parts = list(parts)
    at = int(random.integers(len(parts)))
    kind = int(random.integers(4))
    if kind == 0:
        parts[at] = damaged(parts[at], random)
    elif kind == 1:
        other = int(random.integers(len(parts)))
        parts[at], parts[other] = parts[other], parts[at]
    elif kind == 2:  # huge claims
        numbers = [int(random.choice(HUGE)) for _ in range(5)]
        parts[at] = bytes([int(random.integers(4))]) + b"".join(map(varint, numbers))
    else:
        parts.insert(at, random.bytes(int(random.integers(1 << int(random.integers(12))))))
    return join(parts)


def stream_outcome(subject: Subject, mutant: bytes, accident: bool) -> str:
    target = io.BytesIO()
    try:
        subject.open(mutant, target)
    except BadInput as error:
        if accident and not subject.text.startswith(target.getvalue()):
            return "wrong bytes before the damage"
        return "refused" if str(error) else "refused without a sentence"
    except Exception as error:  # whatever it is, it is a finding
        return f"{type(error).__name__}: {error}"
    if len(target.getvalue()) > (len(subject.parts) + 1) * fwz.MAX_CHUNK_BYTES:
        return "more bytes than chunks can hold"
    return "an accident was not noticed" if accident else "opened"


def run_streams(model: Path, count: int, seed: int) -> tuple[Counter[str], float]:
    """Return counts and the slowest, as `run`, of files of each kind in turn."""
    opened_once(model)
    console.silence()
    random, counts, slowest = np.random.default_rng(seed), Counter[str](), 0.0
    found = list(subjects(model).items())
    for name, subject in found:  # what is mutated is right, and compiled code is loaded
        good = io.BytesIO()
        subject.open(join(subject.parts), good)
        assert good.getvalue() == subject.text, name
    for i in range(count):
        name, subject = found[i % len(found)]
        accident = i % 2 == 0
        mutant = (
            damaged(join(subject.parts), random)
            if accident
            else hostile_stream(subject.parts, random)
        )
        start = time.perf_counter()
        result = stream_outcome(subject, mutant, accident)
        slowest = max(slowest, time.perf_counter() - start)
        if not accident and mutant == join(subject.parts):
            result = "unchanged"
        counts[f"{result} ({name})" if result in FINE else result] += 1
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
        counts, slowest = run_streams(options.artifact, options.count, options.seed)
    else:
        counts, slowest = run(data, options.count, options.seed)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for result, number in counts.most_common():
        print(f"{number:8,} {result}")
    print(
        f"slowest {slowest:.2f} s; peak of memory {peak / 1024:.0f} MiB, {before / 1024:.0f} before"
    )
    sys.exit(any(result.split(" (")[0] not in FINE for result in counts))


if __name__ == "__main__":
    main()
