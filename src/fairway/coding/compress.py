"""Any file ↔ a smaller one, without loss, with an artifact's model: the .fwz format.

Files are read and written a chunk at a time, so that they may be larger than memory, or pipes. A
file that nothing can shorten grows by at most 26 bytes and 8 per chunk of CHUNK_BYTES.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from fairway.coding import fwz_chunks
from fairway.coding.codec import Codec, Reader, Source, framed
from fairway.coding.fwz_chunks import Report
from fairway.coding.session import Guard, computing
from fairway.config.schema import Arithmetic
from fairway.errors import BadInput
from fairway.formats import artifact
from fairway.formats.proof_header import MAGIC as PROOF_MAGIC

MAGIC = b"FWZ"
_VERSIONS = (3, fwz_chunks.VERSION)  # that are read
CHUNK_BYTES = fwz_chunks.MAX_CHUNK_BYTES
_CPU, _CUDA, _EXACT = 0, 1, 2  # how probabilities are computed
_HASH_BYTES = 4  # of artifact, environment and logits each: enough to refuse with a sentence


class Target(Protocol):
    def write(self, data: bytes, /) -> int: ...


def compress(
    model: Path, source: Source, target: Target, arithmetic: Arithmetic, report: Report
) -> None:
    """Write what `source` holds to `target` as a .fwz file that needs the artifact `model`.

    Raises BadInput.
    """
    opened = artifact.read(model)
    with computing(opened, arithmetic) as (engine, guard):
        codec = Codec(engine, opened.tokenizer)

        def parts() -> Iterator[bytes]:
            yield _header(opened.sha256, guard)
            done = 0
            while text := _read_full(source, CHUNK_BYTES):
                before = done
                yield fwz_chunks.encode(codec, text, lambda more: report(before + more))  # noqa: B023
                done += len(text)
                report(done)
            yield fwz_chunks.end()

        for part in framed(parts()):
            target.write(part)


def decompress(model: Path, source: Source, target: Target, report: Report) -> None:
    """Inverse of `compress`. Raises BadInput that names what is wrong, the chunk where it is one.

    What has been written to `target` by then is right, and is not all.
    """
    opened = artifact.read(model)
    reader = Reader(source, "the header of the compressed file")
    magic = reader.take(len(MAGIC))
    if magic == PROOF_MAGIC[: len(MAGIC)]:
        _decode_proof(opened, magic, source, target)
        return
    if magic != MAGIC:
        raise BadInput("this is no file that fairway compress made (it does not begin with FWZ)")
    version, kind = reader.take(2)
    if version not in _VERSIONS or kind > _EXACT:
        raise BadInput(
            f"the compressed file has format version {version}: this Fairway reads up to "
            f"{fwz_chunks.VERSION}; it was made by another one, or it is damaged"
        )
    made_by = reader.take(_HASH_BYTES)
    environment, logits = (reader.take(_HASH_BYTES if kind != _EXACT else 0) for _ in range(2))
    reader.check()
    if not opened.sha256.startswith(made_by.hex()):
        raise BadInput(
            f"the file was compressed with the artifact {made_by.hex()}…, and {model} is "
            f"{opened.sha256[:8]}…: give the artifact that made it"
        )
    arithmetic: Arithmetic = "exact" if kind == _EXACT else "float"
    with computing(opened, arithmetic, kind == _CUDA) as (engine, guard):
        if guard:
            guard.check_environment_hash(environment)
            guard.check_logits(logits)
        codec = Codec(engine, opened.tokenizer)
        done, count = 0, 0
        while True:
            count += 1
            reader.enter(f"chunk {count} of the compressed file")
            chunk = fwz_chunks.read(reader, opened.tokenizer, version)
            if chunk is None:
                break
            text = fwz_chunks.decode(codec, chunk)
            target.write(text)
            done += len(text)
            report(done)
        reader.check_end()


def _decode_proof(opened: artifact.Artifact, begin: bytes, source: Source, target: Target) -> None:
    """Write the text that a proof holds; begin: its bytes that are read already."""
    from fairway.pipeline.prove import MAX_PROOF_BYTES, decode_to

    rest = _read_full(source, MAX_PROOF_BYTES)
    if len(rest) == MAX_PROOF_BYTES:
        raise BadInput(f"the proof is longer than {MAX_PROOF_BYTES:,} bytes")
    decode_to(opened, begin + rest, target)


def _header(sha256: str, guard: Guard | None) -> bytes:
    kind = _EXACT if guard is None else _CUDA if guard.on_cuda else _CPU
    hashes = [bytes.fromhex(sha256)]
    if guard:
        hashes += [guard.environment_sha256, guard.logits_sha256]
    return MAGIC + bytes([fwz_chunks.VERSION, kind]) + b"".join(h[:_HASH_BYTES] for h in hashes)


def _read_full(source: Source, count: int) -> bytes:
    """So many bytes, fewer only at the end: a pipe gives what it has."""
    parts = []
    while count and (part := source.read(count)):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
