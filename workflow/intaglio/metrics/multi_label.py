"""Metrics of multi-label classification: each example has any number of labels, also none."""

from __future__ import annotations

from typing import Any

import numpy as np

from intaglio.metrics.metric import MULTI_LABEL, Floats, Judged, Means, Metric, mean_f1, ratio

_KINDS = frozenset({MULTI_LABEL})


def _counts(judged: Judged) -> tuple[Any, Any, Any]:
    """Return, for every example and label, whether it is true and predicted, true, and predicted."""
    true, predicted = judged.targets.astype(bool), judged.predictions.astype(bool)
    return true & predicted, true, predicted


def _overlaps(judged: Judged) -> Floats:
    """Return the size of the intersection of true and predicted labels over that of their union; 1 if both are empty.

    The official accuracy of SemEval-2018 Task 1 E-c (Mohammad et al. 2018, section 4).
    """
    hits, true, predicted = _counts(judged)
    union = (true | predicted).sum(1)
    return np.where(union > 0, hits.sum(1) / np.maximum(union, 1), 1.0)[:, None]


def _exact(judged: Judged) -> Floats:
    same: Floats = (judged.targets == judged.predictions).all(1)[:, None].astype(np.float64)
    return same


def _label_counts(judged: Judged) -> Floats:
    return np.concatenate(_counts(judged), axis=1).astype(np.float64)


def _first(means: Floats) -> Floats:
    value: Floats = means[..., 0]
    return value


def _f1_micro(means: Floats) -> Floats:
    """Return F1 over all decisions; 0 if no label is true or predicted."""
    hits, true, predicted = (part.sum(-1) for part in np.split(means, 3, axis=-1))
    return ratio(2 * hits, true + predicted)


def _f1_macro(means: Floats) -> Floats:
    return mean_f1(*np.split(means, 3, axis=-1))


_JACCARD, _SUBSET = Means(_overlaps, _first), Means(_exact, _first)
_MICRO, MACRO_OF_LABEL_SETS = Means(_label_counts, _f1_micro), Means(_label_counts, _f1_macro)
OF_LABEL_SETS = (
    Metric("jaccard", "Jaccard accuracy", "%", _JACCARD, _KINDS, means=_JACCARD),
    Metric("f1_micro", "micro F1", "%", _MICRO, _KINDS, means=_MICRO),
    Metric("subset_accuracy", "subset accuracy", "%", _SUBSET, _KINDS, means=_SUBSET),
)
