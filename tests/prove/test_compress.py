import hashlib
import io

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fairway import world
from fairway.errors import BadInput
from fairway.pack import artifact
from fairway.pack.pack import pack_weights
from fairway.prove import compress as module
from fairway.prove.compress import compress as write
from fairway.prove.compress import decompress as read
from fairway.recipe import Pack

DESCRIBED = ("torch", "machine", "device", "capability", "dtype")
TEXT = b"the cat sat on a mat and the dog ran after some bird. " * 12


def nothing(done):
    pass


def compress(model, data, arithmetic="exact"):
    target = io.BytesIO()
    write(model, io.BytesIO(data), target, arithmetic, nothing)
    return target.getvalue()


def decompress(model, data):
    target = io.BytesIO()
    read(model, io.BytesIO(data), target, nothing)
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
    """Every byte of a file in turn, every truncation, and bytes that follow."""
    monkeypatch.setattr(module, "CHUNK_BYTES", 100)
    packed = compress(artifact_file, TEXT[:150] + np.random.default_rng(1).bytes(60))
    damaged = [packed[:i] for i in range(len(packed))]
    for i in range(len(packed)):
        for flip in (1, 255):
            damaged.append(packed[:i] + bytes([packed[i] ^ flip]) + packed[i + 1 :])
    for data in [*damaged, packed + b"\0"]:
        with pytest.raises(BadInput):
            decompress(artifact_file, data)


def test_damage_names_its_chunk(artifact_file, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_BYTES", 100)
    packed = bytearray(compress(artifact_file, np.random.default_rng(1).bytes(250)))
    packed[-70] ^= 1
    target = io.BytesIO()
    with pytest.raises(BadInput, match="chunk 2 of the compressed file is damaged"):
        read(artifact_file, io.BytesIO(bytes(packed)), target, nothing)
    assert target.getvalue() == np.random.default_rng(1).bytes(250)[:100]  # what came before it


def test_floating_point_names_its_machine(artifact_file, monkeypatch):
    packed = compress(artifact_file, TEXT, "float")
    assert decompress(artifact_file, packed) == TEXT
    monkeypatch.setattr(world, "describe", lambda here: dict.fromkeys(DESCRIBED, "another"))
    with pytest.raises(BadInput, match="another environment"):
        decompress(artifact_file, packed)
    assert decompress(artifact_file, compress(artifact_file, TEXT)) == TEXT


def test_what_is_no_compressed_file(artifact_file):
    with pytest.raises(BadInput, match="no file that fairway compress made"):
        decompress(artifact_file, b"PK\3\4")
    newer = bytearray(compress(artifact_file, b"x"))
    newer[3] = 3
    with pytest.raises(BadInput, match="format version 3"):
        decompress(artifact_file, bytes(newer))


def test_another_artifact_is_refused(artifact_file, lively_model, tmp_path):
    opened = artifact.read(artifact_file)
    other = tmp_path / "other.fairway"
    weights = {name: -t.numpy() for name, t in lively_model.state_dict().items()}
    recipe = Pack(quantizer="uniform", step=0.1)
    other.write_bytes(pack_weights(opened.model, opened.tokenizer, weights, {}, recipe).data)
    with pytest.raises(BadInput, match="give the artifact that made it"):
        decompress(other, compress(artifact_file, TEXT))
