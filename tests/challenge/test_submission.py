"""Submissions: from a finished run to a folder, and the checks of any folder."""

import json
import shutil

import pytest

from fairway.challenge import submission
from fairway.challenge.checks import check
from fairway.errors import BadInput
from fairway.pipeline.directory import RunDirectory
from fairway.pipeline.results import ProveResult, TrainResult


@pytest.fixture(scope="module")
def submitted(finished_tiny, tmp_path_factory):
    """A folder with three seeds: copies of one run under other seeds. Do not change it."""
    root = tmp_path_factory.mktemp("submitted")
    runs = []
    for seed in (1, 2, 3):
        run = RunDirectory(shutil.copytree(finished_tiny, root / f"r{seed}"))
        run.record(run.require(TrainResult).model_copy(update={"seed": seed}))
        runs.append(run.path)
    result = submission.submit(runs, root / "out", "A Name", "name", "A title")
    return root / "out", result


@pytest.fixture
def folder(submitted, tmp_path):
    """A copy without the proofs, which take long to decode."""
    ignored = shutil.ignore_patterns("seed[0-9]")
    return shutil.copytree(submitted[0], tmp_path / "folder", ignore=ignored)


def verdicts(folder):
    return {f.rule: f for f in check(folder).findings}


def test_a_submission_is_what_it_states(submitted):
    """All rules hold but one: these are copies of one run, which is no three seeds."""
    folder, result = submitted
    found = {f.rule: f.verdict for f in result.check.findings if f.verdict != "yes"}
    assert found == {
        "seeds: each log has losses of its own": "no",
        "challenge's text: decoded bytes": "unknown",
    }
    assert "1 of" in result.failure
    claims = json.loads((folder / "submission.json").read_text("utf-8"))
    assert claims["bytes_code"] == (folder / "train_gpt.py").stat().st_size == result.bundle_bytes
    assert claims["seeds"] == [1, 2, 3]
    assert claims["bytes_total"] == claims["bytes_artifact_max"] + claims["bytes_code"]
    assert "torch==" in (folder / "requirements.txt").read_text("utf-8")
    for seed in claims["seeds"]:
        page = (folder / f"seed{seed}" / "proof.html").read_bytes()
        assert page == (folder.parent / f"r{seed}" / "proof.html").read_bytes()
        assert found_page(result, seed).verdict == "yes"
    assert not list(folder.parent.glob(".*"))


def found_page(result, seed):
    rule = f"page seed{seed}/proof.html: made of the two files beside it"
    return next(f for f in result.check.findings if f.rule == rule)


def test_stale_results_are_refused(finished_tiny, tmp_path):
    run = RunDirectory(shutil.copytree(finished_tiny, tmp_path / "run"))
    recipe, artifact = run.load(), run.artifact.read_bytes()
    run.create(run.load(["pack.budget_bytes=123456"]))
    with pytest.raises(BadInput, match=r"pack.json .* was made with other pack: fairway run"):
        submission.submit([run.path], tmp_path / "out", "A Name", "name", "A title")
    run.create(recipe)
    run.artifact.write_bytes(artifact + b"x")
    with pytest.raises(BadInput, match=r"pack.json .* was made with other model.fairway"):
        submission.submit([run.path], tmp_path / "out", "A Name", "name", "A title")
    assert not (tmp_path / "out").exists()


def edit(folder, **fields):
    file = folder / "submission.json"
    claims = json.loads(file.read_text("utf-8")) | fields
    file.write_text(json.dumps({k: v for k, v in claims.items() if v is not None}), "utf-8")


def test_a_proof_that_is_damaged_or_missing(folder, submitted):
    for name in ("seed1", "seed2"):
        shutil.copytree(submitted[0] / name, folder / name)
    proof = folder / "seed1" / "val.fwp"
    data = bytearray(proof.read_bytes())
    data[-20] ^= 1
    proof.write_bytes(data)
    found = {rule.partition(":")[0]: f for rule, f in verdicts(folder).items()}
    assert found["proof of seed1"].verdict == "no"
    assert found["proof of seed2"].verdict == "yes"
    (folder / "seed1" / "model.fairway").unlink()
    found = {rule.partition(":")[0]: f for rule, f in verdicts(folder).items()}
    assert "cannot be read" in found["proof of seed1"].evidence


def test_what_cannot_be_submitted(tiny, tmp_path):
    with pytest.raises(BadInput, match="each seed belongs in once"):
        submission.submit([tiny.path, tiny.path], tmp_path / "out", "", "")
    (tmp_path / "there").mkdir()
    with pytest.raises(BadInput, match="exists"):
        submission.submit([tiny.path], tmp_path / "there", "", "")
    tiny.record(tiny.require(ProveResult).model_copy(update={"bpb": 0.5}))
    with pytest.raises(BadInput, match=r"does not hold: prove.json says bpb = 0\.5"):
        submission.submit([tiny.path], tmp_path / "out", "", "")
    with pytest.raises(BadInput, match="there is no folder"):
        check(tmp_path / "nope")
    assert not (tmp_path / "out").exists()


def test_the_command_checks_a_folder(fairway, folder):
    """Without proofs the text is not known to be the challenge's, which is a "no" here."""
    code, out, err = fairway("submit", "--check", folder, "--json")
    assert code == 1
    found = {f["rule"]: f["verdict"] for f in json.loads(out)["findings"]}
    assert found["text: tokens in the logs = FineWeb's validation text"] == "no"
    assert "2 of" in err
    edit(folder, val_bpb=0.5)
    code, _, err = fairway("submit", "--check", folder)
    assert code == 1
    assert "3 of" in err
