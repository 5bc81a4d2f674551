"""Test examples that a variant classifies rightly and float wrongly (mended), or the other way round (broken)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pyarrow import dataset
from scipy.special import softmax

from intaglio import schemas
from intaglio.errors import UserError
from intaglio.metrics import SINGLE_LABEL
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
        task: content of its task.json. Only classification with one label has flips.
        private: leave texts out.
    """
    if task.get("kind") != SINGLE_LABEL:
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
        found += [{**key, **flip} for flip in _flips(mine, theirs, task["labels"])]
    texts = {} if private or not found else _texts(data, runs[0][0]["test_set"], [row["id"] for row in found])
    return [{**row, **texts.get(row["id"], {})} for row in found]


def _flips(run: Predictions, baseline: Predictions, labels: Sequence[str]) -> list[_Row]:
    """Return the flips of one run, without its key and without texts."""
    true, mine, theirs = run.true, run.predicted, baseline.predicted
    rows = np.arange(len(true))
    probability, before = (softmax(of.outputs, axis=-1)[rows, true] for of in (run, baseline))
    found = []
    for flip, flipped in (
        ("mended", (mine == true) & (theirs != true)),
        ("broken", (mine != true) & (theirs == true)),
    ):
        places = np.flatnonzero(flipped)
        for place in places[np.argsort(-np.abs(probability - before)[places], kind="stable")][:_KEPT]:
            found.append(
                {
                    "flip": flip,
                    "flips": len(places),
                    "id": run.ids[place].as_py(),
                    "label": labels[true[place]],
                    "baseline_prediction": labels[theirs[place]],
                    "prediction": labels[mine[place]],
                    "baseline_probability": float(before[place]),
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
