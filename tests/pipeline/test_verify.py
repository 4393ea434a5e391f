"""`verify MODEL PROOF`: a verdict from two files, whatever lies beside them."""

import json
import re
import shutil

import pytest

from fairway.data.documents import stream_documents
from fairway.errors import BadInput, Damaged
from fairway.pipeline import runner, texts, verdicts, verify
from fairway.pipeline.data_folder import load_tokenizer, load_val
from fairway.pipeline.directory import Job
from fairway.pipeline.prove import decode, prove
from fairway.pipeline.results import PrepareResult, ProveResult, Verdict
from short import load_short


@pytest.fixture
def text(tiny, tmp_path):
    """The validation text of the run as JSON lines, which no tokenizer has changed."""
    folder = tiny.data_folder(tiny.require(PrepareResult))
    documents = load_tokenizer(folder).decode(load_val(folder))
    file = tmp_path / "val.jsonl"
    file.write_text("".join(json.dumps({"text": d.decode()}) + "\n" for d in documents))
    return file


@pytest.fixture
def two_files(tiny, tmp_path):
    """An artifact and a proof in a directory that holds nothing else."""
    alone = tmp_path / "alone"
    alone.mkdir()
    return shutil.copy(tiny.artifact, alone / "m"), shutil.copy(tiny.proof_file, alone / "p")


def test_two_files_are_enough(fairway, two_files, tiny, fresh_decoders):
    code, out, err = fairway("verify", *two_files, "--json")
    assert code == 0, err
    found = json.loads(out)
    decoded, proved = found["decoded"], tiny.require(ProveResult)
    assert (found["verified"], found["bpb"]) == (True, proved.bpb)
    assert decoded["proof_bytes"] == two_files[1].stat().st_size
    assert found["bpb"] == 8 * decoded["proof_bytes"] / decoded["text_bytes"]
    for field in ("text_sha256", "lengths_sha256", "tokens", "lanes", "order", "stream_bytes"):
        assert decoded[field] == getattr(proved, field)
    assert decoded["stream_ideal_bits"] == pytest.approx(proved.stream_ideal_bits, rel=1e-12)
    assert "compared with no text" in err
    assert sorted(two_files[0].parent.iterdir()) == sorted(two_files)  # nothing is written there


def test_a_text_is_compared_by_its_own_bytes(tiny, text):
    good = verdicts.verify_files(tiny.artifact, tiny.proof_file, text, "text")
    assert good.verified
    assert good.compared_with == str(text)
    lines = text.read_text().splitlines(keepends=True)
    for changed, reason in (
        (lines[:-1], "another text"),
        ([lines[0].replace(" the ", " teh ", 1), *lines[1:]], "another text"),
        ([lines[0][:-3] + '", "x": 1}\n', *lines[1:]], ""),
    ):
        text.write_text("".join(changed))
        digest = texts.digest_of(stream_documents(text), "it", "bytes")
        verdict = verify.compared(good, "it", digest.text_sha256, digest.lengths_sha256)
        assert reason in verdict.reason
        assert verdict.verified is (reason == "")


def test_other_boundaries_are_another_text(tiny, text):
    good = verdicts.verify_files(tiny.artifact, tiny.proof_file, None, "text")
    decoded = good.decoded
    verdict = verify.compared(good, "it", decoded.text_sha256, "0" * 64)
    assert not verdict.verified
    assert "cut into other documents" in verdict.reason


def test_a_text_without_boundaries_is_compared_by_its_bytes(tiny, text):
    """`decompress` writes such a file; two documents that are cut elsewhere are another text."""
    whole = b"".join(json.loads(line)["text"].encode() for line in text.read_text().splitlines())
    for documents, reason in (
        ([whole], ""),
        ([whole[:-1]], "another text"),
        ([whole[:99], whole[99:]], "cut into other documents"),
    ):
        verdict = verdicts.verify_proof(tiny.artifact, tiny.proof_file, documents, "it")
        assert (verdict.verified, reason in verdict.reason) == (reason == "", True)
        assert ("has no boundaries" in verdict.compared_with) is (reason == "")


def test_a_message_names_the_files_that_were_given(tiny, two_files, tmp_path):
    """Also where the proof has the name that the artifact's copy gets."""
    model, proof = tmp_path / "proof.fwp", tmp_path / "model.fairway"
    model.write_bytes(b"XXXX" + tiny.artifact.read_bytes()[4:])
    proof.write_bytes(tiny.proof_file.read_bytes())
    with pytest.raises(BadInput, match=f"the artifact {model} cannot be opened"):
        verify.verify_files(model, proof)


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (lambda d: d[:-9], 1, "is truncated"),
        (lambda d: b"XXXX" + d[4:], 2, "no proof file"),
    ],
)
def test_a_damaged_proof_is_a_verdict_and_another_kind_of_file_is_not(
    fairway, two_files, change, code, said
):
    model, proof = two_files
    proof.write_bytes(change(proof.read_bytes()))
    found, _, err = fairway("verify", model, proof)
    assert (found, said in err) == (code, True), err
    assert ("NOT verified" in err) is (code == 1)


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        (lambda d: d[:-9], Damaged, "is truncated"),
        (lambda d: d + b"\0", Damaged, "do not belong there"),
        (lambda d: d[:60] + bytes([d[60] ^ 8]) + d[61:], Damaged, "damaged"),
        (lambda d: b"XXXX" + d[4:], BadInput, "no proof file"),
        (lambda d: b"", Damaged, "truncated"),
    ],
)
def test_the_decoder_tells_damage_from_another_kind_of_file(two_files, change, kind, said):
    """In this process; the test above shows which verdict the command makes of either."""
    model, proof = two_files
    proof.write_bytes(change(proof.read_bytes()))
    with pytest.raises(BadInput, match=said) as raised:
        decode(model, proof, proof.with_name("text"))
    assert raised.type is kind


