"""Facts of the stages of a run's recipe: sparsity, agreement with the teacher, differences of conversions."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from intaglio.errors import UserError
from intaglio.kinds import kind_of
from intaglio.metrics import MULTI_LABEL, SINGLE_LABEL
from intaglio.predictions import Predictions, ReadOnce
from intaglio.store import open_artifact

_Row = dict[str, Any]
# Of a stage's record, what the summary needs.
_OF_A_STAGE = ("stage", "train_seconds", "conversion", "warnings", "energy")


class InCommon:
    """What many runs of a study have in common, read once: records of stages, tasks, predictions."""

    def __init__(self) -> None:
        self._records: dict[Path, _Row] = {}
        self._tasks: dict[Path, tuple[_Row, _Row]] = {}
        self.predictions = ReadOnce()

    def record(self, checkpoint: Path, content: Mapping[str, Any] | None = None) -> _Row:
        """Return what is needed of a checkpoint's training.json, whose content may be known."""
        if checkpoint not in self._records:
            content = read_json(checkpoint / "training.json") if content is None else content
            self._records[checkpoint] = {name: content[name] for name in _OF_A_STAGE if name in content}
        return self._records[checkpoint]

    def task(self, data: Path) -> tuple[_Row, _Row]:
        """Return the facts of [data], and the content of its task.json."""
        if data not in self._tasks:
            self._tasks[data] = open_artifact(data, "data"), read_json(data / "task.json")
        return self._tasks[data]


def read_json(path: Path) -> _Row:
    """Return the content of a JSON file of an artifact.

    Raises:
        UserError: it cannot be read.
    """
    try:
        content: _Row = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); delete its folder and run again") from error
    return content


def trained_seconds(stages: Sequence[str], shared: InCommon) -> dict[str, float]:
    """Return the training time of every stage of a recipe, by the folder of its checkpoint."""
    return {folder: float(shared.record(Path(folder))["train_seconds"]) for folder in stages}


def conversions(stages: Sequence[str], shared: InCommon) -> list[_Row]:
    """Return the recorded conversions of a recipe's stages, from the folders of their checkpoints."""
    records = [shared.record(Path(folder)) for folder in stages]
    return [{"stage": record["stage"], **record["conversion"]} for record in records if record.get("conversion")]


def warnings(stages: Sequence[str], shared: InCommon) -> list[str]:
    """Return the warnings of a recipe's trainings, from the folders of their checkpoints."""
    records = [shared.record(Path(folder)) for folder in stages]
    return [f"{record['stage']}: {warning}" for record in records for warning in record.get("warnings", [])]


def exported(facts: Mapping[str, Any]) -> list[_Row]:
    """Return the export as a conversion, from the facts of the exported file in a profile's manifest."""
    if "difference" not in facts:
        return []
    return [{"stage": "export", **{name: facts[name] for name in ("measure", "difference", "tolerance")}}]


def share_of_zeros(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the share of zeros among all weights; None if none were pruned."""
    return sum(row["zeros"] for row in rows) / sum(row["weights"] for row in rows) if rows else None


def agreement(mine: Predictions, teacher: Path, test_set: str, task: Mapping[str, Any], predictions: ReadOnce) -> _Row:
    """Return the agreement of predictions with the teacher's: columns teacher_agreement and teacher_kl.

    teacher_kl is that of the probabilities, mean over the labels of a multi-label task; regression has none.

    The result is empty if the teacher's predictions are missing, damaged or for other examples.

    Args:
        mine: predictions of the run.
        teacher: [evaluation] artifact of the teacher.
        test_set: the examples to compare on.
        task: the content of the data's task.json.
        predictions: reads the teacher's.
    """
    try:
        theirs = predictions.of(teacher, test_set, task)
    except UserError:
        return {}
    if not mine.ids.equals(theirs.ids):
        return {}
    kind = kind_of(task)
    changed = kind.changed(theirs.predicted, mine.predicted, task)
    found: _Row = {"teacher_agreement": float((~changed).mean())}
    if kind.name in _CHOICES:
        choices = (_CHOICES[kind.name](np.asarray(given.outputs, np.float64)) for given in (theirs, mine))
        log_p, log_q = (log_softmax(logits, axis=-1) for logits in choices)
        found["teacher_kl"] = float((np.exp(log_p) * (log_p - log_q)).sum(-1).mean())
    return found


# From logits to those of independent choices, [..., alternatives]: a label of many is chosen, or is not.
_CHOICES: Mapping[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    SINGLE_LABEL: lambda logits: logits,
    MULTI_LABEL: lambda logits: np.stack([logits, np.zeros_like(logits)], axis=-1),
}
