"""The verb pack on a real data folder and an initialised network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fairway.course import Run, sha256_file
from fairway.errors import BadInput
from fairway.model.gpt import build
from fairway.pack import artifact
from fairway.pack.pack import check_equal, inspect, pack
from fairway.recipe import Recipe, load
from fairway.results import PackResult, TrainResult
from fairway.text.prepare import load_tokenizer, load_val, prepare
from fairway.train import checkpoint
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
def run(recipe: Recipe, tmp_path: Path) -> Run:
    """A run folder with data and weights; the weights are those of an untrained network."""
    run = Run(tmp_path / "run")
    run.create(recipe)
    folder = run.data_folder(prepare(recipe, run))
    tokenizer = load_tokenizer(folder)
    model = build(recipe.model, tokenizer.vocab_size, tokenizer.bos_id, seed=0)
    with torch.no_grad():
        for block in model.blocks:
            block.mlp.down.normal_(0, 0.1)
    checkpoint.save(run.weights, dict(model.state_dict()), {})
    nats, bpb = validate(model, tokenizer, load_val(folder))
    trained = TrainResult(
        stamp=run.stamp("train", recipe), parameters=1, steps=0, tokens=0, train_s=0, compile_s=0,
        score_s=0, pause_s=0, tokens_per_s=0, within_limit=True, val_bpb=bpb,
        val_nats_per_token=nats, weights_sha256=sha256_file(run.weights), seed=0, device="cpu",
        world_size=1, peak_memory_bytes=0,
    )  # fmt: skip
    run.finish("train", trained)
    return run


def test_pack_writes_what_it_says(recipe: Recipe, run: Run) -> None:
    result = pack(recipe, run)
    assert run.result("pack") == result
    assert result.artifact_bytes == run.artifact.stat().st_size == sum(result.parts.values())
    assert result.artifact_sha256 == sha256_file(run.artifact)
    assert result.within_budget
    assert 4 < result.bits_per_weight < 10
    assert result.val_bpb_after == pytest.approx(result.val_bpb_before, abs=0.05)
    assert result.val_bpb_after != result.val_bpb_before
    weights, _ = checkpoint.load(run.weights)
    check_equal(artifact.read(run.artifact), weights, recipe.pack)


def test_pack_is_deterministic_and_skips_only_what_is_there(recipe: Recipe, run: Run) -> None:
    first = pack(recipe, run)
    assert pack(recipe, run) == first
    data = run.artifact.read_bytes()
    run.artifact.write_bytes(data[:-1])  # somebody damaged it: made again
    again = pack(recipe, run)
    assert run.artifact.read_bytes() == data
    assert again.artifact_sha256 == first.artifact_sha256


def test_budget_is_a_verdict(recipe: Recipe, run: Run) -> None:
    small = recipe.model_copy(
        update={"pack": recipe.pack.model_copy(update={"budget_bytes": 1000})}
    )
    result = pack(small, run)
    assert isinstance(result, PackResult)
    assert not result.within_budget
    assert "bytes over" in result.complaint
    assert run.artifact.is_file()


def test_inspect_accounts_for_every_byte(recipe: Recipe, run: Run) -> None:
    result = pack(recipe, run)
    found = inspect(run.artifact)
    assert found.parts == result.parts
    assert found.artifact_bytes == result.artifact_bytes
    assert found.bits_per_weight == result.bits_per_weight
    assert found.sha256 == result.artifact_sha256
    assert sum(torch.Size(row.shape).numel() for row in found.tensors) == found.weights


def test_weights_of_another_shape_are_refused(recipe: Recipe, run: Run) -> None:
    weights, _ = checkpoint.load(run.weights)
    del weights["skips"]
    checkpoint.save(run.weights, weights, {})
    with pytest.raises(BadInput, match="do not fit the network: skips"):
        pack(recipe, run)
    assert not run.artifact.exists()


def test_an_artifact_that_does_not_read_back_is_noticed(recipe: Recipe, run: Run) -> None:
    pack(recipe, run)
    weights, _ = checkpoint.load(run.weights)
    weights["blocks.0.attn.k"][0, 0] += 1
    with pytest.raises(RuntimeError, match=r"blocks\.0\.attn\.k differs"):
        check_equal(artifact.read(run.artifact), weights, recipe.pack)
