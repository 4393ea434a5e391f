"""The runner: what is current, what is stale and why, and what is done about it."""

import shutil

import pytest

from fairway.config.schema import Recipe
from fairway.config.toml import load
from fairway.errors import BadInput
from fairway.pipeline import runner, stage
from fairway.pipeline.directory import Job, RunDirectory
from fairway.pipeline.results import (
    FrozenResult,
    PackResult,
    PrepareResult,
    ProveResult,
    ScoreResult,
    TrainResult,
    Verdict,
)
from fairway.pipeline.runner import changes, downstream, perform, run_stages, stamp, state
from short import load_short

RECIPE = load_short()
KINDS = [row.result for row in stage.stages_of(RECIPE)]

# One change of the recipe per line, and the stages whose own results it makes stale.
CHANGES = {
    "data.vocab_size=513": {"prepare"},
    "model.dim=64": {"train"},
    "optim.matrix_lr=0.5": {"train"},
    "train.steps=41": {"train"},
    "pack.mlp_bits=4": {"pack"},
    "memory.ngram=2": {"pack"},
    "adapt.method=lora": {"score", "prove"},
    "score.protocol=plain": {"score"},
    "prove.lanes=3": {"score", "prove"},
    "prove.arithmetic=float": {"prove"},
    # what changes no result makes nothing stale
    "description=another": set(),
    "run.train_limit_s=1": set(),
    "run.checkpoint_every_s=1": set(),
    "run.validate_every=1": set(),
    "run.score_limit_s=1": set(),
    "adapt.sgd.lr=0.5": set(),
    "adapt.lora.rank=2": set(),
    "adapt.lanes=2": set(),
}


def stale(run: RunDirectory, recipe: Recipe) -> set[str]:
    """Names of stages whose own stamp differs, upstream results staying as they are."""
    return {kind.stage for kind in KINDS[:-1] if state(Job(recipe, run), kind).changed}


@pytest.mark.parametrize(("change", "names"), CHANGES.items())
def test_a_change_makes_exactly_its_stages_stale(tiny, change, names):
    assert stale(tiny, RECIPE) == set()
    assert stale(tiny, load_short([change])) == names


def test_settings_of_the_chosen_method_count(tiny):
    learning = load_short(["adapt.method=sgd"])
    for kind in (ScoreResult, ProveResult):
        result = tiny.require(kind)
        own = stamp(Job(learning, tiny), kind, inputs=False)
        tiny.record(result.model_copy(update={"stamp": own}))
    assert stale(tiny, learning) == set()
    assert stale(tiny, load_short(["adapt.method=sgd", "adapt.lora.rank=2"])) == set()
    assert stale(tiny, load_short(["adapt.method=sgd", "adapt.sgd.lr=9"])) == {"score", "prove"}


def test_other_documents_make_stale(tiny, monkeypatch):
    job = Job(RECIPE, tiny)
    assert state(job, PrepareResult, inputs=True).current
    changed = [
        row if row.name != "prepare" else _replaced(row, documents=lambda recipe: "others")
        for row in stage.STAGES
    ]
    monkeypatch.setattr(runner, "STAGES", changed)
    assert state(job, PrepareResult, inputs=True).changed == ("documents",)
    assert state(job, PrepareResult).changed == ()


def test_other_code_makes_stale(tiny, monkeypatch):
    changed = [
        row if row.name != "pack" else _replaced(row, version=row.version + 1)
        for row in stage.STAGES
    ]
    monkeypatch.setattr(runner, "STAGES", changed)
    assert state(Job(RECIPE, tiny), PackResult).why_stale == "made with other code"
    assert stale(tiny, RECIPE) == {"pack"}


def _replaced(row, **changes):
    return stage.Stage(**{**row.__dict__, **changes})


def test_new_results_and_new_weights_make_the_next_stages_stale(tiny):
    packed = tiny.require(PackResult)
    other = stamp(Job(load_short(["pack.mlp_bits=4"]), tiny), PackResult)
    tiny.record(packed.model_copy(update={"stamp": other}))
    assert stale(tiny, RECIPE) == {"pack", "score", "prove"}
    tiny.record(packed)
    trained = tiny.require(TrainResult)
    tiny.record(trained.model_copy(update={"weights_sha256": "0" * 64}))
    assert stale(tiny, RECIPE) == {"pack"}


def test_another_artifact_makes_stale_what_was_made_of_it(tiny):
    tiny.artifact.write_bytes(tiny.artifact.read_bytes() + b"x")
    assert stale(tiny, RECIPE) == {"pack", "score", "prove"}
    with pytest.raises(BadInput, match=r"pack.json .* is stale, it was made with other model.fair"):
        perform(RECIPE, tiny, ScoreResult)


