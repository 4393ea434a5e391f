"""Headers and chunks of proofs: they come back, they are short, and each has one form."""

import dataclasses

import pytest

from fairway.coding import online
from fairway.config.schema import Adapt, Dynamic, Lora, Sgd
from fairway.errors import BadInput
from fairway.formats.proof import Header, Machine, ProofChunk, read_chunks, text_digest
from fairway.io.binary import Reader, join

EXACT = Header(
    machine=None,
    learning=b"",
    text=text_digest("ab" * 32, "cd" * 32),
    artifact=bytes.fromhex("ef" * 4),
    chunks=1,
)
MACHINE = Machine(False, b"1234", "2.13.0+cpu|x86_64|AMD EPYC|AVX512|float32")
FLOAT = dataclasses.replace(EXACT, machine=MACHINE)
HOWS = [
    Adapt(method="dynamic", dynamic=Dynamic(lr=0.5, decay=0.25)),
    Adapt(method="sgd", order="lanes", sgd=Sgd(cosine=True, epochs=3)),
    Adapt(method="lora", lora=Lora(reset=False, rank=3)),
]
LEARNING = [dataclasses.replace(FLOAT, learning=online.to_bytes(how)) for how in HOWS]
headers = pytest.mark.parametrize("header", [EXACT, FLOAT, *LEARNING])
STORED = ProofChunk(None, [b"abc"]).to_bytes()


def opened(written):
    """The header of a proof of one stored chunk, up to the end of the file."""
    reader = Reader(written, "the header")
    header = Header.read(reader)
    (chunk,) = read_chunks(reader, header.chunks)
    assert chunk.documents == [b"abc"]
    online.from_bytes(header.learning)
    return header


@headers
def test_headers_come_back(header):
    assert opened(join([header.to_bytes() + STORED])) == header


@headers
def test_headers_that_are_refused(header):
    written = join([header.to_bytes() + STORED])
    for i in range(len(written)):
        for wrong in (written[:i], written[:i] + bytes([written[i] ^ 1]) + written[i + 1 :]):
            with pytest.raises(BadInput):
                opened(wrong)


def test_a_proof_of_nothing_is_refused():
    with pytest.raises(BadInput, match="holds no text"):
        opened(join([dataclasses.replace(EXACT, chunks=0).to_bytes() + STORED]))


@pytest.mark.parametrize("version", [0, 2, 3, 255])
def test_other_versions_are_refused(version):
    written = EXACT.to_bytes()
    with pytest.raises(BadInput, match=rf"format version {version}, .*this one reads version 1"):
        opened(join([written[:4] + bytes([version]) + written[5:] + STORED]))


def test_a_long_environment_is_refused_before_it_is_read():
    long = dataclasses.replace(EXACT, machine=dataclasses.replace(MACHINE, environment="x" * 1001))
    with pytest.raises(BadInput, match="claims 1001 bytes"):
        Header.read(Reader(long.to_bytes()[:60], "the header"))


def test_an_environment_is_text():
    written = FLOAT.to_bytes()
    with pytest.raises(BadInput, match="damaged"):
        Header.read(Reader(written.replace(b"EPYC", b"EP\xff\xff"), "the header"))


def test_headers_are_short():
    """Every byte of them counts as text."""
    assert len(EXACT.to_bytes()) == 19
    assert len(FLOAT.to_bytes()) == 19 + 6 + len(MACHINE.environment)
    assert max(len(h.to_bytes()) for h in LEARNING) <= len(FLOAT.to_bytes()) + 29


def longer(written, at):
    """The same number, with a byte that it does not need."""
    return written[:at] + bytes([written[at] | 128, 0]) + written[at + 1 :]


@headers
def test_a_header_has_one_form(header):
    """No number may be longer than need be."""
    written = header.to_bytes()
    places = [18]  # chunks
    if header.machine:
        places += [23, 24 + len(MACHINE.environment)]
    for place in places:
        with pytest.raises(BadInput, match="longer than it need be"):
            opened(join([longer(written, place) + STORED]))
