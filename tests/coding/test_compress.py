import base64
import hashlib
import io
from pathlib import Path

import brotli
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fairway import distributed
from fairway.coding import artifact, fwz_chunks
from fairway.coding import compress as module
from fairway.coding.codec import Codec
from fairway.coding.compress import compress as write
from fairway.coding.compress import decompress as read
from fairway.coding.exact_model import ExactModel
from fairway.coding.session import coding_session
from fairway.config.schema import Pack
from fairway.data.byte_tokenizer import train_tokenizer
from fairway.errors import BadInput
from fairway.formats import fwz
from fairway.formats.coded_tokens import CodedTokens
from fairway.io.binary import Reader, join, varint
from fairway.pipeline.pack import pack_weights

DESCRIBED = ("torch", "machine", "device", "capability", "dtype")
ZEROS = brotli.compress(bytes(100_000_000), quality=1)  # a stream that claims much is bounded
TEXT = b"the cat sat on a mat and the dog ran after some bird. " * 12


def nothing(done):
    pass


def compress(model, data, arithmetic="exact"):
    target = io.BytesIO()
    write(artifact.read(model), io.BytesIO(data), target, arithmetic, nothing)
    return target.getvalue()


def decompress(model, data):
    target = io.BytesIO()
    read(artifact.read(model), io.BytesIO(data), target, nothing)
    return target.getvalue()


@given(st.binary(max_size=200))
@example(b"")
@example(b"x")
@example(b"\0")
@example(b"\xff\xfe\x80")
@example("\r\n\t \u2581 😀 ﬁ \u00a0".encode() * 5)
@example(TEXT)
@settings(max_examples=20, deadline=None)
def test_any_bytes_come_back_and_hardly_grow(artifact_file, data):
    packed = compress(artifact_file, data)
    assert decompress(artifact_file, packed) == data
    assert len(packed) <= len(data) + 24 + 8 * bool(data)


@pytest.fixture
def small_pieces(monkeypatch):
    """Chunks of 700 bytes, pieces of 100; brotli is never too good or too bad to be compared."""
    monkeypatch.setattr(module, "CHUNK_BYTES", 700)
    monkeypatch.setattr(fwz, "PIECE_BYTES", 100)
    monkeypatch.setattr(fwz_chunks, "_ASK_FROM", 0.0)
    monkeypatch.setattr(fwz_chunks, "_ASK_TO", 100.0)


GOLDEN = Path(__file__).parents[1] / "golden"
PROSE = (
    b"The ferry left the harbour a little after six, when the fog had begun to lift. Most of the "
    b"passengers stayed below, where it was warm, and read the papers that somebody had left on "
    b"the benches. My brother wanted to see the lighthouse, so we stood at the rail and waited. He "
    b"had asked about it every day of the summer, and every day our mother had told him that the "
    b"boat was too expensive. Now that we were here he said nothing at all. A man with grey hair "
    b"told us that the keeper had once lived there with his wife and four children, and that they "
    b"grew potatoes behind the tower, because the supply ship came only twice a year."
)
NOISE = np.random.default_rng(1).bytes(100)
NAMES = [b"the", b"cat", b"sat", b"mat", b"dog", b"ran", b"after", b"some", b"bird"]
WORDS = b" ".join(NAMES[i] for i in np.random.default_rng(2).integers(9, size=80))[:300]
PIECES = [WORDS[:100], WORDS[100:200], NOISE, b"x" * 100, bytes(range(100))]
kinds = st.one_of(st.sampled_from([*PIECES, "é😀".encode()]), st.binary(max_size=150))


@pytest.mark.parametrize("arithmetic", ["exact", "float"])
@pytest.mark.parametrize("size", [150, 300])
def test_the_document_memory_compresses(
    memory_file, artifact_file, small_pieces, monkeypatch, size, arithmetic
):
    """Every piece is a lane of its own, and so is its document memory."""
    monkeypatch.setattr(fwz, "PIECE_BYTES", size)

    def by_network(model):
        opened = artifact.read(model)
        with coding_session(opened, arithmetic) as (engine, _):
            codec, cut = Codec(engine, opened.tokenizer), list(fwz_chunks.cut(WORDS))
            charged = fwz_chunks._ask(codec, cut, [100.0] * len(cut), nothing)
            body = fwz_chunks._chunk(codec, cut, set(charged.pieces), charged).to_bytes()
            assert fwz_chunks.decode(codec, read_chunk(codec, body)) == WORDS
            return len(body)

    assert by_network(memory_file) < by_network(artifact_file)


