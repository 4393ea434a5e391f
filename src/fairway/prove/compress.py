"""Any file ↔ a smaller one, without loss, with an artifact's model: the .fwz format.

A file that the model cannot shorten grows by at most 24 bytes and 8 per chunk of CHUNK_BYTES.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fairway import console
from fairway.errors import BadInput
from fairway.pack import artifact
from fairway.prove.codec import Codec, Reader, Tokens, join, read_chunks, varint
from fairway.prove.guard import Guard, Progress, computing, in_order, side_by_side
from fairway.text.tokenizer import Tokenizer

MAGIC, VERSION = b"FWZ", 1
CHUNK_BYTES = 2_000_000  # under 2^21, so that a stored chunk's length takes 3 bytes
LANES = 128  # at most: one per 8,192 tokens of a chunk, which is one document
_HASH_BYTES = 4  # of artifact, environment and logits each: enough to refuse with a sentence


def compress(model: Path, data: bytes) -> bytes:
    """`data` as a .fwz file that needs the artifact `model`. Raises BadInput."""
    opened = artifact.read(model)
    pieces = [data[i : i + CHUNK_BYTES] for i in range(0, len(data), CHUNK_BYTES)]
    tokens = [_tokens(opened.tokenizer, piece) for piece in pieces]
    with (
        computing(opened) as (network, guard),
        console.track("compress", sum(map(len, tokens)), "tokens") as task,
    ):
        codec = Codec(network, opened.tokenizer)

        def encode(i: int, progress: Progress) -> bytes:
            return codec.encode(tokens[i], [pieces[i]], LANES, progress).body

        def report(done: int, bits: float) -> None:
            task.update(done)

        bodies = side_by_side(encode, range(len(pieces)), guard.workers, report)
        return join([_header(opened.sha256, guard, len(pieces)), *in_order(bodies)])


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
    on_cuda = bool(reader.take(1)[0])
    made_by, environment, logits = (reader.take(_HASH_BYTES) for _ in range(3))
    count = reader.varint()
    reader.check()
    if not opened.sha256.startswith(made_by.hex()):
        raise BadInput(
            f"the file was compressed with the artifact {made_by.hex()}…, and {model} is "
            f"{opened.sha256[:8]}…: give the artifact that made it"
        )
    chunks = read_chunks(reader, count)
    with (
        computing(opened, on_cuda) as (network, guard),
        console.track("decompress", sum(chunk.tokens for chunk in chunks), "tokens") as task,
    ):
        guard.check_environment_hash(environment)
        guard.check_logits(logits)
        codec = Codec(network, opened.tokenizer)

        def decode(i: int, progress: Progress) -> bytes:
            return b"".join(codec.decode(chunks[i], progress))

        def report(done: int, bits: float) -> None:
            task.update(done)

        return b"".join(in_order(side_by_side(decode, range(count), guard.workers, report)))


def _header(sha256: str, guard: Guard, chunks: int) -> bytes:
    hashes = (bytes.fromhex(sha256), guard.environment_sha256, guard.logits_sha256)
    body = MAGIC + bytes([VERSION, guard.on_cuda]) + b"".join(h[:_HASH_BYTES] for h in hashes)
    return body + varint(chunks)


def _tokens(tokenizer: Tokenizer, piece: bytes) -> Tokens:
    """BOS and the tokens of a piece; BOS alone where the tokenizer cannot write it at all."""
    try:
        return tokenizer.encode_documents([piece])
    except BadInput:  # the challenge's tokenizers refuse invalid UTF-8: the piece is stored
        return np.array([tokenizer.bos_id], np.uint16)
