import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import processes
from fairway.coding import online
from fairway.config.schema import Adapt, Prove
from fairway.config.toml import loads
from fairway.errors import BadInput, Interrupted
from fairway.formats.proof import Header
from fairway.io.binary import Reader, join, varint
from fairway.pipeline import prove as prove_stage
from fairway.pipeline.directory import Job, RunDirectory
from fairway.pipeline.prove import decode
from fairway.pipeline.results import PrepareResult, ProveResult, ScoreResult, Verdict
from fairway.pipeline.runner import perform
from fairway.pipeline.verdicts import verify

DOCUMENTS = ["Return the sum of the elements, as a float. " * 8, "", "é \r\n\tx = 1\n" * 24] * 3


@pytest.fixture
def recipe(tiny):
    return loads(tiny.recipe.read_text())


@pytest.fixture
def text(tmp_path):
    file = tmp_path / "other.jsonl"
    file.write_text("".join(json.dumps({"text": document}) + "\n" for document in DOCUMENTS))
    return file


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(online, "CHUNK_TOKENS_PER_LANE", 4)


def test_the_course_ends_with_a_proof_that_counts_every_byte(tiny):
    kinds = (PrepareResult, ProveResult, Verdict)
    data, proved, verified = (tiny.require(kind) for kind in kinds)
    assert proved.files == {"val.fwp": tiny.proof_file.stat().st_size}
    assert proved.bpb == 8 * tiny.proof_file.stat().st_size / data.val_bytes
    assert (proved.text_sha256, proved.lengths_sha256) == (data.text_sha256, data.lengths_sha256)
    assert (
        abs(8 * proved.stream_bytes - proved.stream_ideal_bits) < 0.001 * proved.stream_ideal_bits
    )
    assert verified.verified
    assert verified.decoded.text_sha256 == data.text_sha256
    assert verified.bpb == proved.bpb
    assert not tiny.prove_checkpoint.exists()


def test_the_proof_agrees_with_the_score(tiny):
    """They are the same integers; a score charges the documents that lanes start at, too."""
    proved, scored = tiny.recorded(ProveResult), tiny.recorded(ScoreResult)
    assert (proved.arithmetic, proved.grade) == ("exact", "portable")
    more = scored.bpb * tiny.recorded(PrepareResult).val_bytes - proved.stream_ideal_bits
    assert -1e-3 < more < 30 * (proved.lanes - 1) + 1e-3


def test_finished_proofs_are_skipped(tiny, recipe):
    before = tiny.proof_file.stat().st_mtime_ns
    assert perform(recipe, tiny, ProveResult) == tiny.recorded(ProveResult)
    assert tiny.proof_file.stat().st_mtime_ns == before


def test_another_text_is_proved_and_verified_in_a_folder_of_its_own(
    tiny, recipe, text, small_chunks
):
    val = tiny.proof_file.read_bytes()
    proved = perform(recipe, tiny, ProveResult, text)
    assert proved.text_bytes == sum(len(document.encode()) for document in DOCUMENTS)
    verified = verify(Job(recipe, tiny, text))
    assert verified.verified, verified.reason
    place = tiny.for_text(text)
    assert (place.recorded(ProveResult), place.recorded(Verdict)) == (proved, verified)
    assert tiny.proof_file.read_bytes() == val


def test_a_proof_of_another_text_does_not_stand_for_this_one(tiny, recipe, text, small_chunks):
    perform(recipe, tiny, ProveResult, text)
    text.write_text(json.dumps({"text": "something else"}) + "\n")
    verdict = verify(Job(recipe, tiny, text))
    assert not verdict.verified
    assert f"another text than {text}" in verdict.reason
    text.unlink()
    with pytest.raises(BadInput, match="there is no text"):
        verify(Job(recipe, tiny, text))


def test_ctrl_c_keeps_the_finished_chunks(tiny, recipe, text, small_chunks, tmp_path):
    whole = tmp_path / "whole"
    perform(recipe, tiny, ProveResult, text)
    place = tiny.for_text(text)
    shutil.move(place.path, whole)

    def interrupt():
        while not place.prove_checkpoint.exists() or _lines(place.prove_checkpoint) < 2:
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(Interrupted, match="chunks done; the same command goes on"):
        perform(recipe, tiny, ProveResult, text)
    thread.join()
    assert not place.proof_file.exists()
    assert _lines(place.prove_checkpoint) >= 2
    perform(recipe, tiny, ProveResult, text)
    assert place.proof_file.read_bytes() == (whole / "proof" / "val.fwp").read_bytes()


def prove_in_small_chunks(run_path, text):
    online.CHUNK_TOKENS_PER_LANE = 4
    run = RunDirectory(run_path)
    perform(run.load(), run, ProveResult, text)


