"""Facts of the stages of a run's recipe: sparsity, agreement with the teacher, differences of conversions."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from intaglio import schemas
from intaglio.errors import UserError
from intaglio.kinds import kind_of
from intaglio.metrics import MULTI_LABEL, SINGLE_LABEL
from intaglio.store import open_artifact

_Row = dict[str, Any]


def trained_seconds(stages: Sequence[str]) -> dict[str, float]:
    """Return the training time of every stage of a recipe, by the folder of its checkpoint."""
    return {folder: float(_record(Path(folder))["train_seconds"]) for folder in stages}


def conversions(stages: Sequence[str]) -> list[_Row]:
    """Return the recorded conversions of a recipe's stages, from the folders of their checkpoints."""
    records = [_record(Path(folder)) for folder in stages]
    return [{"stage": record["stage"], **record["conversion"]} for record in records if record.get("conversion")]


def exported(facts: Mapping[str, Any]) -> list[_Row]:
    """Return the export as a conversion, from the facts of the exported file in a profile's manifest."""
    if "difference" not in facts:
        return []
    measured = {name: facts[name] for name in ("difference", "tolerance")}
    return [{"stage": "export", "measure": "largest difference of a logit", **measured}]


def sparsity(checkpoint: Path) -> list[_Row]:
    """Return the numbers of weights and of zeros of every linear layer; empty if none were pruned."""
    rows: list[_Row] = _record(checkpoint).get("sparsity", [])
    return rows


def share_of_zeros(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the share of zeros among all weights; None if none were pruned."""
    return sum(row["zeros"] for row in rows) / sum(row["weights"] for row in rows) if rows else None


def agreement(evaluation: Path, teacher: Path, test_set: str, task: Mapping[str, Any]) -> _Row:
    """Return the agreement of predictions with the teacher's: columns teacher_agreement and teacher_kl.

    teacher_kl is that of the probabilities, mean over the labels of a multi-label task; regression has none.

    The result is empty if the run is its own teacher, or if the teacher's predictions are missing, damaged or for other
    examples.

    Args:
        evaluation: [evaluation] artifact of the run.
        teacher: [evaluation] artifact of the teacher.
        test_set: the examples to compare on.
        task: the content of the data's task.json.
    """
    if evaluation == teacher:
        return {}
    mine = predictions(evaluation, test_set, task)
    try:
        theirs = predictions(teacher, test_set, task)
    except UserError:
        return {}
    if not np.array_equal(mine.ids, theirs.ids):
        return {}
    kind = kind_of(task)
    changed = kind.changed(theirs.predicted, mine.predicted, task)
    found: _Row = {"teacher_agreement": float((~changed).mean())}
    if kind.name in _CHOICES:
        choices = (_CHOICES[kind.name](given.outputs.astype(np.float64)) for given in (theirs, mine))
        log_p, log_q = (log_softmax(logits, axis=-1) for logits in choices)
        found["teacher_kl"] = float((np.exp(log_p) * (log_p - log_q)).sum(-1).mean())
    return found


# From logits to those of independent choices, [..., alternatives]: a label of many is chosen, or is not.
_CHOICES: Mapping[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    SINGLE_LABEL: lambda logits: logits,
    MULTI_LABEL: lambda logits: np.stack([logits, np.zeros_like(logits)], axis=-1),
}


class Predictions(NamedTuple):
    """Predictions on a test set, by id: true and predicted values as in `metrics.Judged`, and outputs."""

    ids: NDArray[Any]
    true: NDArray[Any]
    predicted: NDArray[Any]
    outputs: NDArray[np.float32]


def predictions(evaluation: Path, test_set: str, task: Mapping[str, Any]) -> Predictions:
    """Return the predictions of an [evaluation] on a test set.

    Raises:
        UserError: the artifact is damaged.
    """
    open_artifact(evaluation, "evaluation")
    table = schemas.read_table(evaluation / "predictions.parquet", kind_of(task).predictions)
    rows = np.flatnonzero(table.column("test_set").to_numpy() == test_set)
    order = rows[np.argsort(table.column("id").to_numpy()[rows], kind="stable")]
    columns = (schemas.as_array(table.column(name).take(order)) for name in ("id", "label", "prediction", "logits"))
    return Predictions(*columns)


def _record(folder: Path) -> _Row:
    try:
        record: _Row = json.loads((folder / "training.json").read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"{folder}: no readable training.json ({error}); delete the folder and run again") from error
    return record
