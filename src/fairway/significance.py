"""Is one set of runs better than another? Tests over seeds, power, and a bootstrap over documents.

Everything is plain numbers: callers read them from results. Gains are positive where the first
set is better, that is, lower. The distributions and the resampling are SciPy's.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from fairway.errors import BadInput

ALPHA = 0.01  # the challenge's rule for a new record: p < 0.01
POWER = 0.8
CONFIDENCE = 0.95
MOST_SEEDS = 1000  # beyond which nobody would train


class Estimate(NamedTuple):
    """A mean and what is known about it."""

    mean: float
    standard_error: float
    low: float  # of the two-sided confidence interval
    high: float
    p: float  # one-sided, that the mean is at most `null`; 1 where the values have no spread


def paired(differences: Sequence[float], null: float = 0.0) -> Estimate:
    """Test differences of pairs, one pair per seed, or a single sample, by Student's t.

    Raises BadInput with fewer than two differences.
    """
    if len(differences) < 2:
        raise BadInput("a test over seeds needs two pairs or more: add seeds")
    values = np.asarray(differences, float)
    error = float(values.std(ddof=1)) / sqrt(len(values))
    return _t_estimate(float(values.mean()), error, len(values) - 1, null)


def welch(runs: Sequence[float], against: Sequence[float], null: float = 0.0) -> Estimate:
    """Test mean(against) - mean(runs) by Welch's t: the samples' variances may differ.

    Degrees of freedom by Welch and Satterthwaite (Welch 1947). Raises BadInput with fewer than two
    values on a side.
    """
    if min(len(runs), len(against)) < 2:
        raise BadInput("a test over seeds needs two runs or more on each side: add seeds")
    gain = float(np.mean(against) - np.mean(runs))
    parts = [float(np.var(side, ddof=1)) / len(side) for side in (runs, against)]
    variance = sum(parts)
    spread = sum(p * p / (len(s) - 1) for p, s in zip(parts, (runs, against), strict=True))
    freedom = variance**2 / spread if spread else len(runs) + len(against) - 2
    return _t_estimate(gain, sqrt(variance), freedom, null)


def _t_estimate(mean: float, error: float, freedom: float, null: float) -> Estimate:
    if error == 0:  # values without a spread say nothing about chance
        return Estimate(mean, 0.0, mean, mean, 1.0)
    half = error * float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom))
    p = float(stats.t.sf((mean - null) / error, freedom))
    return Estimate(mean, error, mean - half, mean + half, p)


def power(gain: float, sd: float, seeds: int, pairs: bool = False) -> float:
    """Return the chance that a one-sided test at ALPHA finds a true `gain` with `seeds` a side.

    sd: of one run's result; with `pairs`, of the difference within a pair. By the noncentral t
    distribution (Cohen 1988, chapter 2).
    """
    if sd == 0:
        return 1.0 if gain > 0 else 0.0
    freedom = seeds - 1 if pairs else 2 * seeds - 2
    shift = gain / (sd * sqrt((1 if pairs else 2) / seeds))
    critical = stats.t.ppf(1 - ALPHA, freedom)
    return float(stats.nct.sf(critical, freedom, shift))


def seeds_needed(gain: float, sd: float, pairs: bool = False) -> int | None:
    """Return the fewest seeds a side that give the power POWER; None beyond MOST_SEEDS."""
    found = (n for n in range(2, MOST_SEEDS + 1) if power(gain, sd, n, pairs) >= POWER)
    return next(found, None) if gain > 0 else None


def pooled_sd(*samples: Sequence[float]) -> float:
    """Return the standard deviation within samples of one variance. Raises BadInput."""
    freedom = sum(len(sample) - 1 for sample in samples)
    if freedom == 0:
        raise BadInput("the spread over seeds is unknown with one run a side: add seeds")
    squares = sum(float(np.var(sample)) * len(sample) for sample in samples)
    return sqrt(squares / freedom)


def over_documents(
    gains: NDArray[np.float64],
    sizes: NDArray[np.int64],
    resamples: int = 9999,
    seed: int = 0,
) -> Estimate:
    """Bootstrap Σ gains / Σ sizes over documents, float64[D] and int64[D] (Efron 1979).

    A document is the block that is drawn, because tokens of one document depend on each other. It
    says what another text of the same kind would give with these two models, and nothing about
    other seeds. Raises BadInput with fewer than two documents.
    """
    if len(gains) < 2:
        raise BadInput("a bootstrap over documents needs two documents or more")

    def ratio(
        part: NDArray[np.float64], size: NDArray[np.float64], axis: int
    ) -> NDArray[np.float64]:
        return np.asarray(part.sum(axis=axis) / size.sum(axis=axis))

    found = stats.bootstrap(
        (gains, sizes.astype(float)),
        ratio,
        paired=True,
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, 4_000_000 // len(gains)),
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    drawn = found.bootstrap_distribution
    p = (1 + int(np.count_nonzero(drawn <= 0))) / (1 + resamples)
    interval = found.confidence_interval
    mean = float(gains.sum() / sizes.sum())
    return Estimate(mean, float(found.standard_error), float(interval.low), float(interval.high), p)
