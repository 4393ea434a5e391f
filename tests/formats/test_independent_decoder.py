"""docs/formats.md suffices: a decoder that was written from it alone reads every format."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest

from fairway.coding import artifact, online
from fairway.coding.compress import compress
from fairway.coding.lanes import Layout
from fairway.coding.session import open_model
from fairway.config.schema import Adapt
from fairway.data.byte_tokenizer import train_tokenizer
from fairway.formats import fwz
from fairway.formats.coded_tokens import Starts
from fairway.formats.proof import Header, Machine, ProofChunk
from fairway.io.binary import join
from fairway.model.parameters import tensors_of
from oracles import file_formats

GOLDEN = Path(__file__).parents[1] / "golden"


def test_artifacts() -> None:
    data = (GOLDEN / "tiny.fairway").read_bytes()
    opened, found = artifact.read(data), file_formats.artifact(data)
    assert found.recipe.items() <= opened.model.model_dump().items()
    shapes = {t.name: t.shape for t in tensors_of(opened.model, opened.vocab_size)}
    weights = file_formats.weights(found.bodies, shapes)
    assert weights.keys() == opened.state.keys()
    for name, expected in opened.state.items():
        assert np.array_equal(weights[name], expected.numpy())
    assert file_formats.artifact((GOLDEN / "memory.fairway").read_bytes()).recipe["ngram"] == 4


@pytest.mark.parametrize("cased", [False, True])
def test_tokenizers(cased: bool) -> None:
    text = Path(__file__).read_bytes()
    data = train_tokenizer([text], 330, cased).to_bytes()
    assert data[0] == (3 if cased else 1)
    pieces = file_formats.unpack(data[1:]).split(b"\xff")
    assert len(pieces) == 330 - 257
    assert (pieces[:2] == ["\ue001".encode(), "\ue002".encode()]) == cased


def documents_of(opened: artifact.Artifact, coded: file_formats.Coded) -> list[bytes]:
    """What a network coded: framing and coding by the oracle, frequencies by Fairway."""
    positions, inside = (np.array(column) for column in zip(*coded.starts, strict=True))
    layout = Layout(coded.tokens, Starts(positions, inside.astype(bool)))
    stepper = open_model(opened).stepper(layout)
    return opened.tokenizer.decode(file_formats.tokens_of(coded, opened.bos_id, stepper))


@pytest.mark.parametrize("name", ["portable", "memory"])
def test_proofs(name: str) -> None:
    opened = artifact.read(GOLDEN / f"{name}.fairway")
    proof = file_formats.proof((GOLDEN / f"{name}.fwp").read_bytes())
    assert (proof.arithmetic, proof.learning) == (0, b"")
    assert bytes.fromhex(opened.sha256).startswith(proof.artifact)
    documents = [d for chunk in proof.chunks for d in documents_of(opened, chunk)]
    lengths = b"".join(len(document).to_bytes(8, "little") for document in documents)
    both = [hashlib.sha256(part).digest() for part in (b"".join(documents), lengths)]
    assert hashlib.sha256(b"".join(both)).digest()[:8] == proof.text


def test_proofs_in_floating_point() -> None:
    learning = online.to_bytes(Adapt(method="sgd"))
    header = Header(Machine(True, b"1234", "2.13.0|é"), learning, b"t" * 8, b"a" * 4, 2)
    chunks = [ProofChunk(None, [b"abc", b""]).to_bytes(), ProofChunk(None, [b"d"]).to_bytes()]
    proof = file_formats.proof(join([header.to_bytes() + chunks[0], chunks[1]]))
    assert proof[:4] == (2, b"t" * 8, b"a" * 4, b"1234")
    assert proof[4:] == ("2.13.0|é", learning, [[b"abc", b""], [b"d"]])


def test_compressed_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stored, by brotli, and both brotli and the network."""
    monkeypatch.setattr(fwz, "PIECE_BYTES", 400)
    monkeypatch.setattr("fairway.coding.compress.CHUNK_BYTES", 1200)
    model = GOLDEN / "portable.fairway"
    opened = artifact.read(model)
    proof = file_formats.proof((GOLDEN / "portable.fwp").read_bytes())
    prose = documents_of(opened, proof.chunks[0])[0]
    noise = np.random.default_rng(1).bytes(1200)
    text = prose[:800] + noise[:400] + noise + b"abcdefgh" * 150 + prose[800:]
    target, coded = io.BytesIO(), []
    compress(opened, io.BytesIO(text), target, "exact", lambda done: None)

    def decode(chunk: file_formats.Coded) -> list[bytes]:
        coded.append(chunk)
        return documents_of(opened, chunk)

    assert file_formats.compressed(target.getvalue(), decode) == text
    assert coded
