"""The second decoder, which was written from the specification, decodes what the first one does."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mutants
import numpy as np
import pytest
import switches
from node_decoder import Decoder, required_node

from fairway.coding import artifact
from fairway.coding.lanes import Layout
from fairway.coding.proof import decode_proof
from fairway.coding.session import open_model
from fairway.config.schema import Memory, Model
from fairway.errors import BadInput
from fairway.formats.proof import Header, Machine, ProofChunk
from fairway.io.binary import join
from fairway.page.charges import bits_of
from fairway.pipeline import verify
from fairway.pipeline.second_decoder import FOLDER, find_node

ONLY_FOR_TRAINING = {"embed_std", "output_init", "qk_gain"}
GOLDEN = Path(__file__).parents[1] / "golden"
LINES = 2_053  # of the decoder, one statement a line; 1,500 are wanted
COLUMNS = 100


def artifact_part(model: bytes, index: int) -> bytes:
    """Return a part of an artifact, by the table in its header (formats.md)."""
    sizes = [int.from_bytes(model[at : at + 4], "little") for at in range(5, 61, 8)]
    start = 65 + sum(sizes[:index])
    return model[start : start + sizes[index]]


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


def test_every_key_of_a_recipe_has_a_case_of_its_own() -> None:
    """A new switch must be decoded by both decoders."""
    shapes = [
        (Model.model_validate(switches.BASE | case.model), case.memory)
        for case in switches.CASES.values()
    ]
    for key in {*Model.model_fields, *Memory.model_fields} - ONLY_FOR_TRAINING:
        owner = int(key in Memory.model_fields)
        assert len({getattr(shape[owner], key) for shape in shapes}) > 1, key


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


@pytest.mark.slow
def test_a_part_with_several_streams(decoder: Decoder) -> None:
    """The bigram table fills a stream, so the matrix behind it has one of its own."""
    rows = 2**22 // 16
    made = switches.made_of(switches.Case({"bigram_rows": rows, "bigram_dim": 16}), 0)
    length = int.from_bytes(artifact_part(made.model, 5)[1:5], "little")
    assert 1 + 4 + length < len(artifact_part(made.model, 5))
    assert decoder.ask(made.model, made.proof, 300)["sha256"] == made.text_sha256


@pytest.mark.parametrize("name", ["memory", pytest.param("portable", marks=pytest.mark.slow)])
def test_golden_proofs(name: str, decoder: Decoder) -> None:
    """memory: n-grams, neural cache, three lanes. portable: a larger network."""
    model, proof = ((GOLDEN / f"{name}.{end}").read_bytes() for end in ("fairway", "fwp"))
    sha256, lengths = first_decoder(model, proof)
    found = decoder.ask(model, proof, 300)
    assert (found.get("sha256"), found.get("documents")) == (sha256, lengths), found


@pytest.mark.parametrize("name", ["chunks", "memory-far-columns"])
def test_what_each_token_cost_and_who_predicted_it(name: str, decoder: Decoder) -> None:
    made = switches.make(name)
    opened = artifact.read(made.model)
    found = decoder.ask(made.model, made.proof, details=True)
    bits = 0.0
    for index, (tokens, starts) in enumerate(made.chunks):
        blocks = [block for block in found["records"] if block["chunk"] == index]
        told = {
            key: np.concatenate([np.array(block[key]) for block in blocks])
            for key in ("start", "token", "bits", "top", "topBits", "shares")
        }
        order = np.argsort(told["start"])
        layout = Layout(len(tokens), starts)
        assert told["start"][order].tolist() == np.sort(layout.order()).tolist()
        assert told["token"][order].tolist() == tokens[np.sort(layout.order())].tolist()
        places = {int(start): place for place, start in enumerate(told["start"])}
        stepper = open_model(opened, workers=1).stepper(layout)
        coded = np.full(layout.lanes, opened.bos_id, np.int64)
        for step in range(layout.steps):
            where = layout.positions(step)
            frequencies = np.diff(stepper.step(coded[: len(where)]))
            coded = tokens[where].astype(np.int64)
            own = frequencies[np.arange(len(where)), coded]
            shares = stepper.memory_parts(coded) / own[:, None]
            at = np.array([places[int(position)] for position in where])
            top = told["top"].reshape(-1, 5)[at]
            assert all(len(set(row)) == 5 for row in top.tolist())
            likeliest = np.sort(frequencies)[:, :-6:-1]
            for key, expected in (
                ("bits", bits_of(own)[:, None]),
                ("topBits", bits_of(likeliest)),
                ("topBits", bits_of(np.take_along_axis(frequencies, top, 1))),
                ("shares", np.column_stack([1 - shares.sum(1), shares])),
            ):
                values = told[key].reshape(len(told["start"]), -1)[at]
                np.testing.assert_allclose(values, expected, rtol=1e-6, atol=1e-6)
            bits += float(bits_of(own).sum())
            stepper.observe(coded)
    assert found["bits"] == pytest.approx(bits, rel=1e-9)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A model and a proof of three chunks."""
    made = switches.make("chunks")
    model, proof = tmp_path / "model.fairway", tmp_path / "val.fwp"
    model.write_bytes(made.model)
    proof.write_bytes(made.proof)
    return model, proof


