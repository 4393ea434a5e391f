"""Tests over seeds and documents: against SciPy's own tests, and against simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fairway import significance as s
from fairway.errors import BadInput

SAMPLE = st.lists(st.floats(-5, 5).map(lambda x: round(x, 3)), min_size=2, max_size=9)


def varied(values):
    return len(set(values)) > 1


@given(SAMPLE.filter(varied), st.floats(-1, 1))
def test_paired_is_scipys_t_test(differences, null):
    found = s.paired(differences, null=null)
    theirs = stats.ttest_1samp(differences, null, alternative="greater")
    assert found.p == pytest.approx(theirs.pvalue, rel=1e-6, abs=1e-12)
    interval = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx(tuple(interval), rel=1e-6, abs=1e-9)
    assert found.standard_error == pytest.approx(stats.sem(differences))


@given(SAMPLE.filter(varied), SAMPLE.filter(varied))
def test_welch_is_scipys_test(runs, against):
    found = s.welch(runs, against)
    theirs = stats.ttest_ind(against, runs, equal_var=False, alternative="greater")
    assert found.p == pytest.approx(theirs.pvalue, rel=1e-6, abs=1e-12)
    both = stats.ttest_ind(against, runs, equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx(tuple(both), rel=1e-6, abs=1e-9)


def test_equal_values_have_no_spread():
    assert s.paired([0.5, 0.5]) == (0.5, 0.0, 0.5, 0.5, 1.0), "two equal gains prove nothing"
    assert s.paired([0.0, 0.0]).p == 1.0
    assert s.welch([1.0, 1.0], [2.0, 2.0]).p == 1.0
    assert s.power(0.1, 0.0, 3) == 1.0


@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_the_false_positive_rate_is_as_stated(alpha):
    """1,000 repetitions of three seeds a side without any difference."""
    random = np.random.default_rng(5)
    repetitions = 1000
    allowed = stats.binom.interval(0.9999, repetitions, alpha)
    runs, against = random.normal(1.15, 0.0005, (2, repetitions, 3))
    of_pairs = [s.paired(list(d)).p < alpha for d in against - runs]
    assert allowed[0] <= sum(of_pairs) <= allowed[1]
    of_welch = [s.welch(list(a), list(b)).p < alpha for a, b in zip(runs, against, strict=True)]
    assert sum(of_welch) <= allowed[1]  # Welch's test is a little too careful with three seeds


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("seeds", [3, 5, 8])
def test_the_power_is_as_printed(pairs, seeds):
    gain, sd, repetitions = 0.001, 0.0005, 4000
    random = np.random.default_rng(seeds)
    if pairs:
        draws = random.normal(gain, sd, (repetitions, seeds))
        p = stats.ttest_1samp(draws, 0, axis=1, alternative="greater").pvalue
    else:
        runs, against = random.normal(0, sd, (2, repetitions, seeds))
        p = stats.ttest_ind(against + gain, runs, axis=1, alternative="greater").pvalue
    share = float(np.mean(p < s.ALPHA))
    assert share == pytest.approx(s.power(gain, sd, seeds, pairs=pairs), abs=0.03)


def test_seeds_needed_are_the_fewest():
    needed = s.seeds_needed(0.001, 0.0005)
    assert s.power(0.001, 0.0005, needed) >= s.POWER > s.power(0.001, 0.0005, needed - 1)
    assert s.seeds_needed(0.0, 0.0005) is None
    assert s.seeds_needed(1e-9, 1.0) is None
    assert s.seeds_needed(0.001, 0.0005, pairs=True) < needed


def test_pooled_sd():
    assert s.pooled_sd([1.0, 3.0], [10.0, 12.0]) == pytest.approx(np.sqrt(2))
    with pytest.raises(BadInput, match="add seeds"):
        s.pooled_sd([1.0], [2.0])


def test_too_few_are_refused():
    with pytest.raises(BadInput, match="two pairs"):
        s.paired([0.1])
    with pytest.raises(BadInput, match="two runs"):
        s.welch([0.1], [0.1, 0.2])
    with pytest.raises(BadInput, match="two documents"):
        s.over_documents(np.ones(1), np.ones(1, np.int64))


def test_the_bootstrap_covers_the_truth_as_often_as_it_says():
    random = np.random.default_rng(7)
    inside = false = 0
    for i in range(200):
        sizes = random.integers(100, 4000, 60)
        gains = sizes * random.normal(0.0, 0.01, 60)
        found = s.over_documents(gains, sizes, resamples=499, seed=i)
        inside += found.low <= 0 <= found.high
        false += found.p < 0.05
    assert inside >= 0.88 * 200
    assert false <= 0.11 * 200


def test_documents_weigh_by_their_size():
    sizes = np.array([10, 1000, 30, 400])
    found = s.over_documents(0.02 * sizes, sizes)
    assert found.mean == pytest.approx(0.02)
    assert found.low == pytest.approx(0.02)
    assert found.p == pytest.approx(1e-4)
