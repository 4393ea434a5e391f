"""Softmax over a sample of the vocabulary: what is drawn, and what the estimate is worth."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fairway.config.schema import Train
from fairway.errors import BadInput
from fairway.model.loss import Sample, softcapped_cross_entropy
from fairway.train.sampled import Sampler

V, K = 500, 200


@pytest.fixture(scope="module")
def text():
    """Tokens as frequent as Zipf's law says."""
    random = np.random.default_rng(1)
    return [random.zipf(1.3, 40_000).clip(1, V).astype(np.uint16) - 1 for _ in range(2)]


@pytest.fixture(scope="module")
def sampler(text):
    return Sampler(text, V, 64, Train(steps=1, sampled_tokens=K, seed=5))


@given(st.integers(0, 1 << 40), st.integers(0, 7), st.integers(1, K))
def test_a_sample_holds_every_target_once(sampler, step, rank, different):
    targets = np.arange(64).reshape(4, 16) * 7 % different
    drawn = sampler.draw(targets, step, rank)
    assert len(drawn.tokens) == len(set(drawn.tokens.tolist())) == K
    assert 0 <= drawn.tokens.min() <= drawn.tokens.max() < V
    assert (drawn.tokens[drawn.places] == targets).all()
    again = sampler.draw(targets, step, rank)
    assert all((a == b).all() for a, b in zip(drawn, again, strict=True))


def test_steps_and_ranks_differ(sampler):
    targets = np.arange(64).reshape(4, 16)
    drawn = [sampler.draw(targets, step, rank).tokens for step in (1, 2) for rank in (0, 1)]
    assert len({tuple(tokens.tolist()) for tokens in drawn}) == 4


def test_too_many_targets_have_no_sample(sampler):
    assert sampler.draw(np.arange(K + 1)[None], 0, 0) is None
    assert sampler.draw(np.arange(K)[None], 0, 0) is not None


def test_a_sample_is_smaller_than_the_vocabulary(text):
    with pytest.raises(BadInput, match="sampled_tokens 500 must be under"):
        Sampler(text, V, 64, Train(steps=1, sampled_tokens=V))


def test_sums_over_samples_are_sums_over_the_vocabulary_on_average(sampler, text):
    """Batches are drawn from the text, so a token's odds count that it may be a target."""
    random, values = np.random.default_rng(2), np.random.default_rng(3).uniform(1, 2, V)
    values[100:] *= 3  # rare tokens, which are seldom targets
    sums = []
    for step in range(2000):
        drawn = sampler.draw(random.choice(text[0], 64)[None].astype(np.int64), step, 0)
        sums.append((values[drawn.tokens] * drawn.odds).sum())
    error = np.std(sums) / len(sums) ** 0.5
    assert abs(np.mean(sums) - values.sum()) < 4 * error + 0.004 * values.sum()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_sample_of_everything_is_the_whole_softmax(dtype):
    random = torch.Generator().manual_seed(4)
    x, head = torch.randn(2, 24, 16, generator=random), torch.randn(V, 16, generator=random)
    targets = torch.randint(V, (2, 24), generator=random)
    order = torch.randperm(V, generator=random)
    sample = Sample(order, torch.ones(V))
    results = []
    for places, of in ((targets, None), (order.argsort()[targets], sample)):
        leaves = [x.to(dtype).requires_grad_(), head.clone().requires_grad_()]
        loss = softcapped_cross_entropy(leaves[0], leaves[1], places, 15.0, of)
        results.append([loss, *torch.autograd.grad(loss, leaves)])
    for whole, sampled in zip(*results, strict=True):
        torch.testing.assert_close(whole, sampled, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scatters", [["cpu"], []])  # [] is the way of a GPU
def test_gradients_of_a_sample_are_those_of_its_formula(monkeypatch, scatters):
    monkeypatch.setattr("fairway.model.loss._SCATTERS", scatters)
    random = torch.Generator().manual_seed(6)
    x = torch.randn(1, 30, 16, generator=random, dtype=torch.float64)
    head = torch.randn(V, 16, generator=random, dtype=torch.float64)
    tokens = torch.randperm(V, generator=random)[:K]
    odds = torch.rand(K, generator=random) * 5 + 1
    places = torch.randint(K, (1, 30), generator=random)
    leaves = [x.clone().requires_grad_(), head.clone().requires_grad_()]
    z = 15 * torch.tanh(leaves[0][0] @ leaves[1][tokens].T / 15)
    own = z.gather(1, places.T)
    weights = odds.double().expand(30, K).scatter(1, places.T, 1.0)
    expected = (torch.logsumexp(z + weights.log(), 1) - own[:, 0]).mean()
    singles = [x.float().requires_grad_(), head.float().requires_grad_()]
    loss = softcapped_cross_entropy(*singles, places, 15.0, Sample(tokens, odds))
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    gradients = torch.autograd.grad(loss, singles), torch.autograd.grad(expected, leaves)
    for single, double in zip(*gradients, strict=True):
        torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-6)
