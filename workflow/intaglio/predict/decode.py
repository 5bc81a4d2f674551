"""From logits to predictions and probabilities, by kind of task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

SINGLE, MULTI, VALUE = "single_label_classification", "multi_label_classification", "regression"
# The kinds of task that can be bundled, by their names in task.json.
DECODED = (SINGLE, MULTI, VALUE)


def probabilities(kind: str, logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the probabilities of labels, [texts, labels]; of regression there are none, [texts, 0]."""
    wide = logits.astype(np.float64)
    if kind == VALUE:
        return wide[:, :0]
    if kind == MULTI:
        # exp of a large number is infinite, and its sigmoid 0, as it should be.
        with np.errstate(over="ignore"):
            sigmoid: NDArray[np.float64] = 1 / (1 + np.exp(-wide))
        return sigmoid
    powers = np.exp(wide - wide.max(1, keepdims=True))
    shares: NDArray[np.float64] = powers / powers.sum(1, keepdims=True)
    return shares


def decoded(
    kind: str, labels: Sequence[str], thresholds: Sequence[float] | None, logits: NDArray[np.float32]
) -> list[Any]:
    """Return what is predicted for each text: a label, a list of labels, or a value.

    Args:
        kind: kind of the task.
        labels: the labels, in the order of the logits.
        thresholds: of a multi-label task, the probabilities above which labels are predicted; None for 0.5.
        logits: float32 [texts, labels], of regression [texts, 1].
    """
    if kind == VALUE:
        values: list[Any] = logits[:, 0].astype(np.float64).tolist()
        return values
    if kind == SINGLE:
        return [labels[index] for index in logits.argmax(1)]
    above = probabilities(kind, logits) > np.asarray(0.5 if thresholds is None else thresholds)
    return [[label for label, has in zip(labels, row, strict=True) if has] for row in above]