def test_missing_outputs_are_made_again(tiny):
    job = Job(RECIPE, tiny)
    tiny.proof_file.unlink()
    assert state(job, ProveResult).current, "the result says what was made, wherever the file is"
    assert state(job, ProveResult, inputs=True).changed == ("val.fwp",)
    shutil.rmtree(tiny.data_folder(tiny.require(PrepareResult)))
    assert state(job, PrepareResult, inputs=True).changed == ("files",)


def test_another_text_under_the_same_name_is_scored_again(tiny, tmp_path):
    text = tmp_path / "t.txt"
    text.write_text("some text, some text, some text")
    first = perform(RECIPE, tiny, ScoreResult, text)
    assert perform(RECIPE, tiny, ScoreResult, text) == first
    text.write_text("another text, of another length")
    assert perform(RECIPE, tiny, ScoreResult, text).text_sha256 != first.text_sha256


def test_the_runner_says_in_a_line_what_it_did(tiny, capsys):
    def said():
        return " ".join(capsys.readouterr().err.split())

    run_stages(RECIPE, tiny, ["score"])
    assert "score: cached: " in said()
    run_stages(load_short(["score.protocol=plain"]), tiny, ["score"])
    assert "score: ran, because another score made the result stale: " in said()
    tiny.invalidate(ScoreResult)
    run_stages(RECIPE, tiny, ["score"])
    assert "score: ran: " in said()


def test_a_limit_is_judged_by_the_recipe_of_today(tiny):
    strict = load_short(["run.train_limit_s=1e-6"])
    assert not perform(strict, tiny, TrainResult).within_limit
    assert not tiny.require(TrainResult).within_limit
    assert perform(RECIPE, tiny, TrainResult).within_limit


def test_a_demo_is_never_too_slow(tiny):
    slow = tiny.require(TrainResult).model_copy(update={"train_s": 1e6})
    assert "more than run.train_limit_s allows" in slow.under(load("mini")).failure
    assert slow.under(load("demo")).failure == ""


def test_what_changed_between_stamps(tiny):
    before = tiny.require(TrainResult).stamp
    after = stamp(Job(load_short(["model.dim=64", "train.steps=41"]), tiny), TrainResult)
    assert changes(before, after) == ["model", "train"]
    assert changes(before, before) == []
    assert changes("", before) == ["code", "model", "optim", "train", "prepare"]


def test_downstream():
    def names(name):
        return [row.name for row in downstream(name)]

    assert names("prepare") == ["prepare", "train", "pack", "frozen", "score", "prove", "verify"]
    assert names("pack") == ["pack", "frozen", "score", "prove", "verify"]
    assert names("score") == ["score"]
    assert names("prove") == ["prove", "verify"]
    with pytest.raises(BadInput, match="no stage parse: choose one of prepare, train"):
        downstream("parse")


def test_a_forced_stage_runs_again_with_all_that_depend_on_it(tiny):
    before = {kind: tiny.require(kind) for kind in (TrainResult, PackResult, ProveResult)}
    run_stages(RECIPE, tiny, force="prove")
    after = {kind: tiny.require(kind) for kind in before}
    assert after[PackResult] == before[PackResult]
    assert after[ProveResult].encode_s != before[ProveResult].encode_s


def test_a_verdict_is_never_taken_from_the_run_directory(tiny, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    from fairway.pipeline import verdicts

    monkeypatch.setattr(verdicts, "_decoded_here", {})
    assert tiny.require(Verdict).verified
    lie = tiny.require(Verdict).model_copy(update={"bpb": 0.1})
    tiny.record(lie)
    assert run_stages(RECIPE, tiny, ["verify"])["verify"].bpb == tiny.require(ProveResult).bpb


def test_a_recipe_that_learns_also_scores_without_learning(tiny):
    """Both scores stand in the report: what packing left, and what learning gained."""
    sets = ["adapt.method=sgd", "adapt.sgd.block_tokens=2048", "score.protocol=sliding"]
    learning, plain = load_short(sets), load_short(sets[2:])
    names = [row.name for row in stage.stages_of(learning)]
    assert names == [row.name for row in stage.STAGES]
    assert "frozen" not in [row.name for row in stage.stages_of(plain)]
    assert runner.state(Job(plain, tiny), FrozenResult).recorded is None

    run_stages(learning, tiny, ["frozen", "score"])
    frozen, scored = tiny.require(FrozenResult), tiny.require(ScoreResult)
    assert (frozen.adaptation, scored.adaptation) == ("none", "sgd")
    assert frozen.bpb != scored.bpb
    run_stages(plain, tiny, ["score"])
    assert frozen.bpb == tiny.require(ScoreResult).bpb
