"""Any file ↔ a smaller one, without loss, with an artifact's model: the .fwz format.

Files are read and written a chunk at a time, so that they may be larger than memory, or pipes. A
file that nothing can shorten grows by at most 26 bytes and 8 per chunk of CHUNK_BYTES.
"""

from __future__ import annotations

from collections.abc import Iterator

from fairway.coding import fwz_chunks
from fairway.coding.artifact import Artifact
from fairway.coding.codec import Codec
from fairway.coding.float_environment import FloatEnvironment
from fairway.coding.fwz_chunks import Report
from fairway.coding.proof import decode_proof
from fairway.coding.session import coding_session
from fairway.config.schema import Arithmetic
from fairway.errors import BadInput
from fairway.formats import fwz
from fairway.formats.fwz import HASH_BYTES, MAGIC, FwzHeader
from fairway.formats.proof import MAGIC as PROOF_MAGIC
from fairway.formats.proof import MAX_PROOF_BYTES
from fairway.io.binary import Reader, Source, Target, with_checksums

CHUNK_BYTES = fwz.MAX_CHUNK_BYTES


def compress(
    opened: Artifact, source: Source, target: Target, arithmetic: Arithmetic, report: Report
) -> None:
    """Write what `source` holds to `target` as a .fwz file that needs the same artifact.

    Raises BadInput.
    """
    with coding_session(opened, arithmetic) as (coding_model, machine):
        codec = Codec(coding_model, opened.tokenizer)

        def parts() -> Iterator[bytes]:
            yield _header(opened.sha256, machine)
            done = 0
            while text := _read_full(source, CHUNK_BYTES):
                before = done
                yield fwz_chunks.encode(codec, text, lambda more: report(before + more))  # noqa: B023
                done += len(text)
                report(done)
            yield fwz.end()

        for part in with_checksums(parts()):
            target.write(part)


def decompress(opened: Artifact, source: Source, target: Target, report: Report) -> None:
    """Restore what `compress` wrote. Raises BadInput that names the fault and its chunk.

    What has been written to `target` by then is right, and is not all.
    """
    reader = Reader(source, "the header of the compressed file")
    magic = reader.take(len(MAGIC))
    if magic == PROOF_MAGIC[: len(MAGIC)]:
        _decode_proof(opened, magic, source, target)
        return
    if magic != MAGIC:
        raise BadInput("this is no file that fairway compress made (it does not begin with FWZ)")
    header = FwzHeader.read(reader)
    if not bytes.fromhex(opened.sha256).startswith(header.artifact):
        raise BadInput(
            f"the file was compressed with the artifact {header.artifact.hex()}…, and this one is "
            f"{opened.sha256[:8]}…: give the artifact that made it"
        )
    arithmetic: Arithmetic = "exact" if header.on_cuda is None else "float"
    with coding_session(opened, arithmetic, bool(header.on_cuda)) as (coding_model, machine):
        if machine:
            machine.check_description_hash(header.environment)
            machine.check_logits(header.logits)
        codec = Codec(coding_model, opened.tokenizer)
        done, count = 0, 0
        while True:
            count += 1
            reader.what = f"chunk {count} of the compressed file"
            chunk = fwz.read_chunk(reader, opened.tokenizer.most_tokens)
            if chunk is None:
                break
            text = fwz_chunks.decode(codec, chunk, reader.what)
            target.write(text)
            done += len(text)
            report(done)
        reader.check_end()


def _decode_proof(opened: Artifact, begin: bytes, source: Source, target: Target) -> None:
    """Write the text that a proof holds; begin: its bytes that are read already."""
    rest = _read_full(source, MAX_PROOF_BYTES)
    if len(rest) == MAX_PROOF_BYTES:
        raise BadInput(f"the proof is longer than {MAX_PROOF_BYTES:,} bytes")
    decode_proof(opened, begin + rest, target)


def _header(sha256: str, machine: FloatEnvironment | None) -> bytes:
    artifact_hash = bytes.fromhex(sha256)[:HASH_BYTES]
    if machine is None:
        return FwzHeader(None, artifact_hash).to_bytes()
    hashes = (h[:HASH_BYTES] for h in (machine.description_sha256, machine.logits_sha256))
    return FwzHeader(machine.on_cuda, artifact_hash, *hashes).to_bytes()


def _read_full(source: Source, count: int) -> bytes:
    """Return `count` bytes, fewer only at the end: one read of a pipe gives what it has."""
    parts = []
    while count and (part := source.read(count)):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