def test_a_killed_proof_goes_on_and_ends_with_the_same_bytes(tiny, recipe, text, small_chunks):
    place = tiny.for_text(text)
    process = processes.Forked(prove_in_small_chunks, tiny.path, text)
    checkpoint = place.prove_checkpoint
    processes.until(lambda: checkpoint.exists() and _lines(checkpoint) >= 2, process)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, process.stderr
    with open(place.prove_checkpoint, "a") as file:
        file.write('{"chunk": 9, "bo')  # as a kill within a write would leave it
    began = _lines(place.prove_checkpoint)
    resumed = perform(recipe, tiny, ProveResult, text)
    first = place.proof_file.read_bytes()
    place.invalidate(ProveResult)
    assert perform(recipe, tiny, ProveResult, text).stream_ideal_bits == pytest.approx(
        resumed.stream_ideal_bits
    )
    assert place.proof_file.read_bytes() == first
    assert began >= 2


LEARNING = {"adapt": Adapt(method="dynamic")}


@pytest.fixture
def small_learned_chunks(monkeypatch):
    monkeypatch.setattr(online, "CHUNK_TOKENS_PER_LANE", 200)
    monkeypatch.setattr(online, "CHUNK_TOKENS", 200)


def test_chunks_of_other_settings_are_not_taken_up(
    tiny, recipe, text, small_learned_chunks, monkeypatch
):
    """The header does not tell them apart: it has the same chunks."""
    monkeypatch.setattr("fairway.formats.coded_tokens.TOKENS_PER_LANE", 20)
    monkeypatch.setattr(online, "CHUNK_TOKENS_PER_LANE", 20)
    two, three = (
        recipe.model_copy(update={"adapt": Adapt(method="dynamic", order="lanes", lanes=lanes)})
        for lanes in (2, 3)
    )
    place, add = tiny.for_text(text), prove_stage._Partial.add
    perform(three, tiny, ProveResult, text)
    wanted = place.proof_file.read_bytes()
    place.invalidate(ProveResult)

    def add_and_stop(*arguments):
        add(*arguments)
        raise Interrupted("stopped")

    monkeypatch.setattr(prove_stage._Partial, "add", add_and_stop)
    with pytest.raises(Interrupted):
        perform(two, tiny, ProveResult, text)
    assert _lines(place.prove_checkpoint) == 2
    monkeypatch.setattr(prove_stage._Partial, "add", add)
    perform(three, tiny, ProveResult, text)
    assert place.proof_file.read_bytes() == wanted


def test_a_proof_by_a_network_that_learns(tiny, recipe, text, small_learned_chunks):
    learning = recipe.model_copy(update=LEARNING)
    proved, scored = (
        perform(learning, tiny, ProveResult, text),
        perform(learning, tiny, ScoreResult, text),
    )
    assert (proved.adaptation, proved.order, proved.grade) == ("dynamic", "left-to-right", "device")
    assert (proved.arithmetic, proved.lanes) == ("float", 1)
    assert (scored.adaptation, scored.arithmetic) == ("dynamic", "float")
    more = scored.bpb * proved.text_bytes - proved.stream_ideal_bits  # where chunks begin
    assert -1 < more < 30 * Header.read(_reader(tiny.for_text(text).proof_file)).chunks
    none = perform(recipe, tiny, ProveResult, text)
    assert proved.stream_ideal_bits < 0.98 * none.stream_ideal_bits
    perform(learning, tiny, ProveResult, text)
    verified = verify(Job(learning, tiny, text))
    assert verified.verified, verified.reason


def test_lanes_that_learn_from_each_other_are_no_left_to_right(tiny, recipe, text, monkeypatch):
    monkeypatch.setattr("fairway.formats.coded_tokens.TOKENS_PER_LANE", 16)
    together = LEARNING["adapt"].model_copy(update={"order": "lanes", "lanes": 3})
    proved = perform(recipe.model_copy(update={"adapt": together}), tiny, ProveResult, text)
    assert (proved.order, proved.lanes) == ("lanes", 3)
    file = tiny.for_text(text).proof_file
    decode(tiny.artifact, file, file.with_name("text"))
    reader = _reader(file)
    header = Header.read(reader)
    alone = online.from_bytes(header.learning).model_copy(update={"order": "left-to-right"})
    claim = dataclasses.replace(header, learning=online.to_bytes(alone))
    chunk = file.read_bytes()[len(header.to_bytes()) : -4]
    file.write_bytes(join([claim.to_bytes() + chunk]))
    with pytest.raises(BadInput, match="claims to learn left to right and has 3 lanes"):
        decode(tiny.artifact, file, file.with_name("text"))


DECODE_IN_LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
from fairway.pipeline import prove as proof
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20),) * 2)
sys.exit(proof.main(sys.argv[1:]))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="nothing says what is used")
def test_a_proof_that_claims_more_lanes_than_memory_is_a_sentence(tiny, tmp_path):
    """32,768 lanes of 2,048 tokens: keys and values of 268 MB each, claimed by a few bytes."""
    reader = _reader(tiny.proof_file)
    header = dataclasses.replace(Header.read(reader), chunks=1)
    claimed = b"\0" + varint(1 << 26) + varint(1 << 15) + varint(2 << 11) * ((1 << 15) - 1)
    hostile, out = tmp_path / "hostile.fwp", tmp_path / "out"
    hostile.write_bytes(join([header.to_bytes() + claimed + varint(1) + b"x"]))
    done = subprocess.run(
        [sys.executable, "-c", DECODE_IN_LITTLE_MEMORY, "0", tiny.artifact, hostile, out],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, out.exists()) == (2, False), done.stderr
    assert "asks for the work of 67,108,864 tokens" in json.loads(done.stdout)["error"]


