"""A proof has one form: no other bytes of the same layout prove the same text."""

import zlib
from pathlib import Path

import pytest

from fairway.errors import BadInput
from fairway.io.binary import varint
from fairway.pipeline.prove import decode

GOLDEN = Path(__file__).parents[1] / "golden"


def fields(data):
    """The fields of an exact proof of one coded chunk, without its checksum."""
    at, found = 18, [data[:18]]  # format, version, arithmetic, text, artifact

    def number():
        nonlocal at
        start = at
        while data[at] & 128:
            at += 1
        at += 1
        found.append(data[start:at])
        return data[start] if at - start == 1 else None

    number()  # chunks
    number()  # kind of the chunk: coded
    number()  # tokens
    for _ in range(number()):  # lanes: starts of the others, then the stream's length
        number()
    return [*found, data[at:-4]]


def joined(parts):
    body = b"".join(parts)
    return body + zlib.crc32(body).to_bytes(4, "little")


def others(parts):
    """(what was changed, bytes), each with a right checksum."""
    for i in range(1, len(parts) - 1):
        longer = parts[i][:-1] + bytes([parts[i][-1] | 128, 0])
        yield f"field {i} longer", joined([*parts[:i], longer, *parts[i + 1 :]])
    *before, _, stream = parts
    yield "stream and a zero", joined([*before, varint(len(stream) + 1), stream + b"\0"])
    for at in (40, len(stream) - 1):
        other = stream[:at] + bytes([stream[at] ^ 1]) + stream[at + 1 :]
        yield f"stream's byte {at}", joined([*parts[:-1], other])


@pytest.mark.parametrize("name", ["portable", "memory"])
def test_no_other_spelling_is_a_proof(name, tmp_path):
    data = (GOLDEN / f"{name}.fwp").read_bytes()
    parts, proof = fields(data), tmp_path / "proof.fwp"
    assert joined(parts) == data
    for what, other in others(parts):
        assert other != data
        proof.write_bytes(other)
        try:
            decode(GOLDEN / f"{name}.fairway", proof, tmp_path / "text")
        except BadInput:
            continue
        pytest.fail(f"{what}: accepted")
