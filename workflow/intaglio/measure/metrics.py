"""How good predictions are: scikit-learn's metrics, as rows of the metrics table."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax
from sklearn import metrics as sk

from intaglio.errors import UserError, nearest

Row = dict[str, Any]
Integers = NDArray[np.int64]


def metric_rows(labels: Integers, logits: NDArray[Any], names: Sequence[str], primary: str) -> list[Row]:
    """Return the metrics of one test set.

    Every declared class counts, also one that occurs nowhere (its precision, recall and F1 are 0), except in balanced
    accuracy, which is the mean recall of the classes that occur: recall of an absent class is not defined.

    Args:
        labels: true classes, [examples], indices into `names`; at least one example.
        logits: [examples, classes].
        names: the classes, in the order of the logits.
        primary: the metric by which the task is judged.

    Returns:
        Rows with metric, label, predicted, value, primary: `scalars` first, then `per_class`, then `confusion`.

    Raises:
        UserError: a label outside the classes, or a primary metric that the task does not have.
    """
    if logits.shape != (len(labels), len(names)) or labels.min() < 0 or labels.max() >= len(names):
        raise UserError(
            f"metrics: logits of shape {list(logits.shape)} and labels {labels.min()} to {labels.max()} do not fit "
            f"{len(labels)} examples of {len(names)} classes; was the checkpoint trained on another task?"
        )
    predictions = logits.argmax(axis=1)
    values = scalars(labels, predictions, len(names)) | {"loss": cross_entropy(labels, logits)}
    if primary not in values:
        raise UserError(f"metric: {primary!r} is not defined for {len(names)} classes, {nearest(primary, values)}")
    rows = [_row(metric, value, primary=metric == primary) for metric, value in values.items()]
    return [*rows, *per_class(labels, predictions, names), *confusion(labels, predictions, names)]


def scalars(labels: Integers, predictions: Integers, classes: int) -> dict[str, float]:
    """Return one number a metric: accuracy, f1_macro, f1 (of class 1, where there are two), balanced_accuracy, ...

    Cohen's kappa and Matthews correlation are 0 where they are 0 / 0: one class alone is true or predicted.
    """
    declared = list(range(classes))
    values = {
        "accuracy": sk.accuracy_score(labels, predictions),
        "f1_macro": sk.f1_score(labels, predictions, labels=declared, average="macro", zero_division=0),
        "balanced_accuracy": _balanced_accuracy(labels, predictions),
        "cohen_kappa": np.nan_to_num(_quietly(sk.cohen_kappa_score, labels, predictions, labels=declared)),
        "matthews": _quietly(sk.matthews_corrcoef, labels, predictions),
    }
    if classes == 2:
        values["f1"] = sk.f1_score(labels, predictions, labels=declared, pos_label=1, zero_division=0)
    return {name: float(value) for name, value in values.items()}


def cross_entropy(labels: Integers, logits: NDArray[Any]) -> float:
    """Return the mean negative log-likelihood (natural logarithm) of the true classes.

    Not scikit-learn's log_loss: it clips probabilities, which hides how wrong a confident model is.
    """
    likelihood = log_softmax(logits.astype(np.float64), axis=1)
    return float(-likelihood[np.arange(len(labels)), labels].mean())


def per_class(labels: Integers, predictions: Integers, names: Sequence[str]) -> list[Row]:
    """Return class_precision, class_recall, class_f1 and class_accuracy of every class.

    class_accuracy is of the class against the rest: the share of examples, of any class, for which "is it this class?"
    is answered correctly.
    """
    declared = list(range(len(names)))
    precision, recall, f1, _ = sk.precision_recall_fscore_support(
        labels, predictions, labels=declared, average=None, zero_division=0
    )
    accuracy = [sk.accuracy_score(labels == index, predictions == index) for index in declared]
    columns = {"class_precision": precision, "class_recall": recall, "class_f1": f1, "class_accuracy": accuracy}
    return [
        _row(metric, value, label=name)
        for metric, values in columns.items()
        for name, value in zip(names, values, strict=True)
    ]


def confusion(labels: Integers, predictions: Integers, names: Sequence[str]) -> list[Row]:
    """Return how many examples of every true class were taken for every class."""
    matrix = sk.confusion_matrix(labels, predictions, labels=list(range(len(names))))
    return [
        _row("confusion", matrix[true, predicted], label=names[true], predicted=names[predicted])
        for true in range(len(names))
        for predicted in range(len(names))
    ]


def _balanced_accuracy(labels: Integers, predictions: Integers) -> float:
    return float(_quietly(sk.balanced_accuracy_score, labels, predictions))


def _quietly(metric: Any, *arguments: Any, **options: Any) -> Any:
    """Call a metric without its warnings of absent classes: the docstrings here say what becomes of them."""
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        warnings.simplefilter("ignore")
        return metric(*arguments, **options)


def _row(
    metric: str, value: Any, *, label: str | None = None, predicted: str | None = None, primary: bool = False
) -> Row:
    return {"metric": metric, "label": label, "predicted": predicted, "value": float(value), "primary": primary}