def test_a_stopped_proof_goes_on_with_what_it_had_learned(
    tiny, recipe, text, small_learned_chunks, tmp_path, monkeypatch
):
    learning, place = recipe.model_copy(update=LEARNING), tiny.for_text(text)
    perform(learning, tiny, ProveResult, text)
    whole = place.proof_file.read_bytes()
    place.invalidate(ProveResult)
    add, left = prove_stage._Partial.add, 2

    def stop_after_two(self, *args):
        nonlocal left
        add(self, *args)
        left -= 1
        if not left:
            raise Interrupted("a kill")

    monkeypatch.setattr(prove_stage._Partial, "add", stop_after_two)
    with pytest.raises(Interrupted):
        perform(learning, tiny, ProveResult, text)
    assert place.prove_learned.exists()
    monkeypatch.setattr(prove_stage._Partial, "add", add)
    for older in (True, False):  # the last chunk's state was lost, or was not
        kept = place.prove_checkpoint.read_text()
        if older:
            place.prove_learned.rename(tmp_path / "state")
        perform(learning, tiny, ProveResult, text)
        assert place.proof_file.read_bytes() == whole
        assert not place.prove_learned.exists()
        place.invalidate(ProveResult)
        place.prove_checkpoint.write_text(kept)
        if older:
            (tmp_path / "state").rename(place.prove_learned)


def test_a_checkpoint_of_another_proof_is_dropped(tiny, recipe, text, small_chunks):
    place = tiny.for_text(text)
    place.path.mkdir(parents=True)
    place.prove_checkpoint.write_text('"00"\n{"chunk": 0, "body": "", "figures": [0, 0.0, 0]}\n')
    perform(recipe, tiny, ProveResult, text)
    assert verify(Job(recipe, tiny, text)).verified


def test_a_damaged_proof_does_not_hold(tiny, recipe):
    data = bytearray(tiny.proof_file.read_bytes())
    data[len(data) // 2] ^= 1
    tiny.proof_file.write_bytes(data)
    result = verify(Job(recipe, tiny))
    assert not result.verified
    assert "chunk 1 of 1 is damaged" in result.reason
    assert result.failure
    assert tiny.recorded(Verdict) == result


def test_a_proof_of_another_text_does_not_hold(tiny, recipe, text, small_chunks):
    perform(recipe, tiny, ProveResult, text)
    shutil.copy(tiny.for_text(text).proof_file, tiny.proof_file)
    result = verify(Job(recipe, tiny))
    assert not result.verified
    assert "another text than the validation text that prepare.json names" in result.reason


def test_a_proof_needs_its_artifact(tiny, artifact_file, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(BadInput, match="needs the artifact whose SHA-256"):
        decode(artifact_file, tiny.proof_file, out)
    assert not out.exists()


def test_a_proof_in_floating_point_needs_its_machine(tiny, recipe, text, tmp_path):
    floating = recipe.model_copy(update={"prove": Prove(arithmetic="float")})
    proved = perform(floating, tiny, ProveResult, text)
    assert (proved.arithmetic, proved.grade) == ("float", "device")
    assert verify(Job(floating, tiny, text)).verified
    file = tiny.for_text(text).proof_file
    reader = Reader(file.read_bytes(), "the header")
    header = Header.read(reader)
    chunk = file.read_bytes()[len(header.to_bytes()) : -4]  # without the checksum
    elsewhere = dataclasses.replace(header.machine, environment="1.0|wood|an abacus|none|int1")
    moved, out = tmp_path / "moved.fwp", tmp_path / "out"
    moved.write_bytes(join([dataclasses.replace(header, machine=elsewhere).to_bytes() + chunk]))
    with pytest.raises(BadInput, match=r"another torch 1\.0 \(here 2.*device an abacus"):
        decode(tiny.artifact, moved, out)
    assert not out.exists()


def test_what_cannot_be_decoded(tiny, tmp_path, recipe):
    with pytest.raises(BadInput, match="cannot read the proof"):
        decode(tiny.artifact, tmp_path / "missing.fwp", tmp_path / "out")
    with pytest.raises(BadInput, match="no proof file"):
        decode(tiny.artifact, tiny.artifact, tmp_path / "out")
    tiny.proof_file.unlink()
    with pytest.raises(BadInput, match=r"fairway prove \S+ writes it"):
        verify(Job(recipe, tiny))


def test_the_command_line_of_the_decoding_process(tiny, tmp_path, capsys):
    files = tiny.artifact, tmp_path / "missing", tmp_path / "out"
    assert prove_stage.main(["0", *map(str, files)]) == 2
    assert "cannot read the proof" in json.loads(capsys.readouterr().out)["error"]


def _reader(file: Path) -> Reader:
    return Reader(file.read_bytes(), "the header")


def _lines(file: Path) -> int:
    return file.read_text().count("\n")
