"""A sweep with real runs, one process each, at the smallest shape."""

from __future__ import annotations

import json
import shutil
import statistics
from pathlib import Path

import numpy as np
import pytest

import processes
from fairway.config.toml import load
from fairway.errors import BadInput
from fairway.pipeline import directory
from fairway.pipeline.data_folder import load_tokenizer, load_train, load_val
from fairway.pipeline.results import PrepareResult
from fairway.pipeline.runner import perform
from fairway.report import sweep
from short import TRAIN_TEXT

TABLE = """
recipe = "tiny"
seeds = [1, 2]
held_out_bytes = 4_000
set = [
    "train.steps=3", "train.batch_tokens=128", "train.calibration_tokens=256",
    "pack.budget_bytes=20000", "data.train_bytes=191_000",
]

[[row]]
name = "leaky"
set = ["model.activation=leaky2"]
published = "-.002"
"""


@pytest.fixture(scope="module")
def folder(finished_tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the data of the recipe `tiny` is made already, and a table."""
    root = tmp_path_factory.mktemp("sweep")
    (root / "table.toml").write_text(TABLE)
    (root / "out").mkdir()
    shutil.copytree(finished_tiny.parent / "data", root / "out" / "data")
    return root


def test_a_sweep_compares_by_seed_and_resumes(folder: Path, fairway, monkeypatch) -> None:
    table, out = str(folder / "table.toml"), folder / "out"
    with monkeypatch.context() as patched:  # four runs; the one below starts a new interpreter
        patched.setattr(sweep, "subprocess", processes.Modules)
        code, printed, shown = fairway("sweep", table, "--out", str(out), "--json")
    assert code == 0, shown
    found = json.loads(printed)
    assert found == json.loads((out / "sweep.json").read_text())
    base, row = found["rows"]
    assert [base["name"], row["name"]] == ["base", "leaky"]
    differences = [b - r for b, r in zip(base["bpb"], row["bpb"], strict=True)]
    assert len(differences) == 2
    assert row["gain"] == pytest.approx(statistics.fmean(differences))
    assert row["gain_se"] == pytest.approx(abs(differences[0] - differences[1]) / 2)
    assert 0 < row["artifact_bytes"] <= 20000
    assert row["steps"] == 3
    assert base["gain"] == 0
    assert "leaky" in (out / "sweep.svg").read_text()
    assert (out / "sweep.md").read_text().splitlines()[3].startswith("| leaky | ")

    made = {file: file.stat().st_mtime_ns for file in out.glob("*/train.json")}
    assert len(made) == 4
    one = min(made)
    (one.parent / "pack.json").unlink()  # a run that was killed between its two verbs
    assert fairway("sweep", table, "--out", str(out))[0] == 0
    assert {file: file.stat().st_mtime_ns for file in out.glob("*/train.json")} == made
    assert (one.parent / "pack.json").exists()


def test_a_run_that_fails_leaves_the_others(folder: Path, fairway) -> None:
    table = folder / "failing.toml"
    rows = '[[row]]\nname = "hot"\nset = ["optim.matrix_lr=1e30"]\n'
    table.write_text(TABLE.replace("[1, 2]", "[1]").partition("[[row]]")[0] + rows)
    code, _, shown = fairway("sweep", str(table), "--out", str(folder / "out"))
    assert code == 1
    assert "runs of hot did not finish" in shown
    base, hot = json.loads((folder / "out" / "sweep.json").read_text())["rows"]
    assert (base["seeds"], base["failed"]) == ([1], "")
    assert (hot["seeds"], hot["gain"]) == ([], None)
    assert "log.txt" in hot["failed"]


def test_held_out_text_is_the_end_of_the_training_text(folder: Path) -> None:
    recipe, run = load("tiny", [TRAIN_TEXT]), directory.RunDirectory(folder / "out" / "held")
    run.create(recipe)
    whole = perform(recipe, run, PrepareResult)
    source = run.data_folder(whole)
    result = perform(load("tiny", [TRAIN_TEXT, "data.held_out_bytes=20000"]), run, PrepareResult)
    held = run.data_folder(result)
    tokens = np.concatenate(load_train(source))
    assert np.array_equal(np.concatenate([*load_train(held), load_val(held)]), tokens)
    assert load_val(held)[0] == load_tokenizer(held).bos_id
    assert 0 < result.val_bytes <= 20000
    assert result.train_bytes + result.val_bytes == whole.train_bytes
    assert result.train_documents + result.val_documents == whole.train_documents
    with pytest.raises(BadInput, match="cannot be held out"):
        perform(load("tiny", ["data.held_out_bytes=1_000_000_000"]), run, PrepareResult)


def test_a_grid_is_every_combination() -> None:
    grid = {"optim.matrix_lr": (0.01, 0.02), "model.smear": (False,)}
    base, *rows = sweep.Variants(recipe="tiny", grid=grid).rows()
    assert base.set == ()
    assert [row.set for row in rows] == [
        ("optim.matrix_lr=0.01", "model.smear=false"),
        ("optim.matrix_lr=0.02", "model.smear=false"),
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('recipe = "tiny"\nrows = 3', "rows"),
        ('recipe = "tiny"\nseeds = []', "seeds"),
        ('recipe = "tiny"\nseeds = [1, 1]', "stands twice"),
        ("recipe = ", "no valid TOML"),
        ('recipe = "tiny"\n[[row]]\nname = "base"', "more than one row base"),
        ('recipe = "tiny"\n[[row]]\nname = "a"\nset = ["model.dimm=3"]', "row a: .*did you mean"),
    ],
)
def test_tables_that_are_refused(text: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "table.toml").write_text(text)
    with pytest.raises(BadInput, match=problem):
        sweep.sweep(sweep.load(tmp_path / "table.toml"), tmp_path / "out")


def test_the_ablation_table_is_ready() -> None:
    table = sweep.load(Path(__file__).parents[2] / "bench" / "ablation.toml")
    rows = table.rows()
    assert len(rows) > 20
    base = load(table.recipe, table.set)
    for row in rows[1:]:
        assert load(table.recipe, [*table.set, *row.set]) != base
