"""Lies about a finished run: every field of every file that states something, one at a time.

A lie changes the meaning of a file and keeps it well formed: checksums are made anew. `lies` lists
those about result files and the recipe, `pair_lies` those inside the artifact and the proof,
`folder_lies` those inside a submission folder.
"""

from __future__ import annotations

import copy
import io
import json
import shutil
import struct
import tomllib
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fairway.config.toml import loads
from fairway.formats import artifact
from fairway.formats.proof import Header, Machine, ProofChunk, read_chunks
from fairway.io.binary import Reader, join, varint
from fairway.pipeline.stage import stages_of

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
BPB, LARGE, SMALL, HASH, WORD = 0.4321, 7_777_777, 4_321, "ab" * 32, "a lie"

# Fields that follow from the artifact and the proof. A result file that contradicts the two files
# in one of them must make the verdict "no". Hashes of the artifact in pack.json and score.json
# make the result one about another artifact, which is stale and shown as that.
FOLLOWS = {
    "prepare": {
        "val_documents", "val_tokens", "val_bytes", "text_sha256", "lengths_sha256", "vocab_size",
        "text_rule",
    },
    "train": {"parameters"},
    "pack": {"artifact_bytes", "parts", "bits_per_weight", "within_budget"},
    "score": {"tokens", "text_bytes", "text_sha256", "text_rule"},
    "prove": {
        "bpb", "stream_bytes", "stream_ideal_bits", "text_bytes", "text_sha256", "lengths_sha256",
        "text_rule", "artifact_sha256", "files", "tokens", "lanes", "adaptation", "arithmetic",
        "order", "grade",
    },
}  # fmt: skip
ENUMS = {
    "text_rule": ["bytes", "challenge"],
    "arithmetic": ["exact", "float"],
    "grade": ["portable", "device"],
    "order": ["left-to-right", "declared"],
    "adaptation": ["none", "dynamic"],
    "protocol": ["rolling", "sliding", "windows"],
}


@dataclass(frozen=True)
class Lie:
    file: str  # that it is told in
    name: str
    tell: Callable[[Path], None]  # changes a copy of the run or of the submission folder
    follows: bool = False  # the truth follows from the artifact and the proof


# Result files ------------------------------------------------------------------------------------


def lies(run: Path) -> Iterator[Lie]:
    """Yield lies about every leaf of every file of a run directory, the two files aside."""
    recipe = loads((run / "recipe.toml").read_text("utf-8"))
    for name in (stage.name for stage in stages_of(recipe)):
        yield from _lies_of_json(run, f"{name}.json", FOLLOWS.get(name, set()))
        yield Lie(f"{name}.json", "missing", lambda at, n=name: (at / f"{n}.json").unlink())
        yield Lie(f"{name}.json", "empty object", _writes(f"{name}.json", b"{}"))
        yield Lie(f"{name}.json", "of two lives", _of_another(name))
    for name in ("env.json", "clock.json"):
        yield from _lies_of_json(run, name, set())
    yield from _lies_of_metrics(run)
    yield from _lies_of_recipe(run)
    yield from _lies_of_documents()
    yield from _swaps(run)