def test_the_command_line(files: tuple[Path, Path], tmp_path: Path) -> None:
    """In two threads; the second time the text is there, and compared."""
    text, (model, proof) = b"".join(switches.make("chunks").documents), files
    command = [required_node(), FOLDER / "verify.mjs", "--threads", "2", *files, tmp_path / "text"]

    def code() -> int:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if not done.returncode:
            hashes = [hashlib.sha256(data).hexdigest() for data in (text, model.read_bytes())]
            assert all(sha256 in done.stdout for sha256 in hashes)
            assert f"{8 * proof.stat().st_size / len(text):.4f}" in done.stdout
        return done.returncode

    assert code() == 0
    assert (tmp_path / "text").read_bytes() == text
    assert code() == 0
    (tmp_path / "text").write_bytes(b"another text")
    assert code() == 1
    assert (tmp_path / "text").read_bytes() == b"another text"
    proof.write_bytes(proof.read_bytes()[:-1] + b"?")
    assert code() == 1
    proof.write_bytes(switches.make("base").proof)
    assert code() == 2
    proof.unlink()
    assert code() == 2


@pytest.mark.parametrize("on_cuda", [False, True])
def test_a_proof_in_floating_point_is_refused_with_the_reason(
    on_cuda: bool, decoder: Decoder
) -> None:
    made = switches.make("chunks")
    machine = Machine(on_cuda, b"1234", "2.13.0|x86_64")
    header = Header(machine, b"", b"t" * 8, hashlib.sha256(made.model).digest()[:4], 1)
    proof = join([header.to_bytes() + ProofChunk(None, [b"abc"]).to_bytes()])
    assert "float" in decoder.ask(made.model, proof)["damage"]


def test_verify_asks_the_second_decoder(files: tuple[Path, Path], fairway: Any) -> None:
    required_node()
    code, out, err = fairway("verify", *files, "--with", "node", "--json")
    assert (code, json.loads(out)["decoded_twice"]) == (0, True), err
    assert "by Node: the same text" in err


def test_verify_says_no_where_the_second_decoder_does(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a program in place of Node, which finds something else."""
    node = tmp_path / "bin" / "node"
    node.parent.mkdir()
    monkeypatch.setenv("PATH", str(node.parent), prepend=os.pathsep)
    good = verify.verify_files(*files)
    assert good.verified
    assert not good.decoded_twice
    for script, sentence in (
        ("printf wrong > $5", "the second decoder finds another text, with SHA-256 "),
        ("echo the proof is damaged >&2; exit 1", "the second decoder: the proof is damaged"),
    ):
        node.write_text(f"#!/bin/sh\n{script}\n")
        node.chmod(0o755)
        verdict = verify.decoded_twice(good, *files)
        assert not verdict.verified
        assert verdict.reason.startswith(sentence)
    node.write_text("#!/bin/sh\necho cannot read it >&2; exit 2\n")
    with pytest.raises(BadInput, match="the second decoder: cannot read it"):
        verify.decoded_twice(good, *files)
    files[1].write_bytes(b"another proof")
    with pytest.raises(BadInput, match="has changed while it was verified"):
        verify.decoded_twice(good, *files)


def test_node_is_not_taken_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "node").write_text("#!/bin/sh\n")
    (tmp_path / "node").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", ".", prepend=os.pathsep)
    node = find_node()
    assert node is None or (os.path.isabs(node) and Path(node).parent != tmp_path)


def test_kernels_in_webassembly_equal_the_plain_loops() -> None:
    command = [required_node(), Path(__file__).with_name("kernels.mjs"), FOLDER]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 10_000


def test_it_decodes_without_webassembly() -> None:
    made, decoder = switches.make("memory-far-columns"), Decoder("plain")
    try:
        assert decoder.ask(made.model, made.proof)["sha256"] == made.text_sha256
    finally:
        decoder.close()


def test_the_decoder_stays_small() -> None:
    """Lines of code, without blank ones and those that are only a comment."""
    written = [line for file in FOLDER.glob("*.mjs") for line in file.read_text().splitlines()]
    assert max(map(len, written)) <= COLUMNS
    lines = [line.strip() for line in written]
    code = [line for line in lines if line and not line.startswith(("//", "/*", "*"))]
    assert 500 < len(code) <= LINES


def test_damaged_and_hostile_files_are_refused_or_right() -> None:
    """A sample: `make campaign` makes and judges a thousand."""
    counts, slowest = mutants.run(60, seed=1)
    assert set(counts) <= set(mutants.FINE), counts
    assert counts["refused"] > 50
    assert slowest < mutants.HANG_S
