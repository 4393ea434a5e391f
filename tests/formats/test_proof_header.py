import dataclasses
import tracemalloc

import pytest

from fairway.coding.codec import Reader, join, read_chunks, varint
from fairway.coding.online import settings
from fairway.config.schema import Adapt, Dynamic, Lora, Sgd
from fairway.errors import BadInput
from fairway.formats.proof_header import Header, Machine, text_digest

EXACT = Header(
    machine=None,
    adapt=Adapt(),
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
LEARNING = [dataclasses.replace(FLOAT, adapt=settings.rounded(how)) for how in HOWS]
headers = pytest.mark.parametrize("header", [EXACT, FLOAT, *LEARNING])
STORED = varint(1) + varint(3) + b"abc"


def opened(written):
    """The header of a proof of one stored chunk, up to the end of the file."""
    reader = Reader(written, "the header")
    header = Header.read(reader)
    (chunk,) = read_chunks(reader, header.chunks, header.version)
    assert chunk.documents == [b"abc"]
    return header


@headers
def test_headers_come_back(header):
    assert opened(join([header.to_bytes() + STORED])) == header


@headers
def test_headers_of_version_2_come_back(header):
    """They had a checksum of their own, and bytes and documents of the text."""
    written = header.to_bytes()
    second = written[:4] + b"\2" + written[5:18] + varint(300) + varint(2) + written[18:]
    assert opened(join([second, STORED])) == dataclasses.replace(header, version=2, claims=(300, 2))
    with pytest.raises(BadInput):
        opened(join([second + STORED]))


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


def test_a_long_environment_is_refused():
    long = dataclasses.replace(
        EXACT, machine=Machine(False, b"1234", "".join(map(str, range(2000))))
    )
    with pytest.raises(BadInput, match="damaged"):
        Header.read(Reader(join([long.to_bytes()]), "the header"))


def test_headers_are_short():
    """Every byte of them counts as text."""
    assert [len(h.to_bytes()) for h in (EXACT, FLOAT)] == [19, 31]
    assert max(len(h.to_bytes()) for h in LEARNING) < 76


def test_a_long_environment_costs_no_memory():
    """Deflate says nothing of how long its text is."""
    long = dataclasses.replace(FLOAT, machine=Machine(False, b"1234", "x" * 900_000)).to_bytes()
    tracemalloc.start()
    with pytest.raises(BadInput, match="damaged"):
        Header.read(Reader(join([long]), "the header"))
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()


def longer(written, at):
    """The same number, with a byte that it does not need."""
    return written[:at] + bytes([written[at] | 128, 0]) + written[at + 1 :]


@pytest.mark.parametrize("header", [EXACT, FLOAT, *LEARNING])
def test_a_header_has_one_form(header):
    """Numbers that are longer than need be, settings in another form, what deflate leaves over."""
    written = header.to_bytes()
    others = [longer(written, 18)]
    if header.machine:
        size = written[23]
        assert size < 127
        packed, how = written[24 : 24 + size], written[24 + size :]
        others.append(longer(written, 23))
        for wrong in (packed + b"\0", packed[:-1]):
            others.append(written[:23] + varint(len(wrong)) + wrong + how)
    for other in others:
        with pytest.raises(BadInput):
            opened(join([other + STORED]))


@pytest.mark.parametrize("method", ["sgd", "dynamic", "lora"])
@pytest.mark.parametrize("usual", [1, 2])
def test_usual_settings_are_not_spelt_out(method, usual):
    first = 8 * settings.METHODS.index(method)
    spelt = bytes([first]) + settings._packed(settings._USUAL[method][usual - 1])
    assert settings.to_bytes(settings.from_bytes(spelt)) == bytes([first + 2 * usual])
    with pytest.raises(BadInput, match="not written as they should be"):
        opened(join([FLOAT.to_bytes()[:-1] + spelt + STORED]))


@pytest.mark.parametrize("name", ["momentum", "clip"])
def test_zero_has_one_sign(name):
    negative = Adapt(method="sgd", sgd=Sgd(**{"lr": 0.5, name: -0.0}))
    header = dataclasses.replace(FLOAT, adapt=negative)
    with pytest.raises(BadInput, match="out of range"):
        opened(join([header.to_bytes() + STORED]))


def test_settings_that_nobody_could_have_written():
    written = bytearray(LEARNING[0].to_bytes())
    written[-4:] = b"\xff\xff\xff\xff"  # decay: not a number
    with pytest.raises(BadInput, match="out of range"):
        Header.read(Reader(join([bytes(written)]), "the header"))
    unknown = FLOAT.to_bytes()[:-1] + bytes([99 << 1])
    with pytest.raises(BadInput, match="method that this Fairway does not know"):
        Header.read(Reader(join([unknown]), "the header"))


def test_version_1_with_a_machine():
    environment = b"2|a CPU"
    hashes = b"".join(bytes.fromhex(word * 32) for word in ("ab", "cd", "ef"))
    fields = [b"FWPF\1\0\0", hashes, b"12345678", *map(varint, (300, 2, 1, len(environment)))]
    found = Header.read(Reader(join([b"".join([*fields, environment])]), "the header"))
    assert (found.text, found.chunks, found.version) == (EXACT.text, 1, 1)
    assert found.artifact == bytes.fromhex("ef" * 32)
    assert found.machine == Machine(False, b"12345678", "2|a CPU")
