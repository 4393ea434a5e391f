"""Every switch of model, optimizer and training: on, it changes the result, and the course holds.

One run each at a tiny shape: stopped in the middle and resumed, packed, decoded in integers.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
import torch

from fairway.coding import artifact
from fairway.coding.codec import Codec
from fairway.coding.exact_model import ExactModel
from fairway.config.schema import Recipe
from fairway.config.toml import load
from fairway.errors import BadInput
from fairway.formats.proof import read_chunks
from fairway.io import checkpoint
from fairway.io.binary import Reader, join
from fairway.model.gpt import build
from fairway.model.kv_cache import Cache
from fairway.model.parameters import tensors_of
from fairway.pipeline import directory
from fairway.pipeline.results import PackResult, ScoreResult, TrainResult
from fairway.pipeline.runner import perform
from fairway.pipeline.size import predict
from fairway.train.loop import Trainer
from short import load_short

BASE = [
    "train.steps=6", "train.batch_tokens=256", "train.calibration_tokens=512",
    "run.validate_tokens=256", "run.checkpoint_every_s=1e-9", "model.embed_std=0.05",
    "model.num_layers=3", "pack.budget_bytes=40000", "train.average=none",
]  # fmt: skip
MODEL = {
    "leaky2": ["model.activation=leaky2"],
    "partial rotary": ["model.rotary_dims=8"],
    "layer scale": ["model.layer_scale=true"],
    "exclusive": ["model.exclusive_layers=2"],
    "gates": ["model.gate_channels=12"],
    "parallel": ["model.parallel_layers=2"],
    "repeated": [f"model.repeat_{k}" for k in ("first=1", "last=2", "times=1")],
}
TRAINING = {
    "repeated later": [*MODEL["repeated"], "train.repeat_from=0.5"],
    "equal rows": ["optim.equal_rows=true"],
    "polar": ["optim.polynomials=polar"],
    "floor": ["optim.lr_floor=0.5"],
    "windows": ["train.windows=[[0.5, 8], [0.7, 16]]"],
    "sequential": ["train.order=sequential"],
    "none": [],
}


class Stopped(Exception):
    """A process that was killed."""


@pytest.fixture(scope="module")
def data(finished_tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with the data of the recipe `tiny`."""
    runs = tmp_path_factory.mktemp("switches") / "runs"
    shutil.copytree(finished_tiny.parent / "data", runs / "data")
    return runs


def start(
    data: Path, finished: Path, name: str, sets: list[str]
) -> tuple[Recipe, directory.RunDirectory]:
    return started(data, finished, name, load_short([*BASE, *sets]))


def started(
    data: Path, finished: Path, name: str, recipe: Recipe
) -> tuple[Recipe, directory.RunDirectory]:
    run = directory.RunDirectory(data / name)
    run.create(recipe)
    shutil.copy(finished / "prepare.json", run.path)
    return recipe, run


def weights(run: directory.RunDirectory) -> dict[str, torch.Tensor]:
    return checkpoint.load(run.weights)[0]


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def plain(data: Path, finished_tiny: Path) -> dict[str, torch.Tensor]:
    recipe, run = start(data, finished_tiny, "plain", [])
    perform(recipe, run, TrainResult)
    return weights(run)


