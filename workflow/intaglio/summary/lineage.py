"""Facts of the stages of a run's recipe: sparsity, agreement with the teacher, differences of conversions."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.special import log_softmax

from intaglio import schemas
from intaglio.errors import UserError
from intaglio.kinds import kind_of
from intaglio.metrics import MULTI_LABEL, SINGLE_LABEL
from intaglio.store import open_artifact

_Row = dict[str, Any]
# Of a stage's record, what the summary needs.
_OF_A_STAGE = ("stage", "train_seconds", "conversion", "warnings")
# Predictions that are kept in memory for runs with the same teacher, in examples.
_KEPT = 1_000_000


class InCommon:
    """What many runs of a study have in common, read once: records of stages, tasks, predictions of teachers."""

    def __init__(self) -> None:
        self._records: dict[Path, _Row] = {}
        self._tasks: dict[Path, tuple[_Row, _Row]] = {}
        self._predictions: dict[tuple[Path, str], Predictions] = {}

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

    def predictions(self, evaluation: Path, test_set: str, task: Mapping[str, Any]) -> Predictions:
        """Return predictions on a test set; those of the last few evaluations are kept."""
        key = evaluation, test_set
        if key not in self._predictions:
            open_artifact(evaluation, "evaluation")
            found = predictions(evaluation, test_set, task)
            while self._predictions and sum(map(_rows, self._predictions.values())) + _rows(found) > _KEPT:
                del self._predictions[next(iter(self._predictions))]
            self._predictions[key] = found
        return self._predictions[key]


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
    measured = {name: facts[name] for name in ("difference", "tolerance")}
    return [{"stage": "export", "measure": "largest difference of a logit", **measured}]


def share_of_zeros(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the share of zeros among all weights; None if none were pruned."""
    return sum(row["zeros"] for row in rows) / sum(row["weights"] for row in rows) if rows else None


def agreement(mine: Predictions, teacher: Path, test_set: str, task: Mapping[str, Any], shared: InCommon) -> _Row:
    """Return the agreement of predictions with the teacher's: columns teacher_agreement and teacher_kl.

    teacher_kl is that of the probabilities, mean over the labels of a multi-label task; regression has none.

    The result is empty if the teacher's predictions are missing, damaged or for other examples.

    Args:
        mine: predictions of the run.
        teacher: [evaluation] artifact of the teacher.
        test_set: the examples to compare on.
        task: the content of the data's task.json.
        shared: takes the teacher's predictions.
    """
    try:
        theirs = shared.predictions(teacher, test_set, task)
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


class Predictions(NamedTuple):
    """Predictions on a test set, by id: true and predicted values as in `metrics.Judged`, and outputs.

    `ids` is an Arrow array; outputs are None if they were not read.
    """

    ids: Any
    true: NDArray[Any]
    predicted: NDArray[Any]
    outputs: NDArray[np.float32] | None


def _rows(found: Predictions) -> int:
    return len(found.ids)


def predictions(evaluation: Path, test_set: str, task: Mapping[str, Any], outputs: bool = True) -> Predictions:
    """Return the predictions of an [evaluation] on a test set, whose artifact was checked; `outputs` reads them, too.

    Raises:
        UserError: the table is damaged.
    """
    columns = ["test_set", "id", "label", "prediction", *(["logits"] if outputs else [])]
    table = schemas.read_table(evaluation / "predictions.parquet", kind_of(task).predictions, columns)
    table = table.filter(pc.equal(table.column("test_set"), test_set))
    table = table.take(pc.sort_indices(table.column("id")))
    true, predicted, *rest = (schemas.as_array(table.column(name)) for name in columns[2:])
    return Predictions(table.column("id").combine_chunks(), true, predicted, rest[0] if rest else None)
