"""The speed-up of one model over another from calls in turns, with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr

LEVEL = 0.95


class Speedup(NamedTuple):
    """A ratio of times, above 1 if the model is faster than the baseline, with its 95 % interval."""

    value: float
    low: float
    high: float


def speedup(baseline: Sequence[float], model: Sequence[float]) -> Speedup:
    """Return the speed-up of a model over its baseline.

    It is the median over rounds of the ratio of the two calls in a round. What slows both calls of a round, as a
    machine that gets hotter does, cancels out; what slows one call alone moves a median little. The quotient of the two
    medians estimates the same, but a drift of 30 % makes its interval almost four times as wide.

    The interval is that of a median by order statistics, interpolated between ranks (Hettmansperger and Sheather,
    "Confidence intervals based on interpolated order statistics", Statistics & Probability Letters 4, 1986). It assumes
    no distribution. With fewer than six rounds no interval of 95 % exists: it is the range of the ratios.

    Args:
        baseline: time of each of the baseline's calls, any unit, by round.
        model: time of each of the model's calls, the same rounds.
    """
    ratios = np.sort(np.log(np.asarray(baseline) / np.asarray(model)))
    low, high = _interval(ratios), -_interval(-ratios[::-1])
    return Speedup(*(math.exp(value) for value in (float(np.median(ratios)), low, high)))


def _interval(ascending: NDArray[np.float64]) -> float:
    """Return the lower end of the interval of a median, from sorted values."""
    count = len(ascending)
    outside = (1 - LEVEL) / 2
    # From the k-th value to the k-th from the end: its coverage is 1 - 2 P(fewer than k of n fair coins show heads).
    tails = [float(bdtr(k - 1, count, 0.5)) for k in range(1, count // 2 + 1)]
    k = sum(tail <= outside for tail in tails)
    if k == 0 or k == len(tails):
        return float(ascending[max(k - 1, 0)])
    between = (outside - tails[k - 1]) / (tails[k] - tails[k - 1])
    share = (count - k) * between / (k + (count - 2 * k) * between)
    return float((1 - share) * ascending[k - 1] + share * ascending[k])


def is_measurable(low: float, high: float) -> bool:
    """Whether an interval of a speed-up says that there is a difference; a baseline has none to itself."""
    return not low <= 1 <= high
