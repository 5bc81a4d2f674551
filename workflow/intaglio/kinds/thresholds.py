"""Thresholds of multi-label classification: from which probability on a label is predicted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

# Threshold of a label that none was tuned for.
DEFAULT = 0.5


def label_sets(outputs: NDArray[Any], thresholds: Sequence[float] | None) -> NDArray[np.int64]:
    """Return 1 for every label whose probability is above its threshold, else 0, [examples, labels].

    Args:
        outputs: logits, [examples, labels].
        thresholds: probabilities, one per label; None for 0.5.
    """
    least = np.full(outputs.shape[1], DEFAULT) if thresholds is None else np.asarray(thresholds)
    decided: NDArray[np.int64] = (expit(outputs.astype(np.float64)) > least).astype(np.int64)
    return decided


def tuned_thresholds(targets: NDArray[Any], outputs: NDArray[Any]) -> list[float]:
    """Return for every label the threshold with the best F1 on these examples.

    Candidates are 0.5 and the midpoints between neighbouring probabilities; of equally good ones the closest to 0.5 is
    taken. A label that all or none of the examples have keeps 0.5.

    Args:
        targets: 1 or 0, [examples, labels].
        outputs: logits, [examples, labels].
    """
    probabilities = expit(outputs.astype(np.float64))
    return [_best(true, given) for true, given in zip(targets.T, probabilities.T, strict=True)]


def _best(true: NDArray[Any], given: NDArray[np.float64]) -> float:
    if true.min() == true.max():
        return DEFAULT
    known = np.unique(given)
    candidates = np.append((known[1:] + known[:-1]) / 2, DEFAULT)
    # The number of examples above a candidate, and of those that have the label.
    predicted = len(given) - np.searchsorted(np.sort(given), candidates, side="right")
    own = given[true == 1]
    hits = len(own) - np.searchsorted(np.sort(own), candidates, side="right")
    scores = 2 * hits / np.maximum(predicted + len(own), 1)
    best = candidates[scores == scores.max()]
    return float(best[np.abs(best - DEFAULT).argmin()])
