"""`compare` on real runs: two recipes, two seeds each, and one pair of runs."""

import json
import shutil

import numpy as np
import pytest

from fairway import significance
from fairway.config.toml import dumps
from fairway.errors import BadInput
from fairway.pipeline import runner
from fairway.pipeline.directory import Job, RunDirectory
from fairway.pipeline.evidence import read_documents
from fairway.pipeline.results import (
    PackResult,
    PrepareResult,
    ProveResult,
    ScoreResult,
    TrainResult,
)
from fairway.report import compare as c
from short import WORDS


def restamped(run):
    """Let the results say that they were made with the recipe that lies beside them."""
    for kind in (TrainResult, PackResult, ScoreResult, ProveResult):
        stamp = runner.stamp(Job(run.load(), run), kind)
        run.record(run.require(kind).model_copy(update={"stamp": stamp}))
    return run


@pytest.fixture
def sides(tiny, tmp_path):
    """Folders of four runs that differ in what the results say; the texts are real."""

    def copy(name, seed, gain):
        run = RunDirectory(shutil.copytree(tiny.path, tmp_path / "runs" / name))
        text = run.recipe.read_text("utf-8").replace("seed = 1337", f"seed = {seed}")
        run.recipe.write_text(text, "utf-8")
        run.record(run.require(TrainResult).model_copy(update={"seed": seed}))
        score = run.require(ScoreResult)
        share = 1 - gain / score.bpb
        update = {"bpb": score.bpb * share, "nats_per_token": score.nats_per_token * share}
        run.record(score.model_copy(update=update))
        nats = np.load(run.score_documents)
        nats[:, 0] *= share
        np.save(run.score_documents, nats)
        return restamped(run).path

    ours = [copy("a1", 1, 0.020), copy("a2", 2, 0.033)]
    theirs = [copy("b1", 1, 0.000), copy("b2", 2, 0.011)]
    return ours, theirs


def test_documents_sum_to_the_score(tiny):
    score = tiny.require(ScoreResult)
    found = read_documents(tiny, score)
    assert found.shape == (tiny.require(PrepareResult).val_documents, 2)
    assert found[:, 0].sum() == pytest.approx(score.nats_per_token * score.tokens, rel=1e-12)
    assert found[:, 1].sum() == score.text_bytes
    nats, lengths = np.array(score.by_position).sum(0)
    assert lengths == score.text_bytes
    assert 0.97 * found[:, 0].sum() < nats < found[:, 0].sum()  # boundaries have no position


def test_the_tests_are_those_of_the_numbers(sides):
    found = c.compare(*sides, claim=0.005)
    bpb, nats = found.gains
    assert bpb.paired.mean == pytest.approx(0.021)
    assert bpb.welch.mean == pytest.approx(0.021)
    differences = [b - a for a, b in zip(found.runs.bpb, found.against.bpb, strict=True)]
    assert bpb.paired.p == significance.paired(differences).p
    assert bpb.claim == pytest.approx(
        0.005 / np.log(2) * found.against.tokens / found.against.text_bytes
    )
    assert nats.claim == 0.005
    assert bpb.paired.p == pytest.approx(nats.paired.p)  # the same tokens: only the unit differs
    assert bpb.paired_claim_p > bpb.paired.p
    assert bpb.pairs_needed < bpb.seeds_needed


def test_one_pair_is_tested_over_documents(sides):
    (ours, _), (theirs, _) = sides
    gain = c.compare([ours], [theirs], 0.005).gains[0]
    assert gain.documents.mean == pytest.approx(0.020)
    assert gain.documents.low > 0
    assert gain.paired is gain.welch is gain.power is None


def test_other_seeds_are_no_pairs(sides, tmp_path):
    (a1, _), (_, b2) = sides
    with pytest.raises(BadInput, match="have one seed"):
        c.compare([a1, a1], [b2], 0.0)
    found = c.compare([sides[0][0]], [sides[1][1]], 0.0)
    assert found.runs.seeds != found.against.seeds
    assert found.gains[0].paired is None


