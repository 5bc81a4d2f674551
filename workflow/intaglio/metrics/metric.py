"""What a metric is, and what it is computed from."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
# Names of the kinds of task: transformers' `problem_type`.
SINGLE_LABEL = "single_label_classification"
MULTI_LABEL = "multi_label_classification"
REGRESSION = "regression"
# transformers has no `problem_type` for it, but models of its own.
QUESTION_ANSWERING = "question_answering"


@dataclass(frozen=True)
class Classes:
    """The classes of a classification task; a regression task has one output in their place.

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
        targets: for single-label classification the indices of classes, int64 [examples]; for multi-label
            classification 1 for each label that an example has, else 0, [examples, labels]; for regression float64
            [examples]; for question answering lists of the accepted answers, [questions].
        predictions: like `targets`; for question answering texts.
        outputs: the model's outputs, [examples, outputs]; None where they are not known.
    """

    targets: NDArray[Any]
    predictions: NDArray[Any]
    outputs: NDArray[Any] | None = None

    def take(self, rows: NDArray[np.int64]) -> Judged:
        """Return the examples at these positions, which may repeat."""
        outputs = None if self.outputs is None else self.outputs[rows]
        return Judged(self.targets[rows], self.predictions[rows], outputs)


@dataclass(frozen=True)
class Means:
    """A metric as a function of means over examples, so that intervals need not call it on every resample.

    Attributes:
        of_examples: maps true and predicted values to numbers of every example, [examples, numbers].
        combine: maps the means of these numbers, [..., numbers], to values of the metric, [...].
    """

    of_examples: Callable[[Judged], Floats]
    combine: Callable[[Floats], Floats]

    def __call__(self, judged: Judged, _: Classes) -> float:
        """Return the value of the metric."""
        return float(self.combine(self.of_examples(judged).mean(0)))


@dataclass(frozen=True)
class Metric:
    """A metric.

    Attributes:
        name: name in study files and machine-readable tables.
        label: readable name, in tables and plots.
        unit: unit of the value times `scale`; empty for values in the unit of the targets.
        compute: returns the value for at least one example; always finite.
        kinds: names of the kinds of task that it applies to.
        higher_is_better: whether higher values are better.
        of_one_class: whether it applies to one of two classes, which the task has to name.
        from_confusion: faster computation for intervals of single-label classification, from counts [..., true class,
            predicted class], float64, to values [...].
        means: faster computation for intervals of the other kinds. Without either, intervals call `compute` on every
            resample.
    """

    name: str
    label: str
    unit: Literal["%", "× 100", ""]
    compute: Callable[[Judged, Classes], float]
    kinds: frozenset[str] = frozenset({SINGLE_LABEL})
    higher_is_better: bool = True
    of_one_class: bool = False
    from_confusion: Callable[[Floats, Classes], Floats] | None = None
    means: Means | None = None

    @property
    def axis(self) -> str:
        """The label with its unit, for an axis."""
        return f"{self.label}, %" if self.unit == "%" else f"{self.label} {self.unit}".strip()

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the largest value that it can have: of shares, of correlations, and of errors."""
        return {"%": (0.0, 1.0), "× 100": (-1.0, 1.0), "": (0.0, math.inf)}[self.unit]

    @property
    def scale(self) -> int:
        """The factor from values to what is shown."""
        return 100 if self.unit else 1


def ratio(above: Floats, below: Floats) -> Floats:
    """Divide; 0 / 0 is 0."""
    return np.divide(above, below, out=np.zeros_like(above), where=below != 0)


def mean_f1(hits: Floats, true: Floats, predicted: Floats) -> Floats:
    """Return the mean F1, [...], over the classes that are true or predicted for any example.

    A declared class that is neither does not count, so the best value is 1; without any it is 0.

    Args:
        hits: numbers of examples of which a class is true and predicted, [..., classes].
        true, predicted: numbers of examples of which it is true, and predicted.
    """
    scores = ratio(2 * hits, true + predicted)
    return ratio(scores.sum(-1), (true + predicted > 0).sum(-1).astype(np.float64))
