import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairway.coding import artifact, lanes
from fairway.coding.codec import Codec
from fairway.coding.exact_model import ExactModel
from fairway.coding.float_model import FloatModel
from fairway.errors import BadInput
from fairway.formats import coded_tokens
from fairway.formats.proof import read_chunks
from fairway.io.binary import Reader, join, varint


@pytest.fixture(scope="module", params=["exact", "float"])
def codec(request, artifact_file):
    opened = artifact.read(artifact_file)
    if request.param == "float":
        return Codec(FloatModel(opened.build_model()), opened.tokenizer)
    return Codec(ExactModel(opened, workers=2), opened.tokenizer)


def nothing(tokens, bits):
    pass


def encode(codec, documents):
    tokens = codec.tokenizer.encode_documents(documents)
    return codec.encode(tokens, documents, 8, nothing)


def read(bodies):
    """Chunks of a file with an empty header."""
    return read_chunks(Reader(join(bodies), "the header"), len(bodies))


def decode(codec, bodies):
    return [codec.decode(chunk, nothing) for chunk in read(bodies)]


words = st.lists(st.sampled_from([b"the cat ", b"sat ", b"dog", b"\xff\n", b""]), max_size=30)


@given(st.lists(words.map(b"".join), min_size=1, max_size=8))
@settings(max_examples=25, deadline=None)
def test_documents_come_back(codec, documents):
    assert decode(codec, [encode(codec, documents).body]) == [documents]


@given(st.integers(0, 2**62))
def test_varints_come_back(value):
    reader = Reader(varint(value), "the number")
    assert reader.varint() == value
    reader.check_end()


def test_claims_of_lanes_and_bytes_are_bounded(codec, monkeypatch):
    monkeypatch.setattr(coded_tokens, "TOKENS_PER_LANE", 20)
    documents = [b"the cat sat on a mat " * 6, b"the dog ran after some bird " * 6]
    chunk = encode(codec, documents)
    assert chunk.lanes == 2
    (read_back,) = read([chunk.body])
    with pytest.raises(BadInput, match="another text"):
        codec.decode_tokens(read_back.coded, nothing, most_bytes=len(b"".join(documents)) - 1)
    monkeypatch.setattr(coded_tokens, "TOKENS_PER_LANE", 1000)
    with pytest.raises(BadInput, match="claims 2 lanes"):
        read([chunk.body])


def test_a_text_of_several_lanes_comes_back(codec, monkeypatch):
    """Lanes that start at documents, one that starts inside a giant one, an empty document."""
    monkeypatch.setattr(coded_tokens, "TOKENS_PER_LANE", 128)
    monkeypatch.setattr(lanes, "LONGEST_DOCUMENT", 512)
    documents = [b"the cat sat on a mat. " * n for n in (15, 0, 1, 30)]
    documents.append(b"\x00" * 600)  # a token per byte
    chunk = encode(codec, documents)
    assert chunk.lanes >= 3
    assert read([chunk.body])[0].coded.starts.inside.any()
    assert decode(codec, [chunk.body]) == [documents]


def test_streams_are_as_long_as_the_code_lengths_say(codec):
    documents = [b"the cat sat on a mat and the dog ran. " * 20] * 30
    chunk = encode(codec, documents)
    assert (
        chunk.lanes
        == len(codec.tokenizer.encode_documents(documents)) // coded_tokens.TOKENS_PER_LANE
    )
    assert abs(8 * chunk.stream_bytes - chunk.ideal_bits) < 0.001 * chunk.ideal_bits


def test_bytes_that_coding_would_lengthen_are_stored(codec):
    noise = [np.random.default_rng(1).bytes(500), b"", b"x"]
    chunk = encode(codec, noise)
    assert chunk.lanes == 0
    assert len(chunk.body) <= 501 + 6
    assert decode(codec, [chunk.body]) == [noise]


def test_documents_that_the_tokens_do_not_write_are_stored(codec):
    tokens = codec.tokenizer.encode_documents([b"the cat " * 50])
    documents = [b"the dog " * 50]
    chunk = codec.encode(tokens, documents, 1, nothing)
    assert decode(codec, [chunk.body]) == [documents]


def test_lockstep_gives_the_bytes_of_the_parallel_pass(artifact_file):
    class Lockstep(ExactModel):
        def intervals(self, tokens, layout):
            return None

    opened = artifact.read(artifact_file)
    documents = [b"the cat sat on a mat. " * n for n in (700, 3, 900, 0, 40)]
    bodies = [
        encode(Codec(engine, opened.tokenizer), documents).body
        for engine in (ExactModel(opened, 1), ExactModel(opened, 2), Lockstep(opened, 2))
    ]
    assert bodies[0] == bodies[1] == bodies[2]


def test_a_chunk_from_another_model_is_refused(codec, lively_model):
    other = Codec(FloatModel(lively_model), codec.tokenizer)  # not quantised: nearly the same
    chunk = encode(codec, [b"the cat sat on a mat. " * 20])
    with pytest.raises(BadInput, match="the chunk decodes to another text"):
        decode(other, [chunk.body])


def test_lost_doubled_and_swapped_chunks_are_noticed(codec):
    bodies = [encode(codec, [text]).body for text in (b"the cat " * 9, b"the dog " * 9)]
    for wrong in ([0, 0], [1, 0], [0], [0, 1, 1]):
        right = join(bodies)
        ends = [0, len(bodies[0]) + 4, len(right)]
        parts = [right[ends[i] : ends[i + 1]] for i in wrong]
        with pytest.raises(BadInput, match=r"chunk [12] of 2 is"):
            read_chunks(Reader(b"".join(parts), "the header"), 2)


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"\0" + varint(0), "claims 0 tokens"),
        (b"\0" + varint(1 << 40), "claims 1099511627776 tokens"),
        (b"\0" + varint(9) + varint(0), "claims 0 lanes"),
        (b"\0" + varint(9) + varint(1 << 20), "claims 1048576 lanes"),
        (b"\0" + varint(9) + varint(2) + varint(0), "lanes out of order"),
        (b"\0" + varint(9) + varint(2) + varint(9 << 1), "lanes out of order"),
        (b"\0" + varint(9) + varint(5) + varint(1 << 62) * 4, "lanes out of order"),
        (varint(1) + varint(1 << 50), "is truncated"),
        (b"\xff" * 9, "is damaged"),
    ],
)
def test_claims_of_a_stranger_are_checked_before_memory_is_taken(body, problem):
    with pytest.raises(BadInput, match=problem):
        read([body])
