"""The header of proofs of format version 1: whole hashes, the environment in clear.

Read, but not written any more; docs/formats.md.
"""

from __future__ import annotations

from fairway.prove.codec import Reader
from fairway.prove.header import Header, Machine, environment_length, text_digest
from fairway.recipe import Adapt


def read_header(reader: Reader, arithmetic: int) -> Header:
    """After the version and the arithmetic: 0 floating point, 1 exact. Raises BadInput."""
    if arithmetic > 1:
        raise reader.bad("is damaged")
    needs_machine = arithmetic == 0
    on_cuda = needs_machine and bool(reader.take(1)[0])
    text, lengths, made_by = (reader.take(32) for _ in range(3))
    logits = reader.take(8) if needs_machine else b""
    _, _, chunks = (reader.varint() for _ in range(3))  # bytes, documents
    machine = None
    if needs_machine:
        environment = reader.take(environment_length(reader)).decode(errors="replace")
        machine = Machine(on_cuda, logits, environment)
    reader.check()
    digest = text_digest(text.hex(), lengths.hex())
    return Header(machine, Adapt(), digest, made_by, chunks, 1)
