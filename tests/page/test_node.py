"""The second decoder, which was written from the specification, decodes what the first one does."""

from __future__ import annotations

import hashlib
import io
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import switches
from node_decoder import Decoder, required_node

from fairway.coding import artifact
from fairway.coding.proof import decode_proof
from fairway.pipeline.second_decoder import FOLDER

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    """One process of Node for all files."""
    decoder = Decoder()
    yield decoder
    decoder.close()


def first_decoder(model: bytes, proof: bytes) -> tuple[str, list[int]]:
    """Return the SHA-256 of the text that Python decodes, and the lengths of its documents."""
    target, lengths = io.BytesIO(), []
    target.write = lambda data, write=target.write: lengths.append(len(data)) or write(data)
    decoded = decode_proof(artifact.read(model), proof, target)
    assert hashlib.sha256(target.getvalue()).hexdigest() == decoded.text_sha256
    return decoded.text_sha256, lengths


@pytest.mark.parametrize("name", switches.CASES)
def test_everything_that_the_formats_can_name(name: str, decoder: Decoder) -> None:
    made = switches.make(name)
    sha256, lengths = first_decoder(made.model, made.proof)
    assert lengths == [len(document) for document in made.documents]
    found = decoder.ask(made.model, made.proof)
    assert (found.get("sha256"), found.get("documents")) == (sha256, lengths), found
    assert found["textSha256"] == sha256
    assert found["modelSha256"] == hashlib.sha256(made.model).hexdigest()
    assert found["proofSha256"] == hashlib.sha256(made.proof).hexdigest()
    assert found["bpb"] == 8 * len(made.proof) / sum(lengths)


@pytest.mark.parametrize("name", ["portable", "memory"])
def test_golden_proofs(name: str, tmp_path: Path) -> None:
    """By the command line. memory: n-grams, neural cache, three lanes."""
    files = [GOLDEN / f"{name}.fairway", GOLDEN / f"{name}.fwp"]
    sha256, _ = first_decoder(*(file.read_bytes() for file in files))
    command = [required_node(), FOLDER / "verify.mjs", *files, tmp_path / "text"]
    for _ in range(2):  # the second time the text is there, and compared
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert sha256 in done.stdout + done.stderr
        assert hashlib.sha256((tmp_path / "text").read_bytes()).hexdigest() == sha256
    (tmp_path / "text").write_bytes(b"another text")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert (tmp_path / "text").read_bytes() == b"another text"
