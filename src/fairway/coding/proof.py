"""Decode a proof: the text that its chunks hold, and what it says about itself.

Nothing that the header claims is evidence: every fact is recomputed from what was decoded.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from fairway import console
from fairway.coding import online
from fairway.coding.artifact import Artifact
from fairway.coding.codec import Codec
from fairway.coding.decoded import DecodedProof
from fairway.coding.session import coding_session
from fairway.coding.workers import Progress, each_chunk, in_order
from fairway.config.schema import Adapt, Arithmetic
from fairway.data.tokenizer import Tokenizer
from fairway.errors import BadInput, Damaged
from fairway.formats.proof import (
    Digest,
    Header,
    Machine,
    ProofChunk,
    chunk_name,
    read_chunks,
    text_digest,
)
from fairway.io import limits
from fairway.io.binary import Reader, Target


def decode_proof(opened: Artifact, data: bytes, target: Target) -> DecodedProof:
    """Write the text that the bytes of a proof hold to `target`, and return facts about it.

    The written bytes are known to be right only when this returns. Raises Damaged when the bytes
    are not those that were written; BadInput when the proof needs another artifact or machine.
    """
    reader = Reader(data, "the proof's header")
    header = Header.read(reader)
    chunks = read_chunks(reader, header.chunks)
    adapt = online.from_bytes(header.learning)
    if not bytes.fromhex(opened.sha256).startswith(header.artifact):
        raise BadInput(
            f"the proof needs the artifact whose SHA-256 begins with {header.artifact.hex()}, and "
            f"this artifact has {opened.sha256}: give the one that it needs"
        )
    lanes = max((len(chunk.coded.starts) for chunk in chunks if chunk.coded), default=0)
    if lanes > 1 and online.needs_one_lane(adapt):
        raise Damaged(f"the proof claims to learn left to right and has {lanes} lanes")
    digest = Digest()
    ideal_bits = 0.0
    try:
        for document, bits in _decode(opened, header.machine, adapt, chunks):
            digest.update(document)
            target.write(document)
            ideal_bits = bits
    except MemoryError:
        raise BadInput(f"the proof's {lanes} lanes need more memory than there is") from None
    if text_digest(digest.text_sha256, digest.lengths_sha256) != header.text:
        raise Damaged("the decoded text is not the one that the proof's header names")
    if not digest.text_bytes:
        raise Damaged("the proof holds a text of no bytes, which has no bits per byte")
    return DecodedProof(
        text_sha256=digest.text_sha256,
        text_bytes=digest.text_bytes,
        lengths_sha256=digest.lengths_sha256,
        documents=digest.documents,
        tokens=sum(_tokens_of(chunk, opened.tokenizer) for chunk in chunks),
        stream_bytes=sum(chunk.stream_bytes for chunk in chunks),
        stream_ideal_bits=ideal_bits + sum(8.0 * c.stream_bytes for c in chunks if not c.coded),
        lanes=lanes,
        adaptation=adapt.method,
        arithmetic="float" if header.machine else "exact",
        order=online.order_of(adapt),
        grade="device" if header.machine else "portable",
    )


def _tokens_of(chunk: ProofChunk, tokenizer: Tokenizer) -> int:
    """Return how many tokens the documents of a chunk have, boundaries included."""
    if chunk.coded:
        return chunk.coded.tokens
    return sum(len(tokens) for tokens in tokenizer.encode_stream(chunk.documents))


def _decode(
    opened: Artifact, machine: Machine | None, adapt: Adapt, chunks: list[ProofChunk]
) -> Iterator[tuple[bytes, float]]:
    """Yield (document, bits of everything that a network decoded) of all chunks.

    Raises BadInput.
    """
    tokens = sum(chunk.tokens for chunk in chunks)
    streams = sum(len(chunk.coded.stream) for chunk in chunks if chunk.coded)
    limits.check_work("the proof", tokens, streams)
    on_cuda = bool(machine and machine.on_cuda)
    arithmetic: Arithmetic = "float" if machine else "exact"
    session = coding_session(opened, arithmetic, on_cuda, adapt, tokens)
    with session as (model, environment), console.track("decode", tokens, "tokens") as task:
        if machine and environment:
            environment.check_description(machine.environment)
            environment.check_logits(machine.logits)
        codec = Codec(model, opened.tokenizer)

        def decode_one(i: int, progress: Progress) -> list[bytes]:
            return codec.decode(chunks[i], progress, chunk_name(i, len(chunks)))

        ideal_bits = 0.0

        def report(done: int, bits: float) -> None:
            nonlocal ideal_bits
            ideal_bits = bits
            task.update(done)

        workers = environment.workers if environment else 1
        decoded = in_order(each_chunk(decode_one, range(len(chunks)), workers, report))
        yield from ((document, ideal_bits) for document in chain.from_iterable(decoded))
