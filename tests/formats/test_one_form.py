"""A proof has one form: no other bytes of the same layout prove the same text."""

import zlib
from pathlib import Path

import pytest

from fairway.coding.codec import varint
from fairway.errors import BadInput
from fairway.pipeline.prove import decode

GOLDEN = Path(__file__).parents[1] / "golden"


class Parts:
    """The fields of an exact proof of one coded chunk, as a list of bytes, and how to join them."""

    def __init__(self, data):
        self.version, at, self.fields = data[4], 18, [data[:18]]

        def number():
            nonlocal at
            start = at
            while data[at] & 128:
                at += 1
            at += 1
            self.fields.append(data[start:at])
            return int.from_bytes(bytes([data[start] & 127])) if at - start == 1 else -1

        self.numbers = range(1, 1 + (3 if self.version == 2 else 1))
        for _ in self.numbers:
            number()
        self.header = len(self.fields)
        at += 4 * (self.version == 2)  # the header's own checksum
        self.fields.append(data[at : at + 1])
        at += 1
        number()  # tokens
        lanes = number()
        for _ in range(lanes):  # starts of the others, then the stream's length
            number()
        end = len(data) - 4 * (2 if self.version == 2 else 1)
        self.fields.append(data[at:end])
        self.fields.append(data[end : end + 4 * (self.version == 2)])

    def join(self, fields=None):
        fields = fields or self.fields
        first, second = b"".join(fields[: self.header]), b"".join(fields[self.header :])
        checksum = zlib.crc32(first)
        if self.version == 2:
            first += checksum.to_bytes(4, "little")
        checksum = zlib.crc32(second, checksum)
        return first + second + checksum.to_bytes(4, "little")

    def others(self):
        """(what was changed, bytes), each with right checksums."""
        for i, field in enumerate(self.fields):
            changed = self.fields.copy()
            if 0 < i < len(self.fields) - 2:
                changed[i] = field[:-1] + bytes([field[-1] | 128, 0])
                yield f"field {i} longer", self.join(changed)
        stream = len(self.fields) - 2
        for tail in (b"\0",):
            changed = self.fields.copy()
            changed[stream] += tail
            changed[stream - 1] = varint(len(changed[stream]))
            yield f"stream and {tail!r}", self.join(changed)
        for at in (40, -1):
            changed, body = self.fields.copy(), bytearray(self.fields[stream])
            body[at] ^= 1
            changed[stream] = bytes(body)
            yield f"stream's byte {at}", self.join(changed)
        if self.version == 2:
            for i, wrong in ((1, 1), (2, 1), (len(self.fields) - 1, 0)):
                changed = self.fields.copy()
                changed[i] = varint(wrong) if wrong else bytes(4)
                yield f"claim {i}", self.join(changed)


@pytest.mark.parametrize("name", ["portable", "memory"])
def test_no_other_spelling_is_a_proof(name, tmp_path):
    data = (GOLDEN / f"{name}.fwp").read_bytes()
    parts, proof = Parts(data), tmp_path / "proof.fwp"
    assert parts.join() == data
    for what, other in parts.others():
        assert other != data
        proof.write_bytes(other)
        try:
            decode(GOLDEN / f"{name}.fairway", proof, tmp_path / "text")
        except BadInput:
            continue
        pytest.fail(f"{what}: accepted")
