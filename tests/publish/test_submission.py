"""Submissions: from a finished run to a folder, and the checks of any folder."""

import json
import shutil

import pytest

from fairway.course import Run
from fairway.errors import BadInput
from fairway.publish import submission
from fairway.publish.checks import check


@pytest.fixture(scope="module")
def submitted(finished_tiny, tmp_path_factory):
    """A folder with three seeds: copies of one run under other seeds. Do not change it."""
    root = tmp_path_factory.mktemp("submitted")
    runs = []
    for seed in (1, 2, 3):
        run = Run(shutil.copytree(finished_tiny, root / f"r{seed}"))
        run.finish("train", run.need("train").model_copy(update={"seed": seed}))
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


def test_a_submission_passes_its_check(submitted):
    folder, result = submitted
    assert result.complaint == ""
    assert {f.verdict for f in result.check.findings} == {"yes"}
    claims = json.loads((folder / "submission.json").read_text("utf-8"))
    assert claims["bytes_code"] == (folder / "train_gpt.py").stat().st_size == result.bundle_bytes
    assert claims["seeds"] == [1, 2, 3]
    assert claims["bytes_total"] == claims["bytes_artifact_max"] + claims["bytes_code"]
    assert "torch==" in (folder / "requirements.txt").read_text("utf-8")
    assert not list(folder.parent.glob(".*"))


def test_stale_results_are_refused(finished_tiny, tmp_path):
    run = Run(shutil.copytree(finished_tiny, tmp_path / "run"))
    recipe, artifact = run.load(), run.artifact.read_bytes()
    run.create(run.load(["pack.budget_bytes=123456"]))
    with pytest.raises(BadInput, match=r"pack.json .* was made with other pack: fairway play"):
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


def test_a_strangers_folder_gets_sentences(folder):
    """Of any type, size and depth: no traceback."""
    edit(folder, seed_results={"1": {"val_bpb": "x"}, "2": 3, "9": {}})
    assert "seed 1 claims x" in verdicts(folder)["seed_results"].evidence
    edit(folder, val_bpb=int("9" * 400))
    assert verdicts(folder)["score"].verdict == "unknown"
    with open(folder / "train_seed1.log", "a") as log:
        log.write("step:1 train_time:1.2.3ms\n")
    assert verdicts(folder)["score"].verdict == "unknown"
    for body in ("[]", "{", "{}"):
        (folder / "seed1").mkdir(exist_ok=True)
        (folder / "seed1" / "prove.json").write_text(body)
        assert "prove.json: " in verdicts(folder)["proof of seed1"].evidence
    (folder / "seed1" / "prove.json").write_text('{"bpb": 0.5, "text_sha256": ""}')
    assert "cannot read" in verdicts(folder)["proof of seed1"].evidence
    (folder / "submission.json").write_text("[" * 200_000)
    assert "not valid JSON" in verdicts(folder)["schema"].evidence


@pytest.mark.parametrize(
    ("fields", "rule", "evidence"),
    [
        ({"val_bpb": 0.9}, "score", "is in no log"),
        ({"val_bpb": None}, "schema", "no val_bpb"),
        ({"val_bpb": "1.2"}, "schema", 'val_bpb is "1.2"'),
        ({"date": "March"}, "schema", "not YYYY-MM-DD"),
        ({"bytes_total": 15_000_000}, "bytes_total", "bytes_total is 15,000,000"),
        ({"seed_results": {"9": {"val_bpb": 1.0}}}, "seed_results", "seed 9 has no log"),
        ({"seed_results": {"1": {"val_bpb": 1.0}}}, "seed_results", "seed 1 claims 1.0"),
    ],
)
def test_false_claims_are_found(folder, fields, rule, evidence):
    edit(folder, **fields)
    found = verdicts(folder)[rule]
    assert found.verdict == "no"
    assert evidence in found.evidence


def replaced(folder, before, after, name="train_seed2.log"):
    file = folder / name
    text = file.read_text("utf-8")
    assert before in text
    file.write_text(text.replace(before, after), "utf-8")


@pytest.mark.parametrize(
    ("before", "after", "rule", "evidence"),
    [
        ("Total submission size fairway: ", "Total submission size fairway: 9999",
         "size <= 16,000,000", "train_seed2.log states 9"),
        ("Code size: ", "Code size: 1", "code's size", "the logs count"),
        (" train_time:", " train_time:999", "training <= 600 s", "train_seed2.log"),
        ("eval_time:", "eval_time:999999", "evaluation <= 600 s", "train_seed2.log"),
        ("val_loader: tokens:", "val_loader: tokens:1", "one validation text", "and"),
        ("seed:2", "seed:1", "3 seeds", ""),
    ],
)  # fmt: skip
def test_logs_that_break_a_rule_are_found(folder, before, after, rule, evidence):
    replaced(folder, before, after)
    if rule == "3 seeds":
        (folder / "train_seed3.log").unlink()
    found = verdicts(folder)[rule]
    assert found.verdict == "no"
    assert evidence in found.evidence


def test_missing_files_and_damaged_proofs_are_found(folder, submitted):
    for name in ("seed1", "seed2"):
        shutil.copytree(submitted[0] / name, folder / name)
    (folder / "README.md").unlink()
    (folder / "helper.py").write_text("x = 1\n")
    proof = folder / "seed1" / "val.fwp"
    data = bytearray(proof.read_bytes())
    data[-20] ^= 1
    proof.write_bytes(data)
    (folder / "train_gpt.py").write_text("def broken(:\n")
    found = verdicts(folder)
    assert "README.md" in found["files"].evidence
    assert "helper.py" in found["nothing beside the script"].evidence
    assert found["proof of seed1"].verdict == "no"
    assert found["proof of seed2"].verdict == "yes"
    assert found["script compiles"].verdict == "no"


def test_what_cannot_be_submitted(tiny, tmp_path):
    with pytest.raises(BadInput, match="each seed belongs in once"):
        submission.submit([tiny.path, tiny.path], tmp_path / "out", "", "")
    (tmp_path / "there").mkdir()
    with pytest.raises(BadInput, match="exists"):
        submission.submit([tiny.path], tmp_path / "there", "", "")
    failed = tiny.need("verify").model_copy(update={"verified": False, "reason": "x"})
    tiny.finish("verify", failed)
    with pytest.raises(BadInput, match="is not verified"):
        submission.submit([tiny.path], tmp_path / "out", "", "")
    with pytest.raises(BadInput, match="there is no folder"):
        check(tmp_path / "nope")
    assert not (tmp_path / "out").exists()


def test_the_command_checks_a_folder(fairway, folder):
    code, out, err = fairway("submit", "--check", folder, "--json")
    assert code == 0, err
    assert json.loads(out)["findings"]
    edit(folder, val_bpb=0.5)
    code, _, err = fairway("submit", "--check", folder)
    assert code == 1
    assert "1 of" in err
