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
from intaglio.kinds import answers, strata
from intaglio.kinds.thresholds import label_sets, tuned_thresholds
from intaglio.metrics import (
    KNOWN_METRICS,
    MULTI_LABEL,
    QUESTION_ANSWERING,
    REGRESSION,
    SINGLE_LABEL,
    Classes,
    Judged,
    Metric,
    named,
    why_not,
)
from intaglio.schemas import PREDICTED_ANSWERS, PREDICTED_LABEL_SETS, PREDICTED_VALUES, PREDICTIONS
from intaglio.spans import answers_of, scores_of

if TYPE_CHECKING:
    import torch

_Integers = NDArray[np.int64]
# Takes a random generator, a number of resamples and a number of examples; returns drawn rows [resamples, rows].
Draw = Callable[[np.random.Generator, int, int], _Integers]
# A prediction of a regression task has changed if it moves by more than this share of the targets' deviation.
_MOVED = 0.25


def draw_examples(random: np.random.Generator, resamples: int, examples: int) -> _Integers:
    """Draw examples with replacement and independently, [resamples, examples]."""
    return random.integers(0, examples, (resamples, examples))


@dataclass(frozen=True)
class TaskKind:
    """A kind of task.

    Attributes:
        name: transformers' name (`problem_type` of a configuration), which decides the model's head; models for
            question answering are of their own classes.
        predictions: the schema of the table of predictions: the Arrow types of targets and of predictions.
        loss: maps logits [examples, outputs] and targets to the sum of the examples' losses, in the logits' dtype.
            For question answering these are of windows (`tokens.encoded`), logits [windows, length, 2].
        divergence: maps a teacher's logits, a student's and a temperature to divergences, [examples], float32 or
            wider.
        decode: maps outputs and thresholds (None for 0.5) to predictions, which are like targets. Outputs are the
            logits, [examples, outputs]; for question answering what `tokens.encoded` makes of them, [questions].
        changed: maps predictions before and after a conversion and the task to whether they differ, like predictions.
        by_class: maps predictions before a conversion and `changed` to those of each predicted class, by its index.
        strata: maps targets to the strata whose shares splits preserve.
        tune: maps targets and outputs on the validation split to thresholds, or to None if there is nothing to decide;
            None for kinds without thresholds.
        numbers: maps outputs to the numbers that are kept of them, [examples, numbers].
        draw: resamples examples for intervals.
    """

    name: str
    predictions: Any
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    divergence: Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]
    decode: Callable[[NDArray[Any], Sequence[float] | None], NDArray[Any]]
    changed: Callable[[NDArray[Any], NDArray[Any], Mapping[str, Any]], NDArray[np.bool_]]
    by_class: Callable[[NDArray[Any], NDArray[np.bool_]], dict[int, NDArray[np.bool_]]]
    strata: Callable[[NDArray[Any]], _Integers]
    tune: Callable[[NDArray[Any], NDArray[Any]], list[float] | None] | None = None
    numbers: Callable[[NDArray[Any]], NDArray[Any]] = np.asarray
    draw: Draw = draw_examples

    def metrics(self, classes: Classes) -> list[Metric]:
        """Return the metrics for a task of this kind with these classes."""
        return [metric for name, metric in KNOWN_METRICS.items() if not why_not(name, self.name, classes)]

    def judged(self, targets: NDArray[Any], outputs: NDArray[Any], thresholds: Sequence[float] | None = None) -> Judged:
        """Return the arguments of metrics: targets, decoded predictions and outputs."""
        return Judged(targets, self.decode(outputs, thresholds), outputs)

    def mean_loss(self, targets: NDArray[Any], outputs: NDArray[Any]) -> float:
        """Return the mean loss over the examples, computed in float64."""
        import torch

        return float(self.loss(torch.from_numpy(outputs).double(), torch.tensor(targets)) / len(targets))

    def validation(self, task: Mapping[str, Any], targets: NDArray[Any], outputs: NDArray[Any]) -> dict[str, float]:
        """Return the value of the task's metric by its name, and the mean loss of the examples.

        Thresholds are tuned on these examples, as they are when a stage ends: with thresholds of 0.5, a model that is
        not sure of anything yet predicts no label, whatever it has learnt, and the first evaluation would be the best.
        The loss of regression is that of standard scores, which is trained: in units of the targets' variance.
        """
        thresholds = None if self.tune is None else self.tune(targets, outputs)
        value = named(task["metric"]).compute(self.judged(targets, outputs, thresholds), classes_of(task))
        return {task["metric"]: value, "loss": self.mean_loss(targets, outputs) / task.get("deviation", 1.0) ** 2}


