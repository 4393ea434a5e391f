"""Any file ↔ a smaller one, without loss, with an artifact's model: the .fwz format.

Files are read and written a chunk at a time, so that they may be larger than memory, or pipes. A
file that the model cannot shorten grows by at most 24 bytes and 8 per chunk of CHUNK_BYTES.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from fairway.errors import BadInput
from fairway.pack import artifact
from fairway.prove.codec import Codec, Reader, Source, Tokens, framed, read_chunk
from fairway.prove.guard import Guard, computing
from fairway.recipe import Arithmetic
from fairway.text.tokenizer import Tokenizer

MAGIC, VERSION = b"FWZ", 2
CHUNK_BYTES = 2_000_000  # under 2^21, so that a stored chunk's length takes 3 bytes
LANES = 128  # at most: one per 8,192 tokens of a chunk, which is one document
_CPU, _CUDA, _EXACT = 0, 1, 2  # how probabilities are computed
_HASH_BYTES = 4  # of artifact, environment and logits each: enough to refuse with a sentence
_END = b"\0\0"  # what stands for a chunk after the last

Report = Callable[[int], None]  # told how many bytes of the text are done


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
            while piece := _read_full(source, CHUNK_BYTES):
                tokens = _tokens(codec.tokenizer, piece)
                share = len(piece) / len(tokens)
                before = done

                def progress(tokens: int, bits: float) -> None:
                    report(before + int(tokens * share))  # noqa: B023 (called at once)

                yield codec.encode(tokens, [piece], LANES, progress).body
                done += len(piece)
                report(done)
            yield _END

        for part in framed(parts()):
            target.write(part)


def decompress(model: Path, source: Source, target: Target, report: Report) -> None:
    """Inverse of `compress`. Raises BadInput that names what is wrong, the chunk where it is one.

    What has been written to `target` by then is right, and is not all.
    """
    opened = artifact.read(model)
    reader = Reader(source, "the header of the compressed file")
    if reader.take(len(MAGIC)) != MAGIC:
        raise BadInput("this is no file that fairway compress made (it does not begin with FWZ)")
    version, kind = reader.take(2)
    if version != VERSION or kind > _EXACT:
        raise BadInput(
            f"the compressed file has format version {version}: this Fairway reads {VERSION}; it "
            "was made by another one, or it is damaged"
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
            chunk = read_chunk(reader)
            if chunk is None:
                break
            text = b"".join(codec.decode(chunk, lambda tokens, bits: None))
            target.write(text)
            done += len(text)
            report(done)
        reader.check_end()


def _header(sha256: str, guard: Guard | None) -> bytes:
    kind = _EXACT if guard is None else _CUDA if guard.on_cuda else _CPU
    hashes = [bytes.fromhex(sha256)]
    if guard:
        hashes += [guard.environment_sha256, guard.logits_sha256]
    return MAGIC + bytes([VERSION, kind]) + b"".join(h[:_HASH_BYTES] for h in hashes)


def _read_full(source: Source, count: int) -> bytes:
    """So many bytes, fewer only at the end: a pipe gives what it has."""
    pieces = []
    while count and (piece := source.read(count)):
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)


def _tokens(tokenizer: Tokenizer, piece: bytes) -> Tokens:
    """BOS and the tokens of a piece; BOS alone where the tokenizer cannot write it at all."""
    try:
        return tokenizer.encode_documents([piece])
    except BadInput:  # the challenge's tokenizers refuse invalid UTF-8: the piece is stored
        return np.array([tokenizer.bos_id], np.uint16)
