"""Any file ↔ a smaller one, without loss, with an artifact's model: the .fwz format.

A file that the model cannot shorten grows by at most 24 bytes and 8 per chunk of CHUNK_BYTES.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fairway import console
from fairway.errors import BadInput
from fairway.pack import artifact
from fairway.prove.codec import Codec, Reader, Tokens, last_checksum, varint, with_checksum
from fairway.prove.guard import Guard, computing
from fairway.text.tokenizer import Tokenizer

MAGIC, VERSION = b"FWZ", 1
CHUNK_BYTES = 2_000_000  # under 2^21, so that a stored chunk's length takes 3 bytes
LANES = 128  # at most: one per 8,192 tokens of a chunk, which is one document
_HASH_BYTES = 4  # of artifact, environment and logits each: enough to refuse with a sentence


def compress(model: Path, data: bytes) -> bytes:
    """`data` as a .fwz file that needs the artifact `model`. Raises BadInput."""
    opened = artifact.read(model)
    pieces = [data[i : i + CHUNK_BYTES] for i in range(0, len(data), CHUNK_BYTES)]
    with computing(opened) as (network, guard), console.track("compress", len(data), "B") as task:
        codec = Codec(network, opened.tokenizer)
        parts = [_header(opened.sha256, guard, len(pieces))]
        for i, piece in enumerate(pieces):
            tokens = _tokens(opened.tokenizer, piece)
            progress = _Counter(task, i * CHUNK_BYTES, len(piece) / len(tokens))
            seed = last_checksum(parts[-1])
            parts.append(codec.encode(tokens, [piece], LANES, seed, progress.tokens).data)
    return b"".join(parts)


def decompress(model: Path, data: bytes) -> bytes:
    """Inverse of `compress`. Raises BadInput that names what is wrong, and never returns less."""
    opened = artifact.read(model)
    reader = Reader(data, "the header of the compressed file")
    if reader.take(len(MAGIC)) != MAGIC:
        raise BadInput("this is no file that fairway compress made (it does not begin with FWZ)")
    if (version := reader.take(1)[0]) > VERSION:
        raise BadInput(
            f"the compressed file has format version {version}: it was made by a newer Fairway "
            f"(this one reads up to {VERSION}), or it is damaged"
        )
    made_by, environment, logits = (reader.take(_HASH_BYTES) for _ in range(3))
    place, chunks = reader.varint(), reader.varint()
    reader.check()
    if not opened.sha256.startswith(made_by.hex()):
        raise BadInput(
            f"the file was compressed with the artifact {made_by.hex()}…, and {model} is "
            f"{opened.sha256[:8]}…: give the artifact that made it"
        )
    pieces = []
    with (
        computing(opened, place) as (network, guard),
        console.track("decompress", len(data), "B") as task,
    ):
        guard.check_environment_hash(environment)
        guard.check_logits(logits)
        codec = Codec(network, opened.tokenizer)
        for i in range(chunks):
            reader.enter(f"chunk {i + 1} of {chunks}")
            pieces += codec.decode(reader, _Counter(task, reader.position, 1 / 8).bits)
    reader.check_end()
    return b"".join(pieces)


class _Counter:
    """Turns a chunk's progress in tokens or bits into bytes of a whole file."""

    def __init__(self, task: console.Task, start: int, scale: float) -> None:
        self._task, self._start, self._scale = task, start, scale

    def tokens(self, tokens: int, bits: float) -> None:
        self._task.update(self._start + tokens * self._scale)

    def bits(self, tokens: int, bits: float) -> None:
        self._task.update(self._start + bits * self._scale)


def _header(sha256: str, guard: Guard, chunks: int) -> bytes:
    hashes = (bytes.fromhex(sha256), guard.environment_sha256, guard.logits_sha256)
    body = MAGIC + bytes([VERSION]) + b"".join(h[:_HASH_BYTES] for h in hashes)
    return with_checksum(body + varint(guard.place) + varint(chunks), 0)


def _tokens(tokenizer: Tokenizer, piece: bytes) -> Tokens:
    """BOS and the tokens of a piece; BOS alone where the tokenizer cannot write it at all."""
    try:
        return tokenizer.encode_documents([piece])
    except BadInput:  # the challenge's tokenizers refuse invalid UTF-8: the piece is stored
        return np.array([tokenizer.bos_id], np.uint16)
