"""Means over seeds, such as a difference to float, with confidence intervals over test examples and seeds.

Two things are random: the test examples, and the seeds. The mean over n seeds of any metric has the variance

    common + between / n

`common` is the variance over test examples that all seeds share; more seeds do not lower it. `between` is the variance
between seeds: what training does differently, and what the test examples add to each seed alone (`own`). The bootstrap
over examples knows `common` and `own` well, as the covariance of seeds on the same resamples, and what is beyond it.
`between` is known from n values only. So half an interval joins a normal part with one of Student's t, n - 1 degrees of
freedom, for what seeds add to the examples:

    sqrt(z^2 * (common + own / n) + t^2 * (between - own) / n)

A few values are close to each other by chance, so `between` counts as `own` at least, and 5 % of `own` counts to the
part of the t distribution. This share was chosen by measuring how often the intervals hold the truth: 93 to 98 % from
three seeds on, 92 to 100 % with two, of which little can be known (`benchmarks/intervals.py`).

One seed tells nothing about others: then the interval is over test examples only.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri, stdtr, stdtrit

_LEVEL = 0.95
# Share of the variance over examples of each seed alone that counts as estimated from seeds.
_UNCERTAIN = 0.05


@dataclass(frozen=True)
class MeanOverSeeds:
    """A mean over seeds, with its variances.

    Attributes:
        value: the mean.
        seeds: number of seeds.
        common: variance over test examples that all seeds share.
        own: variance over test examples of each seed alone; 0 for one seed, which has all of it in `common`.
        between: variance between seeds (n - 1); None for one seed.
    """

    value: float
    seeds: int
    common: float
    own: float = 0.0
    between: float | None = None

    @property
    def _certain(self) -> float:
        return self.common + (1 - _UNCERTAIN) * self.own / self.seeds

    @property
    def _estimated(self) -> float:
        if self.between is None:
            return 0.0
        return (max(self.between, self.own) - (1 - _UNCERTAIN) * self.own) / self.seeds

    @property
    def error(self) -> float:
        """The standard error."""
        return math.sqrt(self._certain + self._estimated)

    def interval(self, level: float = _LEVEL) -> tuple[float, float]:
        """Return the lower and the upper end of the confidence interval."""
        half = self._half((1 - level) / 2)
        return self.value - half, self.value + half

    def _half(self, outside: float) -> float:
        """Return half the width of the interval with this probability on each side of it."""
        student = float(stdtrit(self.seeds - 1, outside)) if self._estimated else 0.0
        return math.hypot(float(ndtri(outside)) * math.sqrt(self._certain), student * math.sqrt(self._estimated))

    def p_value(self) -> float:
        """Return the two-sided p value of the mean being zero: the interval of the level 1 - p begins at zero."""
        size = abs(self.value)
        if not self.error or not size:
            return float(size == 0)
        # Between those of the normal distribution and of Student's t.
        least = float(ndtr(-size / self.error))
        most = float(stdtr(self.seeds - 1, -size / self.error)) if self._estimated else least
        least = max(least, sys.float_info.min)
        # Rounding, or the smallest number, may leave nothing between them.
        if self._half(least) <= size:
            return 2 * least
        if self._half(most) >= size:
            return 2 * most
        found = brentq(lambda log: self._half(math.exp(log)) - size, math.log(least), math.log(most))
        return min(1.0, 2 * math.exp(found))

    def with_seeds(self, seeds: int) -> MeanOverSeeds:
        """Return what is to be expected with another number of seeds and the same examples; not from one seed."""
        return replace(self, seeds=seeds)

    def with_examples(self, factor: float) -> MeanOverSeeds:
        """Return what is to be expected with so many times as many test examples, and the same seeds."""
        between = self.between
        if between is not None:
            between = max(between, self.own) - self.own + self.own / factor
        return replace(self, common=self.common / factor, own=self.own / factor, between=between)

    def of_other_examples(self, values: Sequence[float], factor: float) -> MeanOverSeeds:
        """Return the mean of values of the same seeds on other examples, so many times as many, of the same kind.

        Their variances over examples are not known, and taken from these.
        """
        between = None if self.between is None else float(np.var(values, ddof=1))
        return MeanOverSeeds(float(np.mean(values)), self.seeds, self.common / factor, self.own / factor, between)


def mean_over_seeds(values: Sequence[float], resampled: NDArray[np.float64], one_example: float = 0.0) -> MeanOverSeeds:
    """Return the mean of values over seeds.

    Args:
        values: one for each seed.
        resampled: the same on resamples of the test examples, [seeds, resamples]; all seeds share the resamples.
        one_example: how much one test example changes the value. An interval is as wide as if one more had changed,
            since a small test set may show no change by chance (Agresti and Min, 2005); 0 for none.
    """
    seeds = len(values)
    of_mean = float(resampled.mean(0).var(ddof=1))
    if seeds == 1:
        return MeanOverSeeds(float(values[0]), 1, of_mean + one_example**2)
    own = max(0.0, (float(resampled.var(axis=1, ddof=1).mean()) - of_mean) * seeds / (seeds - 1))
    common = max(0.0, of_mean - own / seeds) + one_example**2
    return MeanOverSeeds(float(np.mean(values)), seeds, common, own, float(np.var(values, ddof=1)))


def mean_of_measured(values: Sequence[float], errors: Sequence[float]) -> MeanOverSeeds:
    """Return the mean over at least two seeds of values that were measured, each with an error of its own.

    Args:
        values: one for each seed.
        errors: the standard errors of their measurements, which are independent.
    """
    own = float(np.square(errors).mean())
    return MeanOverSeeds(float(np.mean(values)), len(values), 0.0, own, float(np.var(values, ddof=1)))