def test_runs_that_cannot_be_compared(sides, tiny):
    (a1, a2), theirs = sides
    run = RunDirectory(a2)
    text = run.recipe.read_text("utf-8")
    run.recipe.write_text(text.replace("matrix_lr = 0.02", "matrix_lr = 0.04"), "utf-8")
    with pytest.raises(BadInput, match=r"train.json in .* was made with other optim"):
        c.compare([a1, a2], theirs, 0.0)
    restamped(run)
    with pytest.raises(BadInput, match=r"differ in optim.matrix_lr \(0.02 and 0.04\)"):
        c.compare([a1, a2], theirs, 0.0)
    run.recipe.write_text(text, "utf-8")
    restamped(run)
    score = run.require(ScoreResult)
    run.record(score.model_copy(update={"text_sha256": "0" * 64}))
    with pytest.raises(BadInput, match="scored on other texts"):
        c.compare([a1, a2], theirs, 0.0)
    run.record(score.model_copy(update={"protocol": "plain"}))
    with pytest.raises(BadInput, match="in other ways"):
        c.compare([a1, a2], theirs, 0.0)
    run.record(score)
    (tiny.artifact.parent / "model.fairway").write_bytes(b"another artifact")
    with pytest.raises(BadInput, match=r"pack.json in .* was made with other model.fairway"):
        c.compare([a1, a2], [tiny.path], 0.0)


@pytest.mark.parametrize("key", ["score.stride=8", "adapt.method=sgd", "prove.lanes=3"])
def test_scores_of_other_settings_are_not_compared(sides, key):
    (a1, _), (b1, _) = sides
    run = RunDirectory(b1)
    run.recipe.write_text(dumps(run.load([key])), "utf-8")
    restamped(run)
    part = "prove.lanes" if key.startswith("prove") else key.partition(".")[0]
    with pytest.raises(BadInput, match=rf"other settings of \[{part}\]"):
        c.compare([a1], [b1], 0.0)


def test_documents_of_another_score_are_refused(sides):
    (a1, _), _ = sides
    RunDirectory(a1).score_documents.unlink()
    with pytest.raises(BadInput, match="run fairway score on it again"):
        c.compare([a1], [a1], 0.0)


def test_the_command(fairway, sides, tmp_path):
    (a1, a2), (b1, b2) = sides
    page = tmp_path / "page.html"
    code, out, err = fairway("compare", a1, a2, "--against", b1, b2, "-o", page, "--json")
    assert code == 0, err
    assert json.loads(out)["gains"][0]["paired"]["mean"] == pytest.approx(0.021)
    assert "Gain in bits per byte" in err
    assert "<svg" in page.read_text("utf-8")
    for words in ([a1], ["--against", a1], [a1, "--against"], [a1, "--agaist", b1]):
        code, _, err = fairway("compare", *words)
        assert code == 2
        assert "--against RUN..." in err


def test_play_makes_a_run_per_seed_and_goes_on(fairway, tiny):
    out = tiny.path.with_name("tiny")
    for seed in (1337, 8):
        shutil.copytree(tiny.path, out.with_name(f"tiny-{seed}"))
    RunDirectory(out.with_name("tiny-8")).invalidate(TrainResult)
    command = ("run", "tiny", *WORDS, "--out", out, "--set", "train.steps=10", "--seeds")
    code, _, err = fairway(*command, "1337,8", "--dry-run")
    assert code == 0, err
    assert "tiny-1337" in err
    assert "tiny-8" in err
    code, _, err = fairway(*command, "1,1")
    assert code == 2
    assert "different whole numbers" in err
    code, stdout, err = fairway("run", "tiny", *WORDS, "--out", out, "--seeds", "1337,8", "--json")
    assert code == 0, err
    found = json.loads(stdout)
    assert found["8.train"]["seed"] == 8
    assert found["1337.train"]["seed"] == 1337
    assert "train: cached: " in err
    assert "Bits per byte over seeds" in err