@pytest.mark.parametrize("name", [*MODEL, *TRAINING])
def test_on_it_trains_resumes_packs_and_decodes(
    name: str,
    data: Path,
    finished_tiny: Path,
    plain: dict[str, torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe, run = start(data, finished_tiny, name, (MODEL | TRAINING)[name])
    perform(recipe, run, TrainResult)
    through = weights(run)
    assert equal(through, plain) == (name == "none")

    (run.path / "train.json").unlink()
    step = Trainer._step

    def killed(trainer: Trainer, *arguments: object) -> tuple[float, float, float]:
        if trainer.step == 4:
            raise Stopped
        return step(trainer, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_step", killed)
        with pytest.raises(Stopped):
            perform(recipe, run, TrainResult)
    assert run.checkpoint.exists()
    resumed = perform(recipe, run, TrainResult)
    assert equal(weights(run), through)
    assert resumed.steps == 6
    assert resumed.tokens == 256 * 6

    if name in MODEL:
        packed = perform(recipe, run, PackResult)
        assert packed.within_budget
        assert packed.val_bpb_after < packed.val_bpb_before * 1.02
        decodes(artifact.read(run.artifact))


def decodes(opened: artifact.Artifact) -> None:
    """Encoded many tokens at a time, decoded one at a time; the same bytes come back."""
    codec = Codec(ExactModel(opened), opened.tokenizer)
    documents = [b"A switch is on or off. " * 6, b"", b"def forward(self, x):\n    return x\n"]
    tokens = codec.tokenizer.encode_documents(documents)
    chunk = codec.encode(tokens, documents, 2, lambda *_: None)
    (read,) = read_chunks(Reader(join([chunk.body]), "the header"), 1)
    assert codec.decode(read, lambda *_: None) == documents


@pytest.mark.parametrize("name", MODEL)
def test_on_it_changes_the_function_alike_with_a_cache(name: str) -> None:
    off, on = load_short(BASE).model, load_short([*BASE, *MODEL[name]]).model
    models = [build(shape, 60, 0, seed=1) for shape in (off, on)]
    for model in models:
        with torch.no_grad():
            for parameter, values in model.named_parameters():
                random = torch.Generator().manual_seed(sum(map(ord, parameter)))
                values.add_(torch.randn(values.shape, generator=random) * 0.1)
    tokens = torch.randint(1, 60, (2, 24), generator=torch.Generator().manual_seed(2))
    tokens[0, 9] = 0
    with torch.no_grad():
        plain, full = (model.logits(tokens) for model in models)
        cache = Cache(on, 2, torch.float32)
        steps = torch.cat([models[1].logits(t, cache) for t in tokens.split(1, 1)], 1)
    assert (plain - full).abs().max() > 1e-3
    torch.testing.assert_close(steps, full, rtol=1e-4, atol=1e-4)


def test_frontier_fits_its_budget() -> None:
    frontier = load("frontier")
    predicted = predict(frontier)
    assert predicted.artifact_bytes <= 16_000_000
    assert predicted.shapes[0].fits
    tensors = tensors_of(frontier.model, 8192)
    assert 35_900_000 < sum(math.prod(tensor.shape) for tensor in tensors) < 36_000_000


SMALLER = [
    "model.dim=32", "model.num_heads=4", "model.num_kv_heads=2", "model.window=32",
    "model.rotary_dims=4", "train.steps=4", "train.batch_tokens=256", "train.windows=[[0.1, 16]]",
    "train.compile=false", "train.calibration_tokens=512", "pack.budget_bytes=90000",
    "run.checkpoint_every_s=1e-9", "data.vocab_size=512", "score.stride=32",
]  # fmt: skip


def test_frontier_in_small_takes_the_whole_course(data: Path, finished_tiny: Path) -> None:
    """All its switches together: all layers, all passes."""
    small = load("frontier", SMALLER).model_copy(update={"data": load_short().data})
    recipe, run = started(data, finished_tiny, "frontier", small)
    assert len(recipe.model.passes) == 17
    assert perform(recipe, run, TrainResult).steps == 4
    packed = perform(recipe, run, PackResult)
    assert packed.within_budget
    decodes(artifact.read(run.artifact))
    text = run.path / "text.txt"
    text.write_bytes(b"The whole network on one screen. " * 20)
    exact = perform(recipe, run, ScoreResult, text=text)
    assert exact.arithmetic == "exact"
    assert exact.text_bytes == text.stat().st_size
    assert 0 < exact.bpb < 12


def test_what_contradicts_itself_is_refused() -> None:
    for sets, problem in {
        ("model.rotary_dims=7",): "must be even",
        ("model.rotary_dims=18",): "at most the head width",
        ("model.gate_channels=64",): "at most dim",
        ("model.repeat_times=1", "model.repeat_last=9"): "no range of layers",
        ("train.windows=[[0.5, 12]]",): "do not divide",
        ("train.windows=[[0.5, 16], [0.2, 8]]",): "rising",
    }.items():
        with pytest.raises(BadInput, match=problem):
            load_short(sets)
