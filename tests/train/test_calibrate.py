"""What calibration says of the loss, against gradients and losses that are computed directly."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fairway import distributed
from fairway.config.schema import Model
from fairway.errors import BadInput
from fairway.io import checkpoint
from fairway.model.gpt import GPT, build
from fairway.model.parameters import is_matrix
from fairway.pipeline import directory
from fairway.pipeline.results import TrainResult
from fairway.pipeline.runner import perform
from fairway.quantize import gptq
from fairway.train import calibrate
from fairway.train.calibrate import Collector, Curvature
from short import load_short

VOCABULARY = 50
SHAPE = Model(
    num_layers=2, dim=16, num_heads=2, num_kv_heads=1, window=16, bigram_rows=32, bigram_dim=8
)


@pytest.fixture(scope="module")
def model() -> GPT:
    model = build(SHAPE, VOCABULARY, 0, seed=1)
    random = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.add_(torch.randn(parameter.shape, generator=random) * 0.2)
    return model


def text(rows: int, length: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, VOCABULARY, (rows, length + 1), generator=random)
    return tokens[:, :-1], tokens[:, 1:]


def collected(model: GPT, *batches: tuple[torch.Tensor, torch.Tensor]) -> dict[str, Curvature]:
    collector = Collector(model)
    for tokens, targets in batches:
        collector.add(tokens, targets)
    assert collector.tokens == sum(tokens.numel() for tokens, _ in batches)
    return collector.curvatures(distributed.start())


def test_every_matrix_has_a_curvature_of_its_shape(model: GPT) -> None:
    found = collected(model, text(2, 16))
    matrices = {n: p for n, p in model.named_parameters() if is_matrix(n)}
    assert found.keys() == matrices.keys()
    for name, parameter in matrices.items():
        a, g = found[name].inputs, found[name].outputs
        assert (len(g), len(a)) == tuple(parameter.shape)
        assert torch.allclose(a, a.T)
        assert torch.linalg.eigvalsh(a).min() > -1e-5 * a.trace()
        assert g.min() >= 0
        assert g.max() > 0
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("seed", range(4))
def test_of_one_token_it_is_the_squared_gradient(model: GPT, seed: int) -> None:
    """There A and g are of rank one: g_r · A = γ_r² · x xᵀ, the gradient's row times itself."""
    tokens, targets = text(1, 1, seed)
    found = collected(model, (tokens, targets))
    model.loss(tokens, targets).backward()
    for name, parameter in model.named_parameters():
        if name in found and name != "embed.tokens":  # that one has two uses
            gradient = parameter.grad
            assert gradient is not None
            direct = gradient[:, :, None] * gradient[:, None, :]
            form = found[name].outputs[:, None, None] * found[name].inputs
            assert torch.allclose(form, direct, rtol=1e-3, atol=1e-6 * float(direct.max()))
            if "attn.q" not in name and "attn.k" not in name:  # one token attends to itself
                assert direct.max() > 0
    model.zero_grad(set_to_none=True)


def test_two_uses_of_one_matrix_keep_the_trace_of_every_row() -> None:
    random = torch.Generator().manual_seed(0)
    uses = []
    for _ in range(2):
        x = torch.randn(30, 6, generator=random)
        uses.append(Curvature(x.T @ x, torch.rand(9, generator=random)))
    both = calibrate._added(uses)
    traces = sum(use.outputs * use.inputs.trace() for use in uses)
    assert torch.allclose(both.outputs * both.inputs.trace(), torch.as_tensor(traces))
    whole = sum(use.outputs.sum() * use.inputs for use in uses)  # of all rows together, exact
    assert torch.allclose(both.outputs.sum() * both.inputs, torch.as_tensor(whole), rtol=1e-4)


