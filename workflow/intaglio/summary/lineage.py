"""Facts of the stages of a run's recipe: sparsity, agreement with the teacher, differences of conversions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from intaglio import schemas
from intaglio.errors import UserError
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


def agreement(evaluation: Path, teacher: Path, test_set: str) -> _Row:
    """Return the agreement of predictions with the teacher's: columns teacher_agreement and teacher_kl.

    The result is empty if the run is its own teacher, or if the teacher's predictions are missing, damaged or for other
    examples.

    Args:
        evaluation: [evaluation] artifact of the run.
        teacher: [evaluation] artifact of the teacher.
        test_set: the examples to compare on.
    """
    if evaluation == teacher:
        return {}
    ids, mine = _logits(evaluation, test_set)
    try:
        teacher_ids, theirs = _logits(teacher, test_set)
    except UserError:
        return {}
    if not np.array_equal(ids, teacher_ids):
        return {}
    log_p, log_q = log_softmax(theirs, axis=1), log_softmax(mine, axis=1)
    return {
        "teacher_agreement": float((mine.argmax(1) == theirs.argmax(1)).mean()),
        "teacher_kl": float((np.exp(log_p) * (log_p - log_q)).sum(1).mean()),
    }


def _logits(evaluation: Path, test_set: str) -> tuple[Any, NDArray[np.float64]]:
    """Return ids and logits [examples, labels], by id."""
    open_artifact(evaluation, "evaluation")
    table = schemas.read_table(evaluation / "predictions.parquet", schemas.PREDICTIONS)
    rows = np.flatnonzero(table.column("test_set").to_numpy() == test_set)
    ids = table.column("id").to_numpy()[rows]
    logits = np.stack(table.column("logits").take(rows).to_numpy()).astype(np.float64)
    order = np.argsort(ids, kind="stable")
    return ids[order], logits[order]


def _record(folder: Path) -> _Row:
    try:
        record: _Row = json.loads((folder / "training.json").read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"{folder}: no readable training.json ({error}); delete the folder and run again") from error
    return record
