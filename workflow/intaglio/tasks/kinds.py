"""Kinds of task: what training, evaluation and statistics need to know about targets and outputs.

The name of the kind is written into task.json of a data artifact; all who work on the task look the kind up by it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from intaglio.errors import UserError, nearest
from intaglio.metrics import KNOWN_METRICS, SINGLE_LABEL, Classes, Judged, Metric, named
from intaglio.schemas import PREDICTIONS

if TYPE_CHECKING:
    import torch

_Integers = NDArray[np.int64]
# Takes a random generator, a number of resamples and a number of examples; returns drawn rows [resamples, rows].
Draw = Callable[[np.random.Generator, int, int], _Integers]


@dataclass(frozen=True)
class TaskKind:
    """A kind of task.

    Attributes:
        name: transformers' name (`problem_type` of a configuration), which decides the model's head.
        outputs: returns the number of the head's outputs.
        loss: maps outputs [examples, outputs] and targets [examples] to the sum of their losses, in the outputs' dtype.
        decode: maps outputs [examples, outputs] to predictions [examples].
        predictions: the schema of the table of predictions.
        strata: maps targets to the strata whose shares splits preserve.
        draw: resamples examples for intervals.
    """

    name: str
    outputs: Callable[[Classes], int]
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    decode: Callable[[NDArray[Any]], NDArray[Any]]
    predictions: Any
    strata: Callable[[Sequence[Any]], Sequence[int]]
    draw: Draw

    def metrics(self, classes: Classes) -> list[Metric]:
        """Return the metrics for a task of this kind with these classes."""
        return [
            metric for metric in KNOWN_METRICS.values() if self.name in metric.kinds and not metric.refusal(classes)
        ]

    def judged(self, targets: NDArray[Any], outputs: NDArray[Any]) -> Judged:
        """Return the arguments of metrics: targets, decoded predictions and outputs."""
        return Judged(targets, self.decode(outputs), outputs)

    def validation(
        self, metric: str, classes: Classes, targets: NDArray[Any], outputs: NDArray[Any]
    ) -> dict[str, float]:
        """Return the value of a metric by its name, and the mean loss over the examples, computed in float64."""
        import torch

        loss = self.loss(torch.from_numpy(outputs).double(), torch.tensor(targets)) / len(targets)
        return {metric: named(metric).compute(self.judged(targets, outputs), classes), "loss": float(loss)}


def _cross_entropy(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    from torch.nn.functional import cross_entropy

    return cross_entropy(outputs, targets, reduction="sum")


def _most_likely(outputs: NDArray[Any]) -> _Integers:
    predictions: _Integers = outputs.argmax(axis=1)
    return predictions


def draw_examples(random: np.random.Generator, resamples: int, examples: int) -> _Integers:
    """Draw examples with replacement and independently, [resamples, examples]."""
    return random.integers(0, examples, (resamples, examples))


KINDS: dict[str, TaskKind] = {
    kind.name: kind
    for kind in (
        TaskKind(
            SINGLE_LABEL,
            outputs=lambda classes: classes.count,
            loss=_cross_entropy,
            decode=_most_likely,
            predictions=PREDICTIONS,
            strata=lambda targets: targets,
            draw=draw_examples,
        ),
    )
}


def kind_of(task: Mapping[str, Any]) -> TaskKind:
    """Return the kind of a task, from the content of its task.json.

    Raises:
        UserError: there is no such kind.
    """
    name = task.get("kind", "")
    if name not in KINDS:
        raise UserError(f"task.json: unknown kind of task {name!r}, {nearest(name, KINDS)}; make the data again")
    return KINDS[name]


def classes_of(task: Mapping[str, Any]) -> Classes:
    """Return the classes of a task, from the content of its task.json."""
    labels, positive = task["labels"], task.get("positive")
    return Classes(len(labels), None if positive is None else labels.index(positive))