def test_batches_add_up(model: GPT) -> None:
    """However the rows are divided, also into batches of unequal size."""
    tokens, targets = text(5, 16)
    whole = collected(model, (tokens, targets))
    parts = collected(model, (tokens[:1], targets[:1]), (tokens[1:], targets[1:]))
    for name, known in whole.items():
        assert torch.allclose(parts[name].inputs, known.inputs, rtol=1e-3, atol=1e-6)
        assert torch.allclose(parts[name].outputs, known.outputs, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize(
    "name",
    [
        "blocks.0.mlp.up", "blocks.1.mlp.down", "blocks.1.attn.v", "blocks.0.attn.q",
        "embed.tokens", "embed.bigram_table",
    ],
)  # fmt: skip
def test_it_foretells_what_a_random_error_costs(model: GPT, name: str) -> None:
    """On targets drawn from the network itself, where the Fisher matrix is the mean Hessian.

    The mean rise of the loss is the divergence from the undisturbed network. A and g are taken
    for independent and tokens too (K-FAC): values, which many later tokens share, cost about twice
    what is foretold.
    """
    random = torch.Generator().manual_seed(3)
    tokens, _ = text(200, 16, seed=4)
    with torch.no_grad():
        chances = torch.softmax(model.logits(tokens), -1)
        targets = torch.multinomial(chances.flatten(0, 1), 1, generator=random).view_as(tokens)
    known = collected(model, (tokens, targets))[name]
    parameter = dict(model.named_parameters())[name]
    kept, rises, foretold = parameter.detach().clone(), [], []
    with torch.no_grad():
        for _ in range(6):
            error = 0.01 * torch.randn(kept.shape, generator=random)
            parameter.copy_(kept + error)
            log = torch.log_softmax(model.logits(tokens), -1)
            rises.append(float((chances * (chances.log() - log)).sum(-1).mean()))
            foretold.append(gptq.predicted_nats(kept.numpy(), (kept + error).numpy(), known))
        parameter.copy_(kept)
    assert 0.45 < sum(foretold) / sum(rises) < 1.4


def test_files_round_trip_and_store_shared_inputs_once(model: GPT, tmp_path: Path) -> None:
    found = collected(model, text(2, 16))
    path = tmp_path / "calibration.safetensors"
    calibrate.save(path, found, {"note": 3})
    back, note = calibrate.load(path)
    assert note["note"] == 3
    assert back.keys() == found.keys()
    for name, known in found.items():
        assert torch.equal(back[name].inputs, known.inputs)
        assert torch.equal(back[name].outputs, known.outputs)
    stored, _ = checkpoint.load(path)
    inputs = {name.rsplit(".", 1)[0] for name in stored if name.endswith(".inputs")}
    assert "blocks.0.attn.q" in inputs
    assert not inputs & {"blocks.0.attn.k", "blocks.0.attn.v"}
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(BadInput, match="calibration"):
        calibrate.load(path)
    with pytest.raises(BadInput, match="calibration"):
        calibrate.load(tmp_path / "no calibration")


def test_training_calibrates_inside_its_clock(tiny: directory.RunDirectory) -> None:
    """And without calibration it leaves none of earlier weights behind."""
    recipe = load_short(["train.steps=3", "train.calibration_tokens=1024"])
    tiny.invalidate(TrainResult)
    result = perform(recipe, tiny, TrainResult)
    assert 0 < result.calibration_s < result.train_s
    found, _ = calibrate.load(tiny.calibration)
    weights, _ = checkpoint.load(tiny.weights)
    assert {n for n in weights if is_matrix(n)} == found.keys()
    result = perform(load_short(["train.steps=3", "train.calibration_tokens=0"]), tiny, TrainResult)
    assert result.calibration_s == 0
    assert not tiny.calibration.exists()


def test_calibration_does_not_change_the_weights(tiny: directory.RunDirectory) -> None:
    found = []
    for tokens in (0, 2048):
        perform(
            load_short(["train.steps=5", f"train.calibration_tokens={tokens}"]), tiny, TrainResult
        )
        found.append(checkpoint.load(tiny.weights)[0])
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
