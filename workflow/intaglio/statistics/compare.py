"""Tests of variants against float: Holm's adjustment, McNemar's exact test, non-inferiority to a margin."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from intaglio.statistics.seeds import MeanOverSeeds

Verdict = Literal["within", "not within", "undecided"]
# What would decide a verdict is sought up to so many seeds, and so many times as many examples.
_MOST_SEEDS = 100
_MOST_EXAMPLES = 100


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p values adjusted for their number by Holm (1979); None stays None and does not count."""
    known = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    least = 0.0
    for rank, (p, place) in enumerate(known):
        least = adjusted[place] = max(least, min(1.0, p * (len(known) - rank)))
    return adjusted


def mcnemar(right: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Return the p value of McNemar's exact test: do two variants predict equally many examples rightly?

    Each seed is a test of its own. Its examples are the same for all seeds, so they may not be pooled: twice the median
    of the seeds' p values is valid whatever their dependence (Meinshausen, Meier and Bühlmann, 2009).

    Args:
        right: whether one variant predicts an example rightly, [seeds, examples].
        other: the same of the other variant, for the same seeds and examples.
    """
    mended, broken = ((one & ~two).sum(1) for one, two in ((right, other), (other, right)))
    found = [_binomial(int(a), int(a + b)) for a, b in zip(mended, broken, strict=True)]
    return found[0] if len(found) == 1 else min(1.0, 2 * float(np.median(found)))


def _binomial(count: int, of: int) -> float:
    found: Any = binomtest(count, of) if of else None
    return 1.0 if found is None else float(found.pvalue)


def non_inferiority(interval: tuple[float, float], margin: float, higher_is_better: bool = True) -> Verdict:
    """Return whether a variant is worse than another by less than a margin.

    `within`: the whole interval is on the good side of the margin. `not within`: none of it is.

    Args:
        interval: of the difference in a metric: the variant's minus the other's.
        margin: the largest loss to accept, not negative, in the unit of the metric.
        higher_is_better: of the metric.
    """
    low, high = interval if higher_is_better else (-interval[1], -interval[0])
    return "within" if low >= -margin else "not within" if high < -margin else "undecided"


def seeds_to_decide(difference: MeanOverSeeds, margin: float, higher_is_better: bool = True) -> int | None:
    """Return the number of seeds that would decide `non_inferiority`, if all else stays as it is.

    None if it is decided, if 100 seeds would not suffice, or for one seed, which tells nothing about others.
    """
    if difference.between is None:
        return None
    more = ((seeds, difference.with_seeds(seeds)) for seeds in range(difference.seeds + 1, _MOST_SEEDS + 1))
    return _first_decided(difference, more, margin, higher_is_better)


def examples_to_decide(
    difference: MeanOverSeeds, examples: int, margin: float, higher_is_better: bool = True
) -> int | None:
    """Return about how many test examples would decide `non_inferiority`, if all else stays as it is.

    None if it is decided, or if 100 times as many would not suffice.
    """
    factors = np.geomspace(1, _MOST_EXAMPLES, 60)[1:]
    more = ((round(factor * examples), difference.with_examples(factor)) for factor in factors)
    return _first_decided(difference, more, margin, higher_is_better)


def _first_decided(
    now: MeanOverSeeds, more: Iterator[tuple[int, MeanOverSeeds]], margin: float, higher_is_better: bool
) -> int | None:
    def undecided(mean: MeanOverSeeds) -> bool:
        return non_inferiority(mean.interval(), margin, higher_is_better) == "undecided"

    return None if not undecided(now) else next((count for count, mean in more if not undecided(mean)), None)
