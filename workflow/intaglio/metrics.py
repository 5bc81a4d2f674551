"""The metrics of tasks.

A metric is one entry of `KNOWN_METRICS`. The check of the study file, the selection of weights in training, evaluation,
intervals, tables and plots take its name, label, unit and function from there.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from intaglio.errors import UserError, nearest

_Floats = NDArray[np.float64]
SINGLE_LABEL = "single_label_classification"


@dataclass(frozen=True)
class Classes:
    """The classes of a classification task.

    Attributes:
        count: number of declared classes.
        positive: index of the class for metrics of one class; None if the task names none.
    """

    count: int
    positive: int | None = None


@dataclass(frozen=True)
class Judged:
    """True and predicted values of some examples.

    Attributes:
        targets: [examples]; for classification int64 indices of classes.
        predictions: [examples], like `targets`.
        outputs: the model's outputs, [examples, outputs]; None for metrics that do not read them.
    """

    targets: NDArray[Any]
    predictions: NDArray[Any]
    outputs: NDArray[Any] | None = None

    def take(self, rows: NDArray[np.int64]) -> Judged:
        """Return the examples at these positions, which may repeat."""
        outputs = None if self.outputs is None else self.outputs[rows]
        return Judged(self.targets[rows], self.predictions[rows], outputs)


@dataclass(frozen=True)
class Metric:
    """A metric.

    Attributes:
        name: name in study files and machine-readable tables.
        label: readable name, in tables and plots.
        unit: unit of the value times 100.
        compute: returns the value for at least one example; always finite.
        kinds: names of the kinds of task that it applies to.
        higher_is_better: whether higher values are better.
        of_one_class: whether it applies to one of two classes, which the task has to name.
        needs_outputs: whether `compute` reads the outputs.
        from_confusion: faster computation for intervals, from counts [..., true class, predicted class], float64, to
            values [...]; without it, intervals call `compute` on every resample.
    """

    name: str
    label: str
    unit: Literal["%", "× 100"]
    compute: Callable[[Judged, Classes], float]
    kinds: frozenset[str] = frozenset({SINGLE_LABEL})
    higher_is_better: bool = True
    of_one_class: bool = False
    needs_outputs: bool = False
    from_confusion: Callable[[_Floats, Classes], _Floats] | None = None

    @property
    def axis(self) -> str:
        """The label with its unit, for an axis."""
        return f"{self.label}, %" if self.unit == "%" else f"{self.label} {self.unit}"

    def refusal(self, classes: Classes) -> str | None:
        """Return why it does not apply to a task with these classes; None if it does."""
        if self.of_one_class and classes.count != 2:
            others = ", ".join(name for name, other in KNOWN_METRICS.items() if not other.of_one_class)
            return f"{self.name} is for two classes, the task has {classes.count}; take one of {others}"
        if self.of_one_class and classes.positive is None:
            return f"{self.name} is of one class: name it with `positive`"
        return None


def named(name: str) -> Metric:
    """Return a metric by its name.

    Raises:
        UserError: there is no metric of this name.
    """
    if name not in KNOWN_METRICS:
        raise UserError(f"metric: unknown metric {name!r}, {nearest(name, KNOWN_METRICS)}")
    return KNOWN_METRICS[name]


def label_of(name: str | None) -> str | None:
    """Return the readable name of a metric; an unknown name is returned as it is."""
    return KNOWN_METRICS[name].label if name in KNOWN_METRICS else name


def _quietly(function: Callable[..., Any], *arguments: Any, **options: Any) -> float:
    """Call a scikit-learn metric without its warnings of absent classes; 0 / 0 is 0."""
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        warnings.simplefilter("ignore")
        return float(np.nan_to_num(function(*arguments, **options)))


# scikit-learn is imported inside functions: it takes most of a second, and validating a study file does not need it.


def _accuracy(judged: Judged, _: Classes) -> float:
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(judged.targets, judged.predictions))


def _f1_macro(judged: Judged, _: Classes) -> float:
    """Mean F1 of the classes that occur among the targets or the predictions, as scikit-learn defines it.

    A declared class that is neither true nor predicted for any example does not count, so the best value is 1.
    """
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


def _ratio(above: _Floats, below: _Floats) -> _Floats:
    """Divide; 0 / 0 is 0."""
    return np.divide(above, below, out=np.zeros_like(above), where=below != 0)


def _parts(confusion: _Floats) -> tuple[_Floats, _Floats, _Floats, _Floats]:
    """Return the numbers of examples [...], and of correct, true and predicted ones by class [..., classes]."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    return confusion.sum((-2, -1)), hits, confusion.sum(-1), confusion.sum(-2)


def _accuracies(confusion: _Floats, _: Classes) -> _Floats:
    total, hits, _true, _predicted = _parts(confusion)
    return _ratio(hits.sum(-1), total)


def _balanced_accuracies(confusion: _Floats, _: Classes) -> _Floats:
    _total, hits, true, _predicted = _parts(confusion)
    return _ratio(_ratio(hits, true).sum(-1), (true > 0).sum(-1).astype(np.float64))


def _f1_macros(confusion: _Floats, _: Classes) -> _Floats:
    _total, hits, true, predicted = _parts(confusion)
    scores = _ratio(2 * hits, true + predicted)
    return _ratio(scores.sum(-1), (true + predicted > 0).sum(-1).astype(np.float64))


def _f1s(confusion: _Floats, classes: Classes) -> _Floats:
    _total, hits, true, predicted = _parts(confusion)
    scores: _Floats = _ratio(2 * hits, true + predicted)[..., classes.positive]
    return scores


def _matthews_correlations(confusion: _Floats, _: Classes) -> _Floats:
    total, hits, true, predicted = _parts(confusion)
    covariance = hits.sum(-1) * total - (true * predicted).sum(-1)
    variances = (total**2 - (true**2).sum(-1)) * (total**2 - (predicted**2).sum(-1))
    return _ratio(covariance, np.sqrt(variances))


def _cohen_kappas(confusion: _Floats, _: Classes) -> _Floats:
    total, hits, true, predicted = _parts(confusion)
    by_chance = (true * predicted).sum(-1)
    return _ratio(hits.sum(-1) * total - by_chance, total**2 - by_chance)


KNOWN_METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("accuracy", "accuracy", "%", _accuracy, from_confusion=_accuracies),
        Metric("f1_macro", "macro F1", "%", _f1_macro, from_confusion=_f1_macros),
        Metric("balanced_accuracy", "balanced accuracy", "%", _balanced_accuracy, from_confusion=_balanced_accuracies),
        Metric("cohen_kappa", "Cohen's kappa", "× 100", _cohen_kappa, from_confusion=_cohen_kappas),
        Metric("matthews", "Matthews correlation", "× 100", _matthews, from_confusion=_matthews_correlations),
        Metric("f1", "F1", "%", _f1, of_one_class=True, from_confusion=_f1s),
    )
}
