"""The verb pack on a real data folder and an initialised network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fairway import distributed
from fairway.coding import artifact
from fairway.config.schema import Recipe
from fairway.config.toml import load
from fairway.errors import BadInput
from fairway.exact import operands
from fairway.formats.tensors import Quantized
from fairway.io import checkpoint
from fairway.io.atomic import sha256_file
from fairway.model.gpt import build
from fairway.pipeline.data_folder import load_tokenizer, load_val
from fairway.pipeline.directory import Job, RunDirectory
from fairway.pipeline.inspect import inspect
from fairway.pipeline.pack import check_equal
from fairway.pipeline.results import PackResult, PrepareResult, TrainResult
from fairway.pipeline.runner import perform, stamp
from fairway.train import calibrate
from fairway.train.validate import validate


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    folder = tmp_path_factory.mktemp("documents")
    for i in range(40):
        lines = "".join(
            f"line {j} of page {i} tells that {i * j} is {i} times {j}\n" for j in range(60)
        )
        (folder / f"page{i:02}.txt").write_text(lines)
    return load(
        "tiny",
        [
            "data.source=files",
            f"data.path={folder}",
            "data.val_fraction=0.2",
            "data.vocab_size=300",
        ],
    )


@pytest.fixture
def run(recipe: Recipe, tmp_path: Path) -> RunDirectory:
    """A run folder with data, weights and calibration; the network is untrained, but lively."""
    run = RunDirectory(tmp_path / "run")
    run.create(recipe)
    folder = run.data_folder(perform(recipe, run, PrepareResult))
    tokenizer = load_tokenizer(folder)
    model = build(recipe.model, tokenizer.vocab_size, tokenizer.bos_id, seed=0)
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 2:
                p.add_(torch.randn(p.shape, generator=random) * 0.1)
    checkpoint.save(run.weights, dict(model.state_dict()), {})
    collector = calibrate.Collector(model)
    text = torch.from_numpy(load_val(folder)[:1025].astype(np.int64))
    collector.add(text[:-1].view(-1, 32), text[1:].view(-1, 32))
    calibrate.save(run.calibration, collector.curvatures(distributed.start()), {})
    nats, bpb = validate(model, tokenizer, load_val(folder))
    trained = TrainResult(
        stamp=stamp(Job(recipe, run), TrainResult), parameters=1, steps=0, tokens=0, train_s=0,
        calibration_s=0.25, compile_s=0, score_s=0, pause_s=0, tokens_per_s=0, within_limit=True,
        val_bpb=bpb, val_nats_per_token=nats, weights_sha256=sha256_file(run.weights), seed=0,
        device="cpu", world_size=1, peak_memory_bytes=0,
    )  # fmt: skip
    run.record(trained)
    return run


def with_pack(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    return recipe.model_copy(update={"pack": recipe.pack.model_copy(update=dict(changes))})


@pytest.mark.parametrize("quantizer", ["gptq", "uniform", "rtn"])
def test_pack_writes_what_it_says(recipe: Recipe, run: RunDirectory, quantizer: str) -> None:
    recipe = with_pack(recipe, {"quantizer": quantizer})
    result = perform(recipe, run, PackResult)
    assert run.recorded(PackResult) == result
    assert result.quantizer == quantizer
    assert result.artifact_bytes == run.artifact.stat().st_size == sum(result.parts.values())
    assert result.artifact_sha256 == sha256_file(run.artifact)
    assert result.within_budget == (result.artifact_bytes <= recipe.pack.budget_bytes)
    if quantizer != "rtn":
        assert 0.98 * recipe.pack.budget_bytes < result.artifact_bytes <= recipe.pack.budget_bytes
    assert 3 < result.bits_per_weight < 10
    assert result.val_bpb_after == pytest.approx(result.val_bpb_before, abs=0.05)
    assert result.val_bpb_after != result.val_bpb_before
    assert result.calibration_s == (0.25 if quantizer == "gptq" else 0.0)
    assert (result.predicted_nats_lost > 0) == (quantizer == "gptq")


@pytest.mark.parametrize("budget", [8_000, 11_000])
def test_what_packing_costs_is_near_what_calibration_foretells(
    tiny: RunDirectory, budget: int
) -> None:
    """On a trained network, at budgets so small that the loss stands out."""
    result = perform(with_pack(load(str(tiny.recipe)), {"budget_bytes": budget}), tiny, PackResult)
    assert result.nats_lost > 0.005
    assert 0.7 < result.nats_lost / result.predicted_nats_lost < 2.5


def test_pack_is_deterministic_and_skips_only_what_is_there(
    recipe: Recipe, run: RunDirectory
) -> None:
    first = perform(recipe, run, PackResult)
    assert perform(recipe, run, PackResult) == first
    data = run.artifact.read_bytes()
    run.artifact.write_bytes(data[:-1])  # somebody damaged it: made again
    again = perform(recipe, run, PackResult)
    assert run.artifact.read_bytes() == data
    assert again.artifact_sha256 == first.artifact_sha256


def test_budget_is_a_verdict(recipe: Recipe, run: RunDirectory) -> None:
    """Of a quantizer that does not fill it."""
    small = with_pack(recipe, {"quantizer": "rtn", "budget_bytes": 9_000})
    result = perform(small, run, PackResult)
    assert not result.within_budget
    assert "bytes over" in result.failure
    assert run.artifact.is_file()


@pytest.mark.parametrize("quantizer", ["gptq", "uniform", "rtn"])
def test_no_artifact_comes_of_a_budget_below_the_smallest(
    recipe: Recipe, run: RunDirectory, quantizer: str
) -> None:
    """Every budget gives an artifact that can be scored exactly, or a sentence and no file."""
    tokenizer = load_tokenizer(run.data_folder(run.require(PrepareResult)))
    least = sum(artifact.smallest(recipe.model, tokenizer).values())
    for budget in (1, least // 2, least - 1, least, least + 20, least + 200, least + 1500):
        given = with_pack(recipe, {"quantizer": quantizer, "budget_bytes": budget})
        run.artifact.unlink(missing_ok=True)
        result, refusal = None, ""
        try:
            result = perform(given, run, PackResult)
        except BadInput as error:
            refusal = str(error)
        assert run.artifact.exists() == (not refusal)
        assert ("is less than the smallest artifact" in refusal) == (budget < least)
        if result is None:
            assert "pack.budget_bytes" in refusal
            continue
        assert result.within_budget == (result.artifact_bytes <= budget)
        assert result.within_budget or quantizer == "rtn"
        operands.prepare(artifact.read(run.artifact))
    assert (run.path / "pack.json").exists()  # the last one is possible


def test_an_impossible_budget_is_refused_before_training(recipe: Recipe, run: RunDirectory) -> None:
    tokenizer = load_tokenizer(run.data_folder(run.require(PrepareResult)))
    parts = artifact.smallest(recipe.model, tokenizer)
    low = with_pack(recipe, {"budget_bytes": sum(parts.values()) - 1})
    run.invalidate(TrainResult)
    with pytest.raises(BadInput, match=f"the tokenizer alone {parts['tokenizer']:,}; raise the"):
        perform(low, run, TrainResult)
    assert run.recorded(TrainResult) is None


def test_inspect_accounts_for_every_byte(recipe: Recipe, run: RunDirectory) -> None:
    result = perform(recipe, run, PackResult)
    found = inspect(run.artifact)
    assert found.parts == result.parts
    assert found.artifact_bytes == result.artifact_bytes
    assert found.bits_per_weight == result.bits_per_weight
    assert found.sha256 == result.artifact_sha256
    assert sum(torch.Size(row.shape).numel() for row in found.tensors) == found.weights


def test_weights_of_another_shape_are_refused(recipe: Recipe, run: RunDirectory) -> None:
    weights, _ = checkpoint.load(run.weights)
    del weights["skips"]
    checkpoint.save(run.weights, weights, {})
    with pytest.raises(BadInput, match="do not fit the network: skips"):
        perform(recipe, run, PackResult)
    assert not run.artifact.exists()


@pytest.mark.parametrize("damage", ["missing", "cut", "incomplete", "of another shape"])
def test_without_its_calibration_gptq_does_not_run(
    recipe: Recipe, run: RunDirectory, damage: str
) -> None:
    known, _ = calibrate.load(run.calibration)
    if damage == "missing":
        run.calibration.unlink()
    elif damage == "cut":
        run.calibration.write_bytes(run.calibration.read_bytes()[:-9])
    elif damage == "incomplete":
        del known["blocks.0.mlp.up"]
        calibrate.save(run.calibration, known, {})
    else:
        known["blocks.0.mlp.up"] = calibrate.Curvature(torch.eye(5), torch.ones(3))
        calibrate.save(run.calibration, known, {})
    with pytest.raises(BadInput, match="calibration"):
        perform(recipe, run, PackResult)
    assert not run.artifact.exists()
    assert perform(with_pack(recipe, {"quantizer": "uniform"}), run, PackResult).within_budget


@pytest.mark.parametrize("quantizer", ["gptq", "uniform", "rtn"])
def test_a_diverged_network_is_refused(recipe: Recipe, run: RunDirectory, quantizer: str) -> None:
    """As it leaves training: what calibration saw of it is not finite, either."""
    weights, _ = checkpoint.load(run.weights)
    weights["blocks.0.mlp.up"][3, 2] = float("nan")
    checkpoint.save(run.weights, weights, {})
    known, _ = calibrate.load(run.calibration)
    known["blocks.0.mlp.down"].inputs.fill_(float("nan"))
    calibrate.save(run.calibration, known, {})
    with pytest.raises(BadInput, match=r"blocks\.0\.mlp.*diverged"):
        perform(with_pack(recipe, {"quantizer": quantizer}), run, PackResult)
    assert not run.artifact.exists()


def test_an_artifact_that_does_not_read_back_is_noticed(recipe: Recipe, run: RunDirectory) -> None:
    perform(recipe, run, PackResult)
    made = artifact.read(run.artifact)
    matrices = dict(made.matrices)
    check_equal(made, Quantized(matrices, {}))
    matrices["blocks.0.attn.k"].codes[0, 0] += 1
    with pytest.raises(RuntimeError, match=r"blocks\.0\.attn\.k differs"):
        check_equal(made, Quantized(matrices, {}))
