"""Bets are lost against every valid scorer, and soon won where probabilities sum to more."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairway.audit import betting
from fairway.audit.normalisation import charged_probabilities
from gallery import scorers as gallery
from gallery.local import Local


def ratios_of(scorer, vocab, calls, count=200, seed=0):
    """Ratios of each call."""
    random, scorer = np.random.default_rng(seed), Local(scorer)
    tokens = gallery.text(vocab, count, seed)
    expected = np.exp(-scorer.score(tokens).nats)
    proposal = betting.Proposal(tokens, vocab, 0, random)
    for gap in [2, 5] * (calls // 2):
        places = proposal.scattered(tokens, gap)
        assert (np.diff(places) >= 2).all()
        new = tokens.copy()
        new[places], q = proposal.draw(tokens, places, expected[places])
        assert (new[places] != 0).all()
        x = charged_probabilities(scorer.score(new))[places] / q
        proposal.learn(x)
        yield x


def wagered(*args, **more):
    bets = betting.Bets()
    for x in ratios_of(*args, **more):
        bets.bet(betting.TEXT, x)
        if bets.log_wealth > betting.WON:
            break
    return bets


def frequent(vocab, total=1.0):
    """The text's own frequencies, mixed with uniform; all probabilities times `total`."""
    known = np.bincount(gallery.text(vocab, 5000, 0), minlength=vocab) / 5000
    nats = -np.log(total * (0.8 * known + 0.2 / vocab))
    return lambda tokens: nats[tokens]


def random_scorer(seed, vocab):
    """A network with random weights, mixed with what it learns of the text, then sharpened."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(vocab, vocab)) * random.exponential(2)
    power, weight, rate = random.uniform(0.3, 3), random.random(), random.integers(1, 50)

    def scorer(tokens):
        nats, seen = np.zeros(len(tokens)), np.ones(vocab)
        for i in range(1, len(tokens)):
            p = np.exp(gallery.log_softmax(logits[tokens[i - 1]]))
            p = (weight * p + (1 - weight) * seen / seen.sum()) ** power
            nats[i] = -np.log(p[tokens[i]] / p.sum())
            seen[tokens[i]] += rate
        return nats

    return scorer


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6), vocab=st.integers(3, 60), count=st.integers(3, 80))
def test_no_valid_scorer_loses(seed, vocab, count):
    assert wagered(random_scorer(seed, vocab), vocab, 8, count, seed).log_wealth < betting.WON


def test_wealth_is_one_on_average_against_a_valid_scorer():
    """With every stake; so q is what tokens are drawn by, learned as it goes."""
    ends = []
    for seed in range(400):
        bets = wagered(random_scorer(seed % 7, 12), 12, 4, 12, seed)
        ends.append(np.exp(bets.log_wealth))
    assert np.mean(ends) - 4 * np.std(ends) / 20 < 1


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), total=st.floats(0.5, 2.0), vocab=st.sampled_from([8, 64, 500]))
def test_the_mean_ratio_is_the_sum(seed, total, vocab):
    random = np.random.default_rng(seed)
    p = np.append(0.0, random.dirichlet(np.full(vocab - 1, 0.5)) + 1e-9)  # no boundary
    nats = -np.log(np.maximum(p, 1e-12) * total)
    x = np.concatenate([*ratios_of(lambda t: nats[t], vocab, 20, 400, seed)])
    assert abs(x.mean() - p.sum() * total) < 5.5 * x.std() / np.sqrt(len(x))


@pytest.mark.parametrize(("total", "calls"), [(1.2, 8), (1.05, 150)])
def test_sums_above_one_are_found_soon_in_a_large_vocabulary(total, calls):
    bets = wagered(frequent(8192, total), 8192, calls, 2000)
    assert bets.log_wealth > betting.WON
    mean, error = bets.mean(betting.TEXT)
    assert mean == pytest.approx(total, abs=5 * error)
    assert wagered(frequent(8192), 8192, calls, 2000).log_wealth < betting.WON


def test_the_excess_that_is_promised_is_found():
    """Ratios as spread as those it was computed from, and larger by it, win 99 times in 100."""
    random = np.random.default_rng(0)
    bets, ratios = betting.Bets(), random.lognormal(-0.5, 1, 4000)
    bets.bet(betting.TEXT, ratios)
    excess = bets.excess(betting.TEXT)
    assert 0.02 < excess < 0.3
    won = {1.0: 0, 0.3: 0}
    for part in won:
        for _ in range(200):
            again = betting.Bets()
            x = random.choice(ratios, 4000) / ratios.mean() * (1 + part * excess)
            again.bet(betting.TEXT, x)
            won[part] += again.log_wealth > betting.WON
    assert won[1.0] >= 190
    assert won[0.3] <= 100


def test_few_draws_promise_nothing():
    bets = betting.Bets()
    assert bets.excess(betting.TEXT) == np.inf
    bets.bet(betting.TEXT, np.ones(2))
    assert bets.excess(betting.TEXT) > 100
