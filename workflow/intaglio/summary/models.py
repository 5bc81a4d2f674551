"""One row per model: the metrics of the baseline variant with their intervals, and the model chosen on validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from intaglio.metrics import named
from intaglio.predictions import ReadOnce
from intaglio.schemas.summary import SCORES
from intaglio.statistics.seeds import mean_over_seeds
from intaglio.summary.judged import judged_runs, variant_and_seed
from intaglio.summary.runs import Record
from intaglio.summary.variants import BASELINE, mean_sd

_Row = dict[str, Any]


def model_row(
    records: Sequence[Record], backends: Sequence[Mapping[str, Any]], predictions: ReadOnce, resamples: int
) -> _Row:
    """Return the row of model_comparison.parquet of one task and model; none is chosen yet.

    A model is its variant `float`, or the study's first variant if there is none.

    Args:
        records: all their runs.
        backends: their rows of backends.parquet.
        predictions: reads theirs.
        resamples: of the bootstrap.
    """
    names = list(dict.fromkeys(record.row["variant"] for record in records))
    variant = BASELINE if BASELINE in names else names[0]
    return _row([record for record in records if record.row["variant"] == variant], backends, predictions, resamples)


def _row(group: Sequence[Record], backends: Sequence[Mapping[str, Any]], predictions: ReadOnce, resamples: int) -> _Row:
    done = [record for record in group if record.row["status"] == "ok"]
    row: _Row = {name: group[0].row[name] for name in ("study", "task", "model", "variant")}
    row |= {"n": len(done), "planned": len(group), "chosen": False}
    if not done:
        return row
    row |= {name: done[0].row[name] for name in ("test_set", "primary_metric")}
    row["validation_mean"], row["validation_sd"] = mean_sd(record.row["validation_value"] for record in done)
    row |= _intervals(done, row["primary_metric"], predictions, resamples)
    row["size_mb_mean"], _ = mean_sd(record.row.get("size_mb") for record in done)
    key = ("task", "model", "variant")
    timed = [b for b in backends if b["fastest"] and all(b[name] == row[name] for name in key)]
    for fastest in sorted(timed, key=lambda b: b["device"] != "cpu")[:1]:
        row |= {name: fastest[name] for name in ("device", "backend", "latency_ms_mean")}
    return row


def _intervals(done: Sequence[Record], primary: str, predictions: ReadOnce, resamples: int) -> _Row:
    """Return the means of metrics over runs with their intervals, as columns."""
    columns = {score: (score, score) for score, _, _ in SCORES if done[0].row.get(score) is not None}
    columns["primary"] = primary, "primary_value"
    metrics = [named(metric) for metric, _ in columns.values()]
    judged = judged_runs(done, metrics, predictions, resamples)
    row: _Row = {}
    for place, (metric, (column, (_, of_run))) in enumerate(zip(metrics, columns.items(), strict=True)):
        values = [record.row[of_run] for record in done]
        mean = mean_over_seeds(values, np.stack([judged[variant_and_seed(record)].resampled[place] for record in done]))
        # Student's t, of few seeds, knows no bounds.
        low, high = np.clip(mean.interval(), *metric.bounds).tolist()
        row |= {f"{column}_mean": mean.value, f"{column}_low": low, f"{column}_high": high}
    return row


def choose_models(rows: Sequence[_Row]) -> None:
    """Mark the model of each task that is best on the validation split; the first of equals."""
    for task in dict.fromkeys(row["task"] for row in rows):
        judged = [row for row in rows if row["task"] == task and row.get("validation_mean") is not None]
        if judged:
            sign = 1 if named(judged[0]["primary_metric"]).higher_is_better else -1
            max(judged, key=lambda row: sign * row["validation_mean"])["chosen"] = True
