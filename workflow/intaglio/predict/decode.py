"""From logits to predictions and probabilities, by kind of task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from intaglio.spans import answers_of

# The kinds of task, by their names in task.json.
SINGLE, MULTI, VALUE = "single_label_classification", "multi_label_classification", "regression"
QUESTIONS = "question_answering"


def probabilities(kind: str, outputs: NDArray[Any]) -> NDArray[np.float64]:
    """Return the probabilities of labels, [texts, labels]; values and answers have none, [texts, 0]."""
    if kind in (VALUE, QUESTIONS):
        return np.empty((len(outputs), 0))
    wide = outputs.astype(np.float64)
    if kind == MULTI:
        # exp of a large number is infinite, and its sigmoid 0, as it should be.
        with np.errstate(over="ignore"):
            sigmoid: NDArray[np.float64] = 1 / (1 + np.exp(-wide))
        return sigmoid
    powers = np.exp(wide - wide.max(1, keepdims=True))
    shares: NDArray[np.float64] = powers / powers.sum(1, keepdims=True)
    return shares


def decoded(kind: str, labels: Sequence[str], thresholds: Sequence[float] | None, outputs: NDArray[Any]) -> list[Any]:
    """Return what is predicted for each text: a label, a list of labels, a value, or an answer, empty if it has none.

    Args:
        kind: kind of the task.
        labels: the labels, in the order of the logits.
        thresholds: of a multi-label task, the probabilities above which labels are predicted; None for 0.5. Of answers,
            by how much the score of none has to be better; None for 0.
        outputs: logits, float32 [texts, labels], of regression [texts, 1]; of answers, `spans.OUTPUTS` [texts].
    """
    if kind == QUESTIONS:
        return list(answers_of(outputs, thresholds))
    if kind == VALUE:
        return list(outputs[:, 0].astype(np.float64).tolist())
    if kind == SINGLE:
        return [labels[index] for index in outputs.argmax(1)]
    above = probabilities(kind, outputs) > np.asarray(0.5 if thresholds is None else thresholds)
    return [[label for label, has in zip(labels, row, strict=True) if has] for row in above]