def _cross_entropy(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    from torch.nn.functional import cross_entropy

    return cross_entropy(outputs, targets, reduction="sum")


def _binary_cross_entropy(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the sum over examples of the mean over labels, as transformers computes it."""
    from torch.nn.functional import binary_cross_entropy_with_logits

    return binary_cross_entropy_with_logits(outputs, targets.to(outputs.dtype), reduction="sum") / outputs.shape[1]


def _squared_error(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (outputs[:, 0] - targets.to(outputs.dtype)).square().sum()


def divergence_of_classes(teacher: torch.Tensor, student: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return T^2 * KL(teacher || student) of softmax(logits / T), [examples] (Hinton et al. 2015, section 2).

    The factor T^2 keeps the magnitude of the gradient, which falls with 1 / T^2.

    Args:
        teacher, student: logits, [examples, classes].
        temperature: T.
    """
    from torch.nn.functional import kl_div

    log_p, log_q = ((_wide(logits) / temperature).log_softmax(-1) for logits in (teacher, student))
    return temperature**2 * kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)


def divergence_of_labels(teacher: torch.Tensor, student: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return the same for sigmoid(logits / T), mean over the labels, each of which an example has or not, [examples].

    Args:
        teacher, student: logits, [examples, labels].
        temperature: T.
    """
    # A sigmoid is a softmax over a logit and zero.
    teacher, student = (_wide(logits)[..., None] for logits in (teacher, student))
    pairs = [logits * logits.new_tensor([1.0, 0.0]) for logits in (teacher, student)]
    return divergence_of_classes(pairs[0], pairs[1], temperature).mean(-1)


def _squared_distance(teacher: torch.Tensor, student: torch.Tensor, _: float) -> torch.Tensor:
    return (_wide(teacher) - _wide(student)).square().mean(-1)


def _wide(outputs: torch.Tensor) -> torch.Tensor:
    import torch

    return outputs if outputs.dtype == torch.float64 else outputs.float()


def _most_likely(outputs: NDArray[Any], _: Sequence[float] | None = None) -> _Integers:
    predictions: _Integers = outputs.argmax(axis=1)
    return predictions


def _value(outputs: NDArray[Any], _: Sequence[float] | None = None) -> NDArray[np.float64]:
    return outputs[:, 0].astype(np.float64)


def _differ(before: NDArray[Any], after: NDArray[Any], _: Mapping[str, Any]) -> NDArray[np.bool_]:
    differ: NDArray[np.bool_] = before != after
    return differ


def _moved(before: NDArray[Any], after: NDArray[Any], task: Mapping[str, Any]) -> NDArray[np.bool_]:
    moved: NDArray[np.bool_] = np.abs(after - before) > _MOVED * task["deviation"]
    return moved


def _of_classes(before: NDArray[Any], changed: NDArray[np.bool_]) -> dict[int, NDArray[np.bool_]]:
    return {int(index): changed[before == index] for index in np.unique(before)}


def _of_labels(before: NDArray[Any], changed: NDArray[np.bool_]) -> dict[int, NDArray[np.bool_]]:
    return {int(index): changed[before[:, index] == 1, index] for index in np.flatnonzero(before.any(0))}


KINDS: dict[str, TaskKind] = {
    kind.name: kind
    for kind in (
        TaskKind(
            SINGLE_LABEL,
            predictions=PREDICTIONS,
            loss=_cross_entropy,
            divergence=divergence_of_classes,
            decode=_most_likely,
            changed=_differ,
            by_class=_of_classes,
            strata=strata.of_classes,
        ),
        TaskKind(
            MULTI_LABEL,
            predictions=PREDICTED_LABEL_SETS,
            loss=_binary_cross_entropy,
            divergence=divergence_of_labels,
            decode=label_sets,
            changed=_differ,
            by_class=_of_labels,
            strata=strata.of_label_sets,
            tune=tuned_thresholds,
        ),
        TaskKind(
            REGRESSION,
            predictions=PREDICTED_VALUES,
            loss=_squared_error,
            divergence=_squared_distance,
            decode=_value,
            changed=_moved,
            by_class=lambda *_: {},
            strata=strata.of_values,
        ),
        TaskKind(
            QUESTION_ANSWERING,
            predictions=PREDICTED_ANSWERS,
            loss=answers.loss_of_spans,
            divergence=answers.divergence_of_spans(divergence_of_classes),
            decode=answers_of,
            changed=_differ,
            by_class=lambda *_: {},
            strata=answers.answerable,
            tune=answers.tuned_no_answer,
            numbers=scores_of,
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


def threshold_names(task: Mapping[str, Any]) -> list[str]:
    """Return what the thresholds of a task decide on, from the content of its task.json: labels, or "no answer"."""
    return ["no answer"] if task["kind"] == QUESTION_ANSWERING else list(task["labels"])


def classes_of(task: Mapping[str, Any]) -> Classes:
    """Return the classes of a task, from the content of its task.json."""
    labels, positive = task["labels"], task.get("positive")
    return Classes(len(labels), None if positive is None else labels.index(positive))