def test_a_damaged_artifact_is_a_verdict(fairway, two_files):
    model, proof = two_files
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)
    code, _, err = fairway("verify", model, proof)
    assert code == 1
    assert "is damaged" in err


def test_what_is_no_proof_of_this_model(fairway, two_files, artifact_file, tmp_path):
    model, proof = two_files
    for words, said in (
        ((artifact_file, proof), "needs the artifact whose SHA-256 begins with"),
        ((model, tmp_path / "none"), "there is no such file"),
        ((tmp_path, proof), "is no run directory"),
        ((model,), "give the proof, too"),
        ((model, proof, proof), "give an artifact and a proof"),
        ((model, proof, "--text", tmp_path / "none"), "there is no text"),
    ):
        code, _, err = fairway("verify", *words)
        assert (code, said in err) == (2, True), err


def test_a_forged_verdict_is_never_read(fairway, tiny):
    """Garbage with a verify.json that has all the right hashes."""
    forged = tiny.require(Verdict)
    for file in (tiny.artifact, tiny.proof_file):
        file.write_bytes(b"garbage")
    tiny.record(forged)
    code, _, err = fairway("verify", tiny.path)
    assert code == 2
    assert "not that of a Fairway artifact" in err
    code, _, err = fairway("report", tiny.path)
    said = re.sub("<[^>]*>", "", tiny.report.read_text().partition("</style>")[2])
    assert "verified" not in said.replace("&quot;verified&quot;", "").replace("not verified", "")


def test_the_recipe_of_a_run_has_no_say_in_what_a_text_is(tiny, tmp_path):
    """A run whose recipe names another field of JSON lines, and a proof of that field."""
    file = tmp_path / "val.jsonl"
    file.write_text('{"text": "what a reviewer has", "id": "short"}\n')
    run = tiny
    run.create(run.load(["data.text_field=id"]))
    proved = prove(Job(run.load(), run, file))
    assert proved.text_bytes == len("short")
    verdict = verdicts.verify(Job(run.load(), run, file))
    assert not verdict.verified
    assert f"another text than {file}" in verdict.reason
    assert verdicts.verify(Job(run.load(), run, file), "id").verified


def test_claims_that_the_files_contradict_make_the_verdict_no(tiny):
    good = verdicts.known(tiny)
    assert good.verified
    tiny.record(tiny.require(ProveResult).model_copy(update={"bpb": 0.5, "tokens": 7}))
    verdict = verdicts.known(tiny)
    assert not verdict.verified
    assert "prove.json says bpb = 0.5, the two files give 3.5" in verdict.reason
    assert "prove.json says tokens = 7, the two files give 1,844" in verdict.reason


def test_without_its_data_a_run_has_no_verdict(tiny):
    (tiny.path / "prepare.json").unlink()
    assert verdicts.known(tiny) is None
    with pytest.raises(BadInput, match="nothing says which text is its validation text"):
        verdicts.verify(Job(load_short(), tiny))


def test_verdicts_are_remembered_by_what_the_files_hold(tiny, state_home, monkeypatch):
    decoded = verdicts.remembered(tiny.artifact, tiny.proof_file)
    monkeypatch.setattr(verdicts, "_decoded_here", {})
    assert verdicts.remembered(tiny.artifact, tiny.proof_file) == decoded
    monkeypatch.setattr(verdicts, "code_sha256", lambda: "0" * 64)
    assert verdicts.remembered(tiny.artifact, tiny.proof_file) is None
    monkeypatch.undo()
    monkeypatch.setattr(verdicts, "_decoded_here", {})
    (state_home / "fairway").chmod(0o777)  # others may write there: nothing in it is believed
    try:
        assert verdicts.remembered(tiny.artifact, tiny.proof_file) is None
    finally:
        (state_home / "fairway").chmod(0o700)
    tiny.proof_file.write_bytes(tiny.proof_file.read_bytes() + b"\0")
    assert verdicts.remembered(tiny.artifact, tiny.proof_file) is None


@pytest.mark.parametrize("name", ["artifact", "proof_file"])
def test_a_file_of_any_size_is_not_hashed(tiny, name):
    with open(getattr(tiny, name), "wb") as file:
        file.truncate(1 << 42)  # sparse: hashing it would take hours
    assert verdicts.known(tiny) is None
    changed = runner.states(tiny)["score"].changed
    assert ("model.fairway" in changed) is (name == "artifact")


def test_a_proof_is_inspected_and_decompressed(fairway, two_files, tiny, tmp_path):
    model, proof = two_files
    code, out, err = fairway("inspect", proof, "--json")
    assert code == 0, err
    header = json.loads(out)
    assert tiny.require(ProveResult).artifact_sha256.startswith(header["artifact_sha256_begins"])
    assert "fairway verify MODEL PROOF decodes it" in err
    named = shutil.copy(proof, tmp_path / "val.fwp")
    code, _, err = fairway("decompress", "-m", model, named)
    assert code == 0, err
    folder = tiny.data_folder(tiny.require(PrepareResult))
    documents = load_tokenizer(folder).decode(load_val(folder))
    assert (tmp_path / "val").read_bytes() == b"".join(documents)
