"""Test examples that a variant classifies rightly and float wrongly (mended), or the other way round (broken).

An example of a multi-label task is right if exactly its labels are predicted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pyarrow import dataset
from scipy.special import expit, softmax

from intaglio import schemas
from intaglio.errors import UserError
from intaglio.metrics import MULTI_LABEL, SINGLE_LABEL
from intaglio.predictions import Predictions, ReadOnce
from intaglio.tasks.stored import split_file

_Row = dict[str, Any]
# Examples that are kept of each kind, those whose probability changed most; characters of their texts.
_KEPT, _LONGEST = 10, 400


def flip_rows(
    runs: Sequence[tuple[Mapping[str, Any], Path]],
    baseline: str,
    predictions: ReadOnce,
    data: Path,
    task: Mapping[str, Any],
    private: bool,
) -> list[_Row]:
    """Return rows of flips.parquet: of each variant, in the first seed that it shares with float.

    Args:
        runs: rows of runs.parquet of one task and model with status ok, each with the folder of its predictions.
        baseline: name of the variant to compare with.
        predictions: reads those of the runs.
        data: the task's [data] artifact; without it, rows have no texts.
        task: content of its task.json. Only classification has flips.
        private: leave texts out.
    """
    if task.get("kind") not in (SINGLE_LABEL, MULTI_LABEL):
        return []
    of_float = {row["seed"]: folder for row, folder in runs if row["variant"] == baseline}
    first: dict[str, tuple[Mapping[str, Any], Path]] = {}
    for row, folder in runs:
        if row["variant"] != baseline and row["seed"] in of_float:
            first.setdefault(row["variant"], (row, folder))
    found = []
    for row, folder in first.values():
        key = {field.name: row[field.name] for field in schemas.KEYS}
        mine, theirs = (predictions.of(of, row["test_set"], task) for of in (folder, of_float[row["seed"]]))
        found += [{**key, **flip} for flip in _flips(mine, theirs, task)]
    texts = {} if private or not found else _texts(data, runs[0][0]["test_set"], [row["id"] for row in found])
    return [{**row, **texts.get(row["id"], {})} for row in found]


def _flips(run: Predictions, baseline: Predictions, task: Mapping[str, Any]) -> list[_Row]:
    """Return the flips of one run, without its key and without texts."""
    several, labels = task["kind"] == MULTI_LABEL, task["labels"]
    mine, theirs = (expit(of.outputs) if several else softmax(of.outputs, axis=-1) for of in (run, baseline))
    right, before = (of.predicted == of.true for of in (run, baseline))
    label = run.true
    if several:
        label = np.where(run.predicted != baseline.predicted, np.abs(mine - theirs), -1.0).argmax(1)
        right, before = right.all(1), before.all(1)
    probability, beside = (np.take_along_axis(of, label[:, None], 1)[:, 0] for of in (mine, theirs))

    def named(prediction: Any) -> str:
        return ", ".join(labels[index] for index in np.flatnonzero(prediction)) if several else labels[prediction]

    found = []
    for flip, flipped in (("mended", right & ~before), ("broken", before & ~right)):
        places = np.flatnonzero(flipped)
        for place in places[np.argsort(-np.abs(probability - beside)[places], kind="stable")][:_KEPT]:
            found.append(
                {
                    "flip": flip,
                    "flips": len(places),
                    "id": run.ids[place].as_py(),
                    "label": named(run.true[place]),
                    "baseline_prediction": named(baseline.predicted[place]),
                    "prediction": named(run.predicted[place]),
                    "probability_of": labels[label[place]],
                    "baseline_probability": float(beside[place]),
                    "probability": float(probability[place]),
                }
            )
    return found


def _texts(data: Path, test_set: str, ids: Sequence[str]) -> dict[str, _Row]:
    """Return the texts of examples, shortened, by id; empty if the data is not there."""
    try:
        split = dataset.dataset(split_file(data, test_set))
    except UserError:
        return {}
    columns = [name for name in ("text_a", "text_b") if name in split.schema.names]
    rows = split.to_table(columns=["id", *columns], filter=dataset.field("id").isin(list(ids))).to_pylist()
    return {row["id"]: {name: _shortened(row[name]) for name in columns} for row in rows}


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"
