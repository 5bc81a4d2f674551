"""Metrics of single-label classification: each example has one of the classes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from intaglio.metrics.metric import MULTI_LABEL, SINGLE_LABEL, Classes, Floats, Judged, Metric, mean_f1, ratio
from intaglio.metrics.multi_label import MACRO_OF_LABEL_SETS


def _quietly(function: Callable[..., Any], *arguments: Any, **options: Any) -> float:
    """Call a scikit-learn metric without its warnings of absent classes; 0 / 0 is 0."""
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        warnings.simplefilter("ignore")
        return float(np.nan_to_num(function(*arguments, **options)))


# scikit-learn is imported inside functions: it takes most of a second, and validating a study file does not need it.


def _accuracy(judged: Judged, _: Classes) -> float:
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(judged.targets, judged.predictions))


def _f1_macro(judged: Judged, classes: Classes) -> float:
    """Mean F1 of the classes that occur among the targets or the predictions, as scikit-learn defines it.

    A declared class that is neither true nor predicted for any example does not count, so the best value is 1.
    """
    if judged.targets.ndim == 2:
        return MACRO_OF_LABEL_SETS(judged, classes)
    from sklearn.metrics import f1_score

    return float(f1_score(judged.targets, judged.predictions, average="macro", zero_division=0))


def _f1(judged: Judged, classes: Classes) -> float:
    """F1 of the positive class; 0 if it is neither true nor predicted."""
    from sklearn.metrics import f1_score

    chosen = [classes.positive]
    return float(f1_score(judged.targets, judged.predictions, labels=chosen, average="macro", zero_division=0))


def _balanced_accuracy(judged: Judged, _: Classes) -> float:
    """Mean recall of the classes that occur; recall of an absent class is not defined."""
    from sklearn.metrics import balanced_accuracy_score

    return _quietly(balanced_accuracy_score, judged.targets, judged.predictions)


def _cohen_kappa(judged: Judged, classes: Classes) -> float:
    """Agreement beyond chance; 0 if a single class is both true and predicted."""
    from sklearn.metrics import cohen_kappa_score

    return _quietly(cohen_kappa_score, judged.targets, judged.predictions, labels=list(range(classes.count)))


def _matthews(judged: Judged, _: Classes) -> float:
    """Correlation of true and predicted class; 0 if a single class is true, or a single one predicted."""
    from sklearn.metrics import matthews_corrcoef

    return _quietly(matthews_corrcoef, judged.targets, judged.predictions)


# The same from confusion matrices, many at once.


def _parts(confusion: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Return the numbers of examples [...], and of correct, true and predicted ones by class [..., classes]."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    return confusion.sum((-2, -1)), hits, confusion.sum(-1), confusion.sum(-2)


def _accuracies(confusion: Floats, _: Classes) -> Floats:
    total, hits, _true, _predicted = _parts(confusion)
    return ratio(hits.sum(-1), total)


def _balanced_accuracies(confusion: Floats, _: Classes) -> Floats:
    _total, hits, true, _predicted = _parts(confusion)
    return ratio(ratio(hits, true).sum(-1), (true > 0).sum(-1).astype(np.float64))


def _f1_macros(confusion: Floats, _: Classes) -> Floats:
    _total, hits, true, predicted = _parts(confusion)
    return mean_f1(hits, true, predicted)


def _f1s(confusion: Floats, classes: Classes) -> Floats:
    _total, hits, true, predicted = _parts(confusion)
    scores: Floats = ratio(2 * hits, true + predicted)[..., classes.positive]
    return scores


def _matthews_correlations(confusion: Floats, _: Classes) -> Floats:
    total, hits, true, predicted = _parts(confusion)
    covariance = hits.sum(-1) * total - (true * predicted).sum(-1)
    variances = (total**2 - (true**2).sum(-1)) * (total**2 - (predicted**2).sum(-1))
    return ratio(covariance, np.sqrt(variances))


def _cohen_kappas(confusion: Floats, _: Classes) -> Floats:
    total, hits, true, predicted = _parts(confusion)
    by_chance = (true * predicted).sum(-1)
    return ratio(hits.sum(-1) * total - by_chance, total**2 - by_chance)


OF_CLASSES = (
    Metric("accuracy", "accuracy", "%", _accuracy, from_confusion=_accuracies),
    Metric(
        "f1_macro",
        "macro F1",
        "%",
        _f1_macro,
        frozenset({SINGLE_LABEL, MULTI_LABEL}),
        from_confusion=_f1_macros,
        means=MACRO_OF_LABEL_SETS,
    ),
    Metric("balanced_accuracy", "balanced accuracy", "%", _balanced_accuracy, from_confusion=_balanced_accuracies),
    Metric("cohen_kappa", "Cohen's kappa", "× 100", _cohen_kappa, from_confusion=_cohen_kappas),
    Metric("matthews", "Matthews correlation", "× 100", _matthews, from_confusion=_matthews_correlations),
    Metric("f1", "F1", "%", _f1, of_one_class=True, from_confusion=_f1s),
)
