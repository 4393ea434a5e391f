from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_gpt import logits as reference_logits

from fairway.config import toml
from fairway.config.schema import Model
from fairway.model import parameters
from fairway.model.gpt import GPT, build
from fairway.model.kv_cache import Cache
from fairway.model.loss import softcapped_cross_entropy
from fairway.model.parameters import tensors_of
from fairway.model.sizes import flops_per_token

SMALL = Model(
    num_layers=3, dim=16, num_heads=4, num_kv_heads=2, window=8, bigram_rows=64, bigram_dim=8
)
VOCAB, BOS = 40, 0


def noisy(shape: Model, seed: int = 0) -> GPT:
    """A model in which every parameter matters: noise on top of the initialisation."""
    model = build(shape, VOCAB, BOS, seed)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=random) * 0.2)
    return model.eval()


def test_pr264_has_exactly_the_original_number_of_parameters() -> None:
    shape = toml.load("pr264")
    tensors = tensors_of(shape.model, shape.data.vocab_size)
    assert sum(math.prod(tensor.shape) for tensor in tensors) == 26_666_073


@pytest.mark.parametrize("recipe", ["tiny", "mini", "pr264", "frontier"])
def test_artifacts_have_the_order_of_the_network(recipe: str) -> None:
    shape = toml.load(recipe).model
    with torch.device("meta"):
        found = [(n, tuple(p.shape)) for n, p in GPT(shape, VOCAB, BOS).named_parameters()]
    assert found == [(tensor.name, tensor.shape) for tensor in tensors_of(shape, VOCAB)]


@pytest.mark.parametrize("layers", [1, 2, 5])
def test_logits_equal_the_specification(layers: int) -> None:
    shape = SMALL.model_copy(update={"num_layers": layers, "document_aware": False})
    model = noisy(shape)
    weights = {n: p.detach().double().numpy() for n, p in model.named_parameters()}
    tokens = np.random.default_rng(layers).integers(0, VOCAB, 8)  # BOS among them: it is ignored
    expected = reference_logits(tokens, weights, shape.model_dump())
    with torch.no_grad():
        got = model.logits(torch.from_numpy(tokens)[None])[0].double().numpy()
    assert np.linalg.norm(got - expected) / np.linalg.norm(expected) < 1e-5


