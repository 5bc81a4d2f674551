"""The metrics of tasks.

A metric is one entry of `KNOWN_METRICS`. The check of the study file, the selection of weights in training, evaluation,
intervals, tables and plots take its name, label, unit and function from there.
"""

from __future__ import annotations

from intaglio.errors import UserError, nearest
from intaglio.metrics.answers import OF_ANSWERS
from intaglio.metrics.metric import (
    MULTI_LABEL,
    QUESTION_ANSWERING,
    REGRESSION,
    SINGLE_LABEL,
    Classes,
    Judged,
    Means,
    Metric,
)
from intaglio.metrics.multi_label import OF_LABEL_SETS
from intaglio.metrics.regression import OF_VALUES
from intaglio.metrics.single_label import OF_CLASSES

__all__ = [
    "KNOWN_METRICS",
    "MULTI_LABEL",
    "QUESTION_ANSWERING",
    "REGRESSION",
    "SINGLE_LABEL",
    "Classes",
    "Judged",
    "Means",
    "Metric",
    "label_of",
    "named",
    "why_not",
]

KNOWN_METRICS: dict[str, Metric] = {
    metric.name: metric for metric in (*OF_CLASSES, *OF_LABEL_SETS, *OF_VALUES, *OF_ANSWERS)
}


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


def why_not(name: str, kind: str, classes: Classes) -> str | None:
    """Return why a metric does not apply to tasks of a kind with these classes; None if it does."""
    metric = KNOWN_METRICS[name]
    if kind not in metric.kinds:
        return f"{name} is not a metric of {kind.replace('_', ' ')}; take one of {_others(kind)}"
    if metric.of_one_class and classes.count != 2:
        return f"{name} is for two classes, the task has {classes.count}; take one of {_others(kind)}"
    if metric.of_one_class and classes.positive is None:
        return f"{name} is of one class: name it with `positive`"
    return None


def _others(kind: str) -> str:
    return ", ".join(name for name, other in KNOWN_METRICS.items() if kind in other.kinds and not other.of_one_class)