@pytest.mark.parametrize("arithmetic", ["exact", "float"])
@pytest.mark.usefixtures("small_pieces")
@given(data=st.lists(kinds, max_size=20).map(b"".join))
@example(data=WORDS + NOISE + WORDS[:200] + b"x" * 100)
@example(data=NOISE + WORDS[:100] + NOISE)
@example(data="😀".encode() * 200)
@settings(max_examples=15)
def test_any_mixture_comes_back_and_hardly_grows(artifact_file, arithmetic, data):
    packed = compress(artifact_file, data, arithmetic)
    assert decompress(artifact_file, packed) == data
    grows_by = (24 if arithmetic == "exact" else 32) + 8 * -(-len(data) // 700)
    assert len(packed) <= len(data) + grows_by


def samples():
    """Name → bytes of many kinds, of about 2,000 bytes each."""
    random = np.random.default_rng(3)
    n = 2000

    def of(alphabet, count=n):
        return bytes(random.choice(list(alphabet), count).tolist())

    rows = [f"{i},{random.integers(9999)},{random.random():.3f}" for i in range(100)]
    log = [f"10:00:{i % 60:02} GET /page/{random.integers(50)} 200" for i in range(60)]
    prose = b" ".join(NAMES[i] for i in random.integers(9, size=400))
    return {
        "dna": of(b"ACGT"),
        "digits": of(b"0123456789"),
        "base64": base64.b64encode(random.bytes(n * 3 // 4)),
        "csv": "\n".join(rows).encode(),
        "log": "\n".join(log).encode(),
        "prose": PROSE,
        "words": prose,
        "zeros": bytes(n),
        "noise": random.bytes(n),
        "one byte": b"e",
        "UTF-8": "Größe ☃ 東京 ".encode() * 60,
        "mixed": prose[:1200] + random.bytes(700) + of(b"ACGT", 900) + bytes(500),
    }


SAMPLES = samples()


@pytest.mark.parametrize("model", ["untrained", "portable"])
@pytest.mark.parametrize("kind", SAMPLES)
@pytest.mark.parametrize(("chunk", "piece"), [(fwz.MAX_CHUNK_BYTES, fwz.PIECE_BYTES), (1000, 500)])
def test_never_larger_than_brotli_or_the_input(
    artifact_file, monkeypatch, model, kind, chunk, piece
):
    """By more than 26 bytes and 8 per chunk; and the network works only where it pays."""
    monkeypatch.setattr(module, "CHUNK_BYTES", chunk)
    monkeypatch.setattr(fwz, "PIECE_BYTES", piece)
    worked = []
    coded = CodedTokens.read
    monkeypatch.setattr(CodedTokens, "read", lambda *of: worked.append(coded(*of)) or worked[-1])
    file = artifact_file if model == "untrained" else GOLDEN / "portable.fairway"
    data = SAMPLES[kind]
    packed = compress(file, data)
    assert decompress(file, packed) == data
    parts = [data[i : i + chunk] for i in range(0, len(data), chunk)]
    least = [min(len(p), len(brotli.compress(p, quality=11, lgwin=24))) for p in parts]
    assert len(packed) <= sum(least) + 26 + 8 * len(parts)
    saved = sum(least) + 18 + 8 * len(parts) - len(packed)
    assert sum(c.tokens for c in worked) <= fwz_chunks.TOKENS_PER_SAVED_BYTE * saved
    if kind == "prose" and model == "portable" and chunk > 1000:
        assert worked  # or nothing was shown


def test_what_the_network_saves_too_slowly_is_left_to_brotli(monkeypatch):
    """The same text with and without the rule: fewer bytes, or none of the network's steps."""
    file = GOLDEN / "portable.fairway"
    by_rule = compress(file, PROSE)
    monkeypatch.setattr(fwz_chunks, "TOKENS_PER_SAVED_BYTE", 1)
    strict = compress(file, PROSE)
    packed = brotli.compress(PROSE, quality=11, lgwin=24)
    assert len(by_rule) < len(strict)
    assert packed in strict
    assert decompress(file, strict) == decompress(file, by_rule) == PROSE


@pytest.fixture(scope="module")
def codec(artifact_file):
    opened = artifact.read(artifact_file)
    return Codec(ExactModel(opened), opened.tokenizer)


def read_chunk(codec, body):
    return fwz.read_chunk(Reader(join([body]), "the chunk"), codec.tokenizer.most_tokens)


def test_each_piece_goes_where_it_costs_less(monkeypatch):
    """Prose to a network that has read some, noise and runs to brotli."""
    monkeypatch.setattr(fwz, "PIECE_BYTES", 200)
    opened = artifact.read(GOLDEN / "portable.fairway")
    codec = Codec(ExactModel(opened), opened.tokenizer)
    data = PROSE[:400] + NOISE * 2 + b"x" * 200 + PROSE[400:600]
    chunk = read_chunk(codec, fwz_chunks.encode(codec, data, nothing))
    assert chunk.groups == ((0, 2), (400, 1))
    assert fwz_chunks.decode(codec, chunk) == data


@pytest.mark.usefixtures("small_pieces")
@given(st.sets(st.integers(0, 4)))
@settings(max_examples=20)
def test_any_choice_decodes(codec, chosen):
    """All by the network, all by brotli, and what lies between."""
    cut = list(fwz_chunks.cut(b"".join(PIECES)))
    charged = fwz_chunks._ask(codec, cut, [50] * 5, nothing)
    chosen &= set(charged.pieces)
    chunk = read_chunk(codec, fwz_chunks._chunk(codec, cut, chosen, charged).to_bytes())
    assert sum(documents for _, documents in chunk.groups) == len(chosen)
    assert fwz_chunks.decode(codec, chunk) == b"".join(PIECES)


def test_pieces_are_cut_between_characters(monkeypatch):
    monkeypatch.setattr(fwz, "PIECE_BYTES", 10)
    cut = list(fwz_chunks.cut("aé😀".encode() * 9))
    assert b"".join(cut) == "aé😀".encode() * 9
    assert all(piece.decode() for piece in cut)
    assert list(fwz_chunks.cut(b"\x80" * 25)) == [b"\x80" * 13, b"\x80" * 12]


def test_many_capitals_are_as_many_tokens_as_are_read_back(lively_model, tmp_path, monkeypatch):
    """With a mark for each they are more tokens than bytes."""
    tokenizer = train_tokenizer([TEXT + PROSE], 300, cased=True)
    weights = {name: t.numpy() for name, t in lively_model.state_dict().items()}
    file = tmp_path / "model.fairway"
    how = Pack(quantizer="uniform", step=0.1)
    file.write_bytes(pack_weights(lively_model.shape, tokenizer, weights, {}, how).data)
    opened = artifact.read(file)
    codec = Codec(ExactModel(opened), opened.tokenizer)
    monkeypatch.setattr(fwz_chunks, "MAX_CHUNK_BYTES", 300)
    monkeypatch.setattr(fwz, "MAX_CHUNK_BYTES", 300)
    data = b"".join(bytes([65 + i, 10]) for i in np.random.default_rng(1).integers(26, size=150))
    assert len(opened.tokenizer.encode_documents([data])) > len(data) + 2
    cut = [data]
    charged = fwz_chunks._ask(codec, cut, [1 << 20], nothing)
    chunk = read_chunk(codec, fwz_chunks._chunk(codec, cut, {0}, charged).to_bytes())
    assert fwz_chunks.decode(codec, chunk) == data


def group(*numbers):
    return b"".join(map(varint, numbers))


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (group(1, 1 << 40), "claims 1099511627776 bytes or pieces"),
        (group(1, 0), "holds nothing"),
        (group(2, 1 << 40), "claims 1099511627776 bytes or pieces"),
        (group(2, len(ZEROS)) + ZEROS, "unpacks to more or less"),
        (group(2, 3) + b"abc", "no brotli stream|more or less"),
        (group(1 << 40), "claims 1099511627774 groups"),
        (group(3, 0, 1 << 40), "claims 1099511627776 bytes or pieces"),
        (group(4, 1_500_000, 0, 1_500_000, 0), "claims 3000000 bytes"),
        (group(3, 0, 1, 1 << 22), "claims 4194304 tokens"),
        (group(3, 0, 1, 9, 1, 1 << 40), "claims a stream of 1099511627776 bytes for 9 tokens"),
        (group(3, 0, 1, 40_000, 1, 200) + bytes(200), "claims a piece of 40000 tokens"),
        (group(3, 0, 1, 20_000, 1, 5) + bytes(5), "claims 20000 tokens in 5 bytes"),
        (group(4, 0, 40, 0, 40, 9, 1), "claims 80 pieces"),
        (group(4, 9, 0, 9, 1, 3) + b"abc", "a group of pieces that is no group"),
        (group(3, 0, 0), "a group of pieces that is no group"),
        (group(3, 0, 1, 9, 2, 4, 9) + bytes(13), "claims 2 lanes for 1 pieces"),
        (group(3, 9, 0, 1 << 40), "claims 1099511627776 bytes or pieces"),
        (group(3, 9, 0, 3) + b"abc", "no brotli stream|more or less"),
        (group(3, 9, 0, len(ZEROS)) + ZEROS, "unpacks to more or less"),
        (group(3, 2_000_000, 0, len(ZEROS)) + ZEROS, "unpacks to more or less"),
        (group(3, 0, 1, 2, 1, 0) + bytes(4), "another text|more or less"),
        (group(3, 0, 3, 2, 1, 0) + bytes(4), "claims 1 lanes for 3 pieces"),
        (b"\x01\x81\x00x", "longer than it need be"),
    ],
)
def test_claims_of_a_stranger_are_refused(codec, body, problem):
    with pytest.raises(BadInput, match=problem):
        fwz_chunks.decode(codec, read_chunk(codec, body))


def test_files_of_several_chunks(artifact_file, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_BYTES", 200)
    data = TEXT[:450] + np.random.default_rng(1).bytes(450)
    packed = compress(artifact_file, data)
    assert decompress(artifact_file, packed) == data
    assert len(packed) <= len(data) + 24 + 8 * 5


def test_the_same_file_twice_is_the_same_bytes(artifact_file):
    packed = [hashlib.sha256(compress(artifact_file, TEXT)).hexdigest() for _ in range(2)]
    assert packed[0] == packed[1]


def test_no_damage_passes(artifact_file, monkeypatch):
    """Every byte of a file in turn, truncations, and bytes that follow."""
    monkeypatch.setattr(module, "CHUNK_BYTES", 100)
    packed = compress(artifact_file, TEXT[:150] + np.random.default_rng(1).bytes(60))
    damaged = [packed[:i] for i in range(0, len(packed), 3)]
    for i in range(len(packed)):
        damaged.append(packed[:i] + bytes([packed[i] ^ 1 << i % 8]) + packed[i + 1 :])
    for data in [*damaged, packed + b"\0"]:
        with pytest.raises(BadInput):
            decompress(artifact_file, data)


def test_damage_names_its_chunk(artifact_file, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_BYTES", 100)
    packed = bytearray(compress(artifact_file, np.random.default_rng(1).bytes(250)))
    packed[-70] ^= 1
    target = io.BytesIO()
    with pytest.raises(BadInput, match="chunk 2 of the compressed file is damaged"):
        read(artifact.read(artifact_file), io.BytesIO(bytes(packed)), target, nothing)
    assert target.getvalue() == np.random.default_rng(1).bytes(250)[:100]  # what came before it


def test_floating_point_names_its_machine(artifact_file, monkeypatch):
    packed = compress(artifact_file, TEXT, "float")
    assert decompress(artifact_file, packed) == TEXT
    monkeypatch.setattr(distributed, "describe", lambda here: dict.fromkeys(DESCRIBED, "another"))
    with pytest.raises(BadInput, match="another environment"):
        decompress(artifact_file, packed)
    assert decompress(artifact_file, compress(artifact_file, TEXT)) == TEXT


def test_what_is_no_compressed_file(artifact_file):
    with pytest.raises(BadInput, match="no file that fairway compress made"):
        decompress(artifact_file, b"PK\3\4")
    newer = bytearray(compress(artifact_file, b"x"))
    newer[3] = 9
    with pytest.raises(BadInput, match="format version 9"):
        decompress(artifact_file, bytes(newer))


def test_another_artifact_is_refused(artifact_file, lively_model, tmp_path):
    opened = artifact.read(artifact_file)
    other = tmp_path / "other.fairway"
    weights = {name: -t.numpy() for name, t in lively_model.state_dict().items()}
    recipe = Pack(quantizer="uniform", step=0.1)
    other.write_bytes(pack_weights(opened.model, opened.tokenizer, weights, {}, recipe).data)
    with pytest.raises(BadInput, match="give the artifact that made it"):
        decompress(other, compress(artifact_file, TEXT))
