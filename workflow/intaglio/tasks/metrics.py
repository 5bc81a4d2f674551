"""The metrics by which tasks are judged, as scikit-learn computes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from sklearn.metrics import accuracy_score, balanced_accuracy_score, cohen_kappa_score, f1_score, matthews_corrcoef

from intaglio.errors import UserError, nearest

Metric = Callable[[Sequence[int] | Any, Sequence[int] | Any], float]

_METRICS: dict[str, Metric] = {
    "accuracy": accuracy_score,
    "f1_macro": partial(f1_score, average="macro", zero_division=0.0),
    # Of the second label, as GLUE has it for MRPC and QQP.
    "f1": partial(f1_score, pos_label=1, zero_division=0.0),
    "balanced_accuracy": balanced_accuracy_score,
    "matthews": matthews_corrcoef,
    "cohen_kappa": cohen_kappa_score,
}


def primary_metric(name: str) -> Metric:
    """Return the function (labels, predictions) -> value, the greater the better, of a metric that a task can name.

    Raises:
        UserError: there is no such metric.
    """
    if name not in _METRICS:
        raise UserError(f"metric: unknown metric {name!r}, {nearest(name, _METRICS)}")
    return _METRICS[name]
