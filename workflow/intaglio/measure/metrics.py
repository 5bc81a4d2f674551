"""Metrics of predictions, as rows of the metrics table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax
from sklearn import metrics as sk

from intaglio.errors import UserError
from intaglio.metrics import named
from intaglio.tasks.kinds import classes_of, kind_of

_Row = dict[str, Any]
_Integers = NDArray[np.int64]


def metric_rows(task: Mapping[str, Any], targets: _Integers, outputs: NDArray[Any]) -> list[_Row]:
    """Return the metrics of one test set.

    Args:
        task: the content of the data's task.json.
        targets: true classes, [examples], as indices of the task's labels; at least one example.
        outputs: outputs of the model, [examples, outputs].

    Returns:
        Rows with metric, label, predicted, value, primary: one per metric and one for the loss, then `per_class`, then
            `confusion_counts`.

    Raises:
        UserError: a target is not one of the classes, or the task does not have the primary metric.
    """
    kind, classes, names, primary = kind_of(task), classes_of(task), task["labels"], task["metric"]
    wanted = kind.outputs(classes)
    if outputs.shape != (len(targets), wanted) or targets.min() < 0 or targets.max() >= len(names):
        raise UserError(
            f"metrics: logits of shape {list(outputs.shape)} and labels {targets.min()} to {targets.max()} do not fit "
            f"{len(targets)} examples of {len(names)} classes; was the checkpoint trained on another task?"
        )
    reason = named(primary).refusal(classes)
    if reason:
        raise UserError(f"metric: {reason}")
    judged = kind.judged(targets, outputs)
    values = {metric.name: metric.compute(judged, classes) for metric in kind.metrics(classes)}
    values["loss"] = cross_entropy(targets, outputs)
    rows = [_row(metric, value, primary=metric == primary) for metric, value in values.items()]
    predictions = judged.predictions
    return [*rows, *per_class(targets, predictions, names), *confusion_counts(targets, predictions, names)]


def never_predicted(targets: _Integers, predictions: _Integers, names: Sequence[str]) -> list[str]:
    """Return the classes that occur but are never predicted."""
    missing = sorted(set(targets.tolist()) - set(predictions.tolist()))
    return [names[index] for index in missing]


def cross_entropy(labels: _Integers, logits: NDArray[Any]) -> float:
    """Return the mean negative log-likelihood (natural logarithm) of the true classes.

    scikit-learn's log_loss is not used: it clips probabilities, which hides how wrong a confident model is.
    """
    likelihood = log_softmax(logits.astype(np.float64), axis=1)
    return float(-likelihood[np.arange(len(labels)), labels].mean())


def per_class(labels: _Integers, predictions: _Integers, names: Sequence[str]) -> list[_Row]:
    """Return class_precision, class_recall, class_f1 and class_accuracy of every class.

    class_accuracy is the accuracy of the class against the rest: the share of all examples for which "is it this
    class?" is answered correctly.
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


def confusion_counts(labels: _Integers, predictions: _Integers, names: Sequence[str]) -> list[_Row]:
    """Return, for every true class and every predicted class, the number of examples."""
    matrix = sk.confusion_matrix(labels, predictions, labels=list(range(len(names))))
    return [
        _row("confusion", matrix[true, predicted], label=names[true], predicted=names[predicted])
        for true in range(len(names))
        for predicted in range(len(names))
    ]


def _row(
    metric: str, value: Any, *, label: str | None = None, predicted: str | None = None, primary: bool = False
) -> _Row:
    return {"metric": metric, "label": label, "predicted": predicted, "value": float(value), "primary": primary}