def leaves(tree: object, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    """Yield (keys, value) of everything in a tree that is no object; a list counts as one value."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from leaves(value, (*path, key))
    else:
        yield path, tree


def others(key: str, value: object) -> list[object]:
    """Return values of the same type that are not true, easy to recognise in an output."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [x for x in (LARGE, SMALL, max(1, value // 2)) if x != value]
    if isinstance(value, float):
        return [BPB, 7_654_321.0, value * 0.99 or 0.1234]
    if isinstance(value, list):
        return [[BPB]]
    if key in ENUMS:
        return [x for x in ENUMS[key] if x != value]
    if isinstance(value, str) and len(value) == 64:
        return [HASH, value[:-1] + ("0" if value[-1] != "0" else "1")]
    return [WORD]


def _lies_of_json(run: Path, name: str, follows: set[str]) -> Iterator[Lie]:
    tree = json.loads((run / name).read_text("utf-8"))
    for path, value in leaves(tree):
        for other in others(path[-1], value):
            label = f"{'.'.join(path)} = {str(other)[:20]}"
            yield Lie(name, label, _sets(name, path, other), path[0] in follows)


def _sets(name: str, path: tuple[str, ...], value: object) -> Callable[[Path], None]:
    def tell(at: Path) -> None:
        tree = json.loads((at / name).read_text("utf-8"))
        inner = tree
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
        _put(at / name, json.dumps(tree).encode())

    return tell


def _put(file: Path, data: bytes) -> None:
    """Copies of a run share their bytes with it: a new file takes the place of the old one."""
    file.unlink(missing_ok=True)
    file.write_bytes(data)


def _writes(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda at: _put(at / name, data)


def _of_another(verb: str) -> Callable[[Path], None]:
    """The result of a run that was better in every figure, with the stamp of this one."""

    def tell(at: Path) -> None:
        tree = json.loads((at / f"{verb}.json").read_text("utf-8"))
        for path, value in list(leaves(tree)):
            inner = tree
            for key in path[:-1]:
                inner = inner[key]
            if isinstance(value, int | float) and not isinstance(value, bool):
                inner[path[-1]] = type(value)(value * 0.9)
        _put(at / f"{verb}.json", json.dumps(tree).encode())

    return tell


def _lies_of_metrics(run: Path) -> Iterator[Lie]:
    keys = json.loads((run / "metrics.jsonl").read_text("utf-8").splitlines()[0])
    for key, value in keys.items():
        for other in others(key, value):

            def tell(at: Path, key: str = key, other: object = other) -> None:
                lines = (at / "metrics.jsonl").read_text("utf-8").splitlines()
                changed = [json.dumps(json.loads(line) | {key: other}) for line in lines]
                _put(at / "metrics.jsonl", "\n".join(changed).encode())

            yield Lie("metrics.jsonl", f"{key} = {other} in every line", tell)


def _lies_of_recipe(run: Path) -> Iterator[Lie]:
    text = (run / "recipe.toml").read_text("utf-8")
    section = ""
    for i, line in enumerate(text.splitlines()):
        if line.startswith("["):
            section = line.strip("[]") + "."
        if " = " not in line:
            continue
        key = line.partition(" = ")[0]
        value = tomllib.loads(line)[key]
        for other in others(key, value)[:1]:
            if isinstance(value, int) and not isinstance(value, bool):
                other = value + 1
            if isinstance(value, list):
                other = [0]

            def tell(at: Path, i: int = i, key: str = key, other: object = other) -> None:
                lines = (at / "recipe.toml").read_text("utf-8").splitlines()
                lines[i] = f"{key} = {json.dumps(other)}"
                _put(at / "recipe.toml", "\n".join(lines).encode())

            yield Lie("recipe.toml", f"{section}{key} = {other}", tell)


def _lies_of_documents() -> Iterator[Lie]:
    """score_documents.npy: the same total, given to other documents; and other totals."""

    def changed(change: Callable[[Any], Any]) -> Callable[[Path], None]:
        def tell(at: Path) -> None:
            file, out = at / "score_documents.npy", io.BytesIO()
            np.save(out, change(np.load(file)))
            _put(file, out.getvalue())

        return tell

    name = "score_documents.npy"
    yield Lie(name, "half the nats", changed(lambda x: x * [0.5, 1.0]))
    yield Lie(name, "half the bytes", changed(lambda x: x * [1.0, 0.5]))
    yield Lie(name, "documents in another order", changed(lambda x: x[::-1].copy()))
    yield Lie(name, "one document less", changed(lambda x: x[1:]))
    yield Lie(name, "missing", lambda at: (at / name).unlink())


def _swaps(run: Path) -> Iterator[Lie]:
    """Whole files in the place of others."""
    pair = {"model.fairway": GOLDEN / "memory.fairway", "proof/val.fwp": GOLDEN / "memory.fwp"}
    for name, source in pair.items():
        data, own = source.read_bytes(), (run / name).read_bytes()
        yield Lie(name, "another valid one", _writes(name, data), True)
        yield Lie(name, "garbage", _writes(name, b"garbage" * 100), True)
        yield Lie(name, "cut", _writes(name, own[:-7]), True)
        yield Lie(name, "missing", lambda at, n=name: (at / n).unlink(), True)
        yield Lie(name, "with garbage after it", _writes(name, own + b"\0"), True)

    def both(at: Path) -> None:
        for name, source in pair.items():
            _put(at / name, source.read_bytes())

    def forged(at: Path) -> None:
        """Garbage, and results with its hashes: the attack of issue 21."""
        import hashlib

        for name in pair:
            _put(at / name, b"garbage" * 1000)
        sha256 = hashlib.sha256(b"garbage" * 1000).hexdigest()
        for verb in ("pack", "score", "prove"):
            _sets(f"{verb}.json", ("artifact_sha256",), sha256)(at)
        _sets("prove.json", ("bpb",), BPB)(at)
        tree = json.loads((at / "verify.json").read_text("utf-8"))
        if "files_sha256" in tree:
            tree["files_sha256"] = {"model.fairway": sha256, "val.fwp": sha256}
        else:
            tree["bpb"] = BPB
            tree["decoded"] |= {"artifact_sha256": sha256, "proof_sha256": sha256}
        _put(at / "verify.json", json.dumps(tree).encode())

    yield Lie("two files", "a valid pair about another text", both, True)
    yield Lie("two files", "garbage with results of its hashes", forged, True)

    def other_text(at: Path) -> None:
        folder = at / json.loads((at / "prepare.json").read_text("utf-8"))["folder"]
        copied = at.parent / "data" / "other"
        shutil.copytree(folder, copied)
        for shard in copied.glob("val_*.bin"):
            data = bytearray(shard.read_bytes())
            data[-2:] = b"\x41\x00"
            _put(shard, bytes(data))
        _sets("prepare.json", ("folder",), "../data/other")(at)

    yield Lie("validation shards", "another last token", other_text)


# The two files -----------------------------------------------------------------------------------


def pair_lies(model: bytes, proof: bytes) -> Iterator[tuple[str, str, bytes, bytes]]:
    """Yield (file, name, artifact, proof): one field of one of them is another, checksums right."""
    for name, changed in _proofs(proof):
        yield "proof", name, model, changed
    for name, changed in _artifacts(model):
        yield "artifact", name, changed, proof
        yield "artifact", f"{name}, and the proof names it", changed, _named(proof, changed)


def _parse(proof: bytes) -> tuple[Header, list[ProofChunk]]:
    reader = Reader(proof, "header")
    header = Header.read(reader)
    return header, read_chunks(reader, header.chunks)


def _build(header: bytes, chunks: list[ProofChunk]) -> bytes:
    first, *more = (chunk.to_bytes() for chunk in chunks)
    return join([header + first, *more])


def _named(proof: bytes, model: bytes) -> bytes:
    """The proof with the hash of another artifact in its header."""
    import hashlib

    header, chunks = _parse(proof)
    digest = hashlib.sha256(model).digest()[: len(header.artifact)]
    return _build(_replaced(header, artifact=digest).to_bytes(), chunks)


def _replaced(record: Any, **fields: Any) -> Any:
    made = copy.copy(record)
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return made


def _proofs(proof: bytes) -> Iterator[tuple[str, bytes]]:
    header, chunks = _parse(proof)
    flipped = bytes([header.text[0] ^ 1]) + header.text[1:]
    other = bytes([header.artifact[0] ^ 1]) + header.artifact[1:]
    headers = {
        "text digest": _replaced(header, text=flipped).to_bytes(),
        "artifact digest": _replaced(header, artifact=other).to_bytes(),
        "one chunk more": _replaced(header, chunks=header.chunks + 1).to_bytes(),
        "no chunks": _replaced(header, chunks=0).to_bytes(),
        "kind: a CPU": _replaced(header, machine=Machine(False, b"abcd", "float32|x")).to_bytes(),
        "kind: a GPU": _replaced(header, machine=Machine(True, b"abcd", "9.0|H100")).to_bytes(),
    }
    plain = header.to_bytes()
    for version in (0, 2, 3, 4, 255):
        headers[f"version {version}"] = plain[:4] + bytes([version]) + plain[5:]
    for name, changed in headers.items():
        yield name, _build(changed, chunks)
    for i, chunk in enumerate(chunks):
        for name, body in _chunks(chunk):
            rest = [body if j == i else c.to_bytes() for j, c in enumerate(chunks)]
            yield f"chunk {i}: {name}", join([plain + rest[0], *rest[1:]])
    if len(chunks) > 1:
        yield "chunks in another order", _build(plain, chunks[::-1])
    yield (
        "its chunks twice",
        _build(_replaced(header, chunks=2 * header.chunks).to_bytes(), chunks * 2),
    )


def _chunks(chunk: ProofChunk) -> Iterator[tuple[str, bytes]]:
    c = chunk.coded
    if c is None:
        yield (
            "another byte",
            _replaced(chunk, documents=[b"x" + d for d in chunk.documents]).to_bytes(),
        )
        return

    def coded(**fields: Any) -> bytes:
        return _replaced(chunk, coded=_replaced(c, **fields)).to_bytes()

    for tokens in (c.tokens - 1, c.tokens + 1, 2 * c.tokens, c.tokens // 2):
        yield f"{tokens} tokens", coded(tokens=tokens)
    last = len(c.starts.positions) - 1
    for i in sorted({0, last // 2, last} - {0}):
        moved = c.starts.positions.copy()
        moved[i] += 1
        yield f"lane {i} begins a token later", coded(starts=_replaced(c.starts, positions=moved))
        inside = c.starts.inside.copy()
        inside[i] = not inside[i]
        yield f"lane {i}: inside", coded(starts=_replaced(c.starts, inside=inside))
    if last > 0:
        fewer = _replaced(c.starts, positions=c.starts.positions[:-1], inside=c.starts.inside[:-1])
        yield "one lane less", coded(starts=fewer)
    n = len(c.stream)
    for i in sorted({0, 1, n // 4, n // 2, 3 * n // 4, n - 2, n - 1}):
        changed = c.stream[:i] + bytes([c.stream[i] ^ 16]) + c.stream[i + 1 :]
        yield f"byte {i} of the stream", coded(stream=changed)
    yield "stream cut by a byte", coded(stream=c.stream[:-1])
    yield "stream cut in half", coded(stream=c.stream[: n // 2])
    yield "a byte after the stream", coded(stream=c.stream + b"\0")
    yield "an empty stream", coded(stream=b"")
    yield "stored: nothing", varint(1) + varint(0)
    yield "stored: other bytes", varint(1) + varint(4) + b"zzzz"


def _artifacts(model: bytes) -> Iterator[tuple[str, bytes]]:
    prefix = struct.Struct("<4sB")
    magic, version = prefix.unpack_from(model)
    sizes = [
        struct.unpack_from("<II", model, prefix.size + 8 * i)[0] for i in range(len(artifact.PARTS))
    ]
    parts, at = [], artifact.HEADER_BYTES
    for size in sizes:
        parts.append(model[at : at + size])
        at += size

    def build(changed: list[bytes], number: int = version) -> bytes:
        head = prefix.pack(magic, number)
        head += b"".join(struct.pack("<II", len(part), zlib.crc32(part)) for part in changed)
        return head + struct.pack("<I", zlib.crc32(head)) + b"".join(changed)

    assert build(parts) == model
    for number in (0, 2, 3, 255):
        yield f"version {number}", build(parts, number)
    for i, name in enumerate(artifact.PARTS):
        if not parts[i]:
            continue
        for place in {len(parts[i]) // 3, len(parts[i]) - 1}:
            part = bytearray(parts[i])
            part[place] ^= 1
            yield f"{name}: byte {place}", build([*parts[:i], bytes(part), *parts[i + 1 :]])
        yield f"{name}: empty", build([*parts[:i], b"", *parts[i + 1 :]])
    tree = json.loads(parts[0])
    for path, value in leaves(tree):
        for other in others(path[-1], value)[:2]:
            changed = copy.deepcopy(tree)
            inner = changed
            for key in path[:-1]:
                inner = inner[key]
            inner[path[-1]] = value + 1 if type(value) is int and other == LARGE else other
            packed = json.dumps(changed, separators=(",", ":")).encode()
            yield f"recipe: {'.'.join(path)} = {inner[path[-1]]}", build([packed, *parts[1:]])


# Submission folders ------------------------------------------------------------------------------


def folder_lies(folder: Path) -> Iterator[Lie]:
    """Yield lies about every field of submission.json and of the results of the first seed."""
    tree = json.loads((folder / "submission.json").read_text("utf-8"))
    seen = {"val_loss", "val_bpb", "seeds", "text_sha256", "bytes_code", "bytes_artifact_max",
            "bytes_total", "seed_results"}  # fmt: skip
    for path, value in leaves(tree):
        if path[0] not in seen or path[-1] == "steps":
            continue  # names, dates and machines: words of the author
        for other in others(path[-1], value):
            label = f"{'.'.join(path)} = {str(other)[:20]}"
            yield Lie("submission.json", label, _sets("submission.json", path, other), True)
    place = sorted(p.name for p in folder.glob("seed*/"))[0]
    for verb in FOLLOWS:
        for lie in _lies_of_json(folder, f"{place}/{verb}.json", FOLLOWS.get(verb, set())):
            if lie.follows:
                yield lie
    for lie in _swaps_of_folder(folder, place):
        yield lie


def _swaps_of_folder(folder: Path, place: str) -> Iterator[Lie]:
    for name, source in (("model.fairway", "memory.fairway"), ("val.fwp", "memory.fwp")):
        file = f"{place}/{name}"
        own = (folder / file).read_bytes()
        yield Lie(file, "another valid one", _writes(file, (GOLDEN / source).read_bytes()), True)
        yield Lie(file, "garbage", _writes(file, b"garbage" * 100), True)
        yield Lie(file, "cut", _writes(file, own[:-7]), True)
        yield Lie(file, "missing", lambda at, f=file: (at / f).unlink(), True)
