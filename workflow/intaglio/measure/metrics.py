"""Metrics of predictions, as rows of the metrics table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics as sk

from intaglio.errors import UserError
from intaglio.kinds import classes_of, kind_of
from intaglio.kinds.answers import answerable
from intaglio.kinds.thresholds import DEFAULT
from intaglio.metrics import MULTI_LABEL, QUESTION_ANSWERING, SINGLE_LABEL, Classes, Judged, why_not
from intaglio.metrics.answers import OF_ANSWERS

_Row = dict[str, Any]
_Integers = NDArray[np.int64]


def metric_rows(
    task: Mapping[str, Any],
    targets: NDArray[Any],
    outputs: NDArray[Any],
    thresholds: Sequence[float] | None = None,
    loss: Callable[[], float] | None = None,
) -> list[_Row]:
    """Return the metrics of one test set.

    Args:
        task: the content of the data's task.json.
        targets: true values, as `metrics.Judged` describes them; at least one example.
        outputs: outputs of the examples, as `TaskKind.decode` takes them.
        thresholds: as tuned; None for the default.
        loss: returns the mean loss; None to compute it from targets and outputs, which question answering cannot.

    Returns:
        Rows with metric, label, predicted, value, primary: one per metric and one for the loss, then `per_class`, then
            `confusion_counts`, or `label_counts` and the thresholds of a multi-label task. Regression has neither;
            question answering has its metrics over the questions with and without an answer, where both occur.

    Raises:
        UserError: a target is not one of the classes, or the task does not have the primary metric.
    """
    kind, classes, names, primary = kind_of(task), classes_of(task), task["labels"], task["metric"]
    _check(kind.name, targets, outputs, len(names))
    reason = why_not(primary, kind.name, classes)
    if reason:
        raise UserError(f"metric: {reason}")
    judged = kind.judged(targets, outputs, thresholds)
    values = {metric.name: metric.compute(judged, classes) for metric in kind.metrics(classes)}
    values["loss"] = kind.mean_loss(targets, outputs) if loss is None else loss()
    rows = [_row(metric, value, primary=metric == primary) for metric, value in values.items()]
    details = _DETAILS.get(kind.name)
    return [*rows, *(details(judged, names, thresholds) if details else ())]


def _check(kind: str, targets: NDArray[Any], outputs: NDArray[Any], classes: int) -> None:
    if kind == QUESTION_ANSWERING:
        return
    fits = outputs.shape == (len(targets), classes)
    if kind == SINGLE_LABEL:
        fits = fits and targets.min() >= 0 and targets.max() < classes
    elif kind == MULTI_LABEL:
        fits = fits and targets.shape == outputs.shape
    if not fits:
        raise UserError(
            f"metrics: logits of shape {list(outputs.shape)} and labels {targets.min()} to {targets.max()} do not fit "
            f"{len(targets)} examples of {classes} classes; was the checkpoint trained on another task?"
        )


def one_sided(task: Mapping[str, Any], targets: NDArray[Any], predictions: NDArray[Any]) -> list[str]:
    """Return a warning for every class that occurs but is never predicted, or if all predicted values are equal."""
    names, kind = task["labels"], kind_of(task).name
    if kind == SINGLE_LABEL:
        missing = sorted(set(targets.tolist()) - set(predictions.tolist()))
    elif kind == MULTI_LABEL:
        missing = np.flatnonzero(targets.any(0) & ~predictions.any(0)).tolist()
    elif kind == QUESTION_ANSWERING:
        return ["no question is answered"] if answerable(targets).any() and not predictions.astype(bool).any() else []
    else:
        return ["all predictions are equal"] if len(predictions) > 1 and not np.ptp(predictions) else []
    return [f"{names[index]!r} is never predicted" for index in missing]


def per_class(labels: NDArray[Any], predictions: NDArray[Any], names: Sequence[str]) -> list[_Row]:
    """Return class_precision, class_recall, class_f1 and class_accuracy of every class.

    class_accuracy is the accuracy of the class against the rest: the share of all examples for which "is it this
    class?", or of a multi-label task "does it have this label?", is answered correctly.
    """
    declared = list(range(len(names)))
    precision, recall, f1, _ = sk.precision_recall_fscore_support(
        labels, predictions, labels=declared, average=None, zero_division=0
    )
    if labels.ndim == 2:
        accuracy = list((labels == predictions).mean(0))
    else:
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


def label_counts(labels: NDArray[Any], predictions: NDArray[Any], names: Sequence[str]) -> list[_Row]:
    """Return, for every label of a multi-label task, the 2 x 2 table of its decisions."""
    tables = sk.multilabel_confusion_matrix(labels, predictions)
    cells = {
        "true_positives": tables[:, 1, 1],
        "false_negatives": tables[:, 1, 0],
        "false_positives": tables[:, 0, 1],
        "true_negatives": tables[:, 0, 0],
    }
    return [
        _row(metric, value, label=name)
        for metric, values in cells.items()
        for name, value in zip(names, values, strict=True)
    ]


def _of_classes(judged: Judged, names: Sequence[str], _: Sequence[float] | None) -> list[_Row]:
    targets, predictions = judged.targets, judged.predictions
    return [*per_class(targets, predictions, names), *confusion_counts(targets, predictions, names)]


def _of_labels(judged: Judged, names: Sequence[str], thresholds: Sequence[float] | None) -> list[_Row]:
    targets, predictions = judged.targets, judged.predictions
    used = [DEFAULT] * len(names) if thresholds is None else thresholds
    shown = [_row("class_threshold", value, label=name) for name, value in zip(names, used, strict=True)]
    return [*per_class(targets, predictions, names), *shown, *label_counts(targets, predictions, names)]


def _of_questions(judged: Judged, _: Sequence[str], __: Sequence[float] | None) -> list[_Row]:
    """Return the metrics over the questions with an answer, and over those without, if there are both."""
    has = answerable(judged.targets)
    if has.all() or not has.any():
        return []
    return [
        _row(f"class_{metric.name}", metric.compute(judged.take(np.flatnonzero(has == side)), Classes(2)), label=label)
        for metric in OF_ANSWERS
        for side, label in ((1, "with an answer"), (0, "without an answer"))
    ]


_DETAILS: Mapping[str, Callable[[Judged, Sequence[str], Sequence[float] | None], list[_Row]]] = {
    SINGLE_LABEL: _of_classes,
    MULTI_LABEL: _of_labels,
    QUESTION_ANSWERING: _of_questions,
}


def _row(
    metric: str, value: Any, *, label: str | None = None, predicted: str | None = None, primary: bool = False
) -> _Row:
    return {"metric": metric, "label": label, "predicted": predicted, "value": float(value), "primary": primary}