@settings(max_examples=25, deadline=None)
@given(
    cuts=st.lists(st.integers(1, 8), min_size=1, max_size=12),
    bos=st.sets(st.tuples(st.integers(0, 1), st.integers(0, 30))),
    aware=st.booleans(),
)
def test_cached_blocks_equal_single_steps(
    cuts: list[int], bos: set[tuple[int, int]], aware: bool
) -> None:
    """Any blocks give the logits of one token at a time, far beyond the window."""
    model = noisy(SMALL.model_copy(update={"document_aware": aware}))
    length = sum(cuts)
    tokens = torch.randint(1, VOCAB, (2, length), generator=torch.Generator().manual_seed(length))
    tokens[:, 0] = BOS
    for row, column in bos:
        tokens[row, column % length] = BOS
    with torch.no_grad():
        one, many = (Cache(model.shape, 2, torch.float32) for _ in range(2))
        steps = torch.cat([model.logits(t, one) for t in tokens.split(1, 1)], 1)
        blocks = torch.cat([model.logits(t, many) for t in tokens.split(cuts, 1)], 1)
        full = model.logits(tokens[:, :8])
    torch.testing.assert_close(blocks, steps, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(full, steps[:, :8], rtol=1e-4, atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(
    last=st.integers(1, 8),
    seen=st.integers(0, 8),
    layers=st.integers(1, 3),
    aware=st.booleans(),
    switches=st.sets(st.sampled_from(["parallel_layers", "exclusive_layers", "gate_channels"])),
)
def test_last_positions_alone_are_what_they_are_among_all(
    last: int, seen: int, layers: int, aware: bool, switches: set[str]
) -> None:
    shape = {"num_layers": layers, "document_aware": aware} | dict.fromkeys(switches, 1)
    model = noisy(SMALL.model_copy(update=shape))
    tokens = torch.randint(0, VOCAB, (2, seen + 8), generator=torch.Generator().manual_seed(seen))
    past, new = tokens.split([seen, 8], 1)
    with torch.no_grad():
        one, two = (Cache(model.shape, 2, torch.float32) for _ in range(2))
        if seen:
            model.hidden(past, one), model.hidden(past, two)
        wanted, found = model.hidden(new, one)[:, -last:], model.hidden(new, two, last)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(two.keys, one.keys)
        found = model.hidden(new, last=last)
        torch.testing.assert_close(found, model.hidden(new)[:, -last:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("activation", ["relu2", "leaky2"])
def test_without_gradients_the_network_is_the_same(activation: str) -> None:
    """Where nothing is learned, passes over memory are saved."""
    shape = {"activation": activation, "rotary_dims": 2, "window": 600}
    model = noisy(SMALL.model_copy(update=shape))
    tokens = torch.randint(0, VOCAB, (2, 600), generator=torch.Generator().manual_seed(1))
    wanted = model.hidden(tokens).detach()
    with torch.no_grad():
        torch.testing.assert_close(model.hidden(tokens), wanted, rtol=1e-4, atol=1e-5)


def test_documents_do_not_see_each_other() -> None:
    tokens = torch.tensor([[BOS, 5, 6, 7, BOS, 8, 9, 10]])
    other = torch.tensor([[BOS, 1, 2, 3, BOS, 8, 9, 10]])
    with torch.no_grad():
        aware = noisy(SMALL)
        assert torch.equal(aware.logits(tokens)[:, 4:], aware.logits(other)[:, 4:])
        blind = noisy(SMALL.model_copy(update={"document_aware": False}))
        assert not torch.allclose(blind.logits(tokens)[:, 4:], blind.logits(other)[:, 4:])


def test_a_later_token_changes_nothing_before_it() -> None:
    model = noisy(SMALL)
    tokens = torch.randint(1, VOCAB, (1, 8), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        before = model.logits(tokens)
        for at in range(1, 8):
            changed = tokens.clone()
            changed[0, at] = (changed[0, at] + 1) % VOCAB
            assert torch.equal(model.logits(changed)[:, :at], before[:, :at])


def test_keep_drops_the_last_lanes_only() -> None:
    model = noisy(SMALL)
    tokens = torch.randint(0, VOCAB, (3, 12), generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        all_lanes, fewer = (Cache(model.shape, 3, torch.float32) for _ in range(2))
        for t in tokens[:, :6].split(1, 1):
            model.logits(t, all_lanes)
            model.logits(t, fewer)
        fewer.shrink_batch(2)
        for t in tokens[:, 6:].split(1, 1):
            expected = model.logits(t, all_lanes)[:2]
            torch.testing.assert_close(model.logits(t[:2], fewer), expected)


@pytest.mark.parametrize("scatters", [["cpu"], []])  # [] is the way of a GPU
def test_loss_and_gradients_equal_plain_cross_entropy(
    monkeypatch: pytest.MonkeyPatch, scatters: list[str]
) -> None:
    monkeypatch.setattr("fairway.model.loss._SCATTERS", scatters)
    random = torch.Generator().manual_seed(5)
    x = torch.randn(2, 600, 8, generator=random, requires_grad=True)
    head = torch.randn(VOCAB, 8, generator=random, requires_grad=True)
    targets = torch.randint(VOCAB, (2, 600), generator=random)
    fused = softcapped_cross_entropy(x, head, targets, 3.0)
    z = 3 * torch.tanh(x @ head.T / 3)
    plain = torch.nn.functional.cross_entropy(z.flatten(0, 1), targets.flatten())
    torch.testing.assert_close(fused, plain)
    for got, want in zip(
        torch.autograd.grad(fused * 2, [x, head]),
        torch.autograd.grad(plain * 2, [x, head]),
        strict=True,
    ):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-7)
    with torch.no_grad():
        torch.testing.assert_close(softcapped_cross_entropy(x, head, targets, 3.0), plain)


def test_every_parameter_is_initialised_and_learns() -> None:
    for init in ("zero", "scaled"):
        shape = SMALL.model_copy(update={"output_init": init})
        model = build(shape, VOCAB, BOS, seed=1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        start = {n: p.detach().clone() for n, p in model.named_parameters()}
        random = torch.Generator().manual_seed(6)
        for _ in range(6):
            tokens = torch.randint(0, VOCAB, (4, 9), generator=random)
            model.loss(tokens[:, :-1], tokens[:, 1:]).backward()
            optimizer.step()
            optimizer.zero_grad()
        still = [n for n, p in model.named_parameters() if torch.equal(p, start[n])]
        assert not still


def test_a_parameter_without_a_row_fails_when_the_model_is_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kinds = dict(parameters.KINDS)  # its order is that of artifacts
    monkeypatch.setattr(parameters, "KINDS", kinds)
    kinds["mix"] = kinds["mix"]._replace(size=lambda m, v: (3, m.dim))
    with pytest.raises(RuntimeError, match=r"blocks\.0\.mix has the shape \(2, \d+\), and its row"):
        GPT(SMALL, VOCAB, BOS)
    del kinds["mix"]
    with pytest.raises(RuntimeError, match=r"blocks\.0\.mix has the shape .* says None"):
        GPT(SMALL, VOCAB, BOS)
    with pytest.raises(RuntimeError, match=r"blocks\.0\.mix has no row"):
        parameters.kind_of("blocks.0.mix")


def test_same_seed_same_weights() -> None:
    a, b, c = (build(SMALL, VOCAB, BOS, seed) for seed in (1, 1, 2))
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(a.embed.tokens, c.embed.tokens)


def test_flops_per_token_of_the_starting_system() -> None:
    """228.3 million: 6 for each of the weights that are multiplied, and attention."""
    assert flops_per_token(toml.load("pr264").model, 1024) == pytest.approx(228.3e6, rel=5e-4)
