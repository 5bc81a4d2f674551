"""One row per variant: statistics over seeds, and the difference to `float` with its interval."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from intaglio.errors import UserError
from intaglio.kinds import classes_of, kind_of
from intaglio.metrics import Judged, Metric, named
from intaglio.summary import bootstrap
from intaglio.summary.hardware import of_one_device
from intaglio.summary.lineage import Predictions, predictions
from intaglio.summary.runs import Record

BASELINE = "float"
# Examples whose predictions are in memory at a time.
_EXAMPLES = 200_000
_OVER_SEEDS = {
    "primary": "primary_value",
    "accuracy": "accuracy",
    "f1_macro": "f1_macro",
    "jaccard": "jaccard",
    "f1_micro": "f1_micro",
    "subset_accuracy": "subset_accuracy",
    "pearson": "pearson",
    "spearman": "spearman",
    "exact_match": "exact_match",
    "answer_f1": "answer_f1",
    "train_seconds": "train_seconds",
    "total_train_seconds": "total_train_seconds",
    "size_mb": "size_mb",
    "sparse_mb": "sparse_mb",
    "zstd_mb": "zstd_mb",
    "sparsity": "sparsity",
    "nonzero": "nonzero",
    "teacher_agreement": "teacher_agreement",
    "teacher_kl": "teacher_kl",
}


def mean_sd(values: Iterable[float | None]) -> tuple[float | None, float | None]:
    """Return mean and standard deviation (n - 1) of the known values; None if there are too few."""
    known = [value for value in values if value is not None]
    return (statistics.fmean(known) if known else None, statistics.stdev(known) if len(known) > 1 else None)


def variant_rows(records: Sequence[Record], resamples: int) -> list[dict[str, Any]]:
    """Return the rows of variants.parquet of one task and model, in the order of the plan, from all their runs."""
    planned: dict[str, list[Record]] = {}
    for record in records:
        planned.setdefault(record.row["variant"], []).append(record)
    done = {name: {r.row["seed"]: r for r in runs if r.row["status"] == "ok"} for name, runs in planned.items()}
    finished = [record for runs in done.values() for record in runs.values()]
    facts = {(row["variant"], row["seed"]): row for row in of_one_device([record.row for record in finished])}
    baseline = done.get(BASELINE, {})
    values = resampled_runs(finished, named(finished[0].row["primary_metric"]), resamples) if baseline else {}
    rows = []
    for name, runs in done.items():
        row = _over_seeds(planned[name], [facts[name, seed] for seed in runs])
        common = [seed for seed in runs if seed in baseline]
        if common:
            row |= _against([facts[name, seed] for seed in common], [facts[BASELINE, seed] for seed in common])
            row["difference_low"], row["difference_high"] = bootstrap.interval(
                np.stack([values[name, seed] for seed in common]), np.stack([values[BASELINE, seed] for seed in common])
            )
        rows.append(row)
    return rows


def _over_seeds(planned: Sequence[Record], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first = planned[0].row
    row = {name: first[name] for name in ("study", "task", "model", "variant", "recipe", "stages")}
    failed = sum(record.row["status"] == "failed" for record in planned)
    row |= {"n": len(rows), "planned": len(planned), "failed": failed}
    for name in ("test_set", "test_examples", "primary_metric"):
        row[name] = rows[0].get(name) if rows else None
    row["disturbed"] = max((run["disturbed"] for run in rows if run.get("disturbed")), default=None)
    for name, column in _OVER_SEEDS.items():
        row[f"{name}_mean"], row[f"{name}_sd"] = mean_sd(run.get(column) for run in rows)
    # Runs that were trained on other hardware have no times here.
    row["train_n"] = sum(run.get("train_seconds") is not None for run in rows)
    row["trained_on"] = ", ".join(sorted({run["trained_on"] for run in rows if run.get("trained_on")})) or None
    return row


def _against(runs: Sequence[Mapping[str, Any]], baseline: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return difference and ratios to the baseline's runs with the same seeds."""

    def ratio(column: str) -> float | None:
        pairs = [
            (run[column], base[column])
            for run, base in zip(runs, baseline, strict=True)
            if run.get(column) and base.get(column)
        ]
        return sum(run for run, _ in pairs) / sum(base for _, base in pairs) if pairs else None

    size = ratio("size_mb")
    pairs = zip(runs, baseline, strict=True)
    return {
        "difference_n": len(runs),
        "difference": statistics.fmean(run["primary_value"] - base["primary_value"] for run, base in pairs),
        "relative_train_seconds": ratio("train_seconds"),
        "size_ratio": 1 / size if size else None,
    }


def resampled_runs(
    records: Sequence[Record], metric: Metric, resamples: int
) -> dict[tuple[str, int], NDArray[np.float64]]:
    """Return a metric of runs of one task on the same resamples of the test examples, by variant and seed.

    Raises:
        UserError: the runs were evaluated on different examples.
    """
    first = records[0]
    expected = _predictions(first, metric)
    draw, classes = kind_of(first.task).draw, classes_of(first.task)
    values: dict[tuple[str, int], NDArray[np.float64]] = {}
    # Some at a time, since predictions of all runs may not fit into memory.
    step = max(1, _EXAMPLES // max(1, len(expected.ids)))
    for start in range(0, len(records), step):
        some = records[start : start + step]
        runs = []
        for record in some:
            found = _predictions(record, metric)
            if not expected.ids.equals(found.ids) or not np.array_equal(expected.true, found.true):
                raise UserError(
                    f"{record.evaluation}: not the examples of {first.evaluation}, so they cannot be compared; "
                    "delete both folders and run again"
                )
            runs.append(Judged(found.true, found.predicted, found.outputs))
        found_values = bootstrap.resampled(metric, classes, runs, resamples, draw)
        values |= {(r.row["variant"], r.row["seed"]): of_run for r, of_run in zip(some, found_values, strict=True)}
    return values


def _predictions(record: Record, metric: Metric) -> Predictions:
    """Return the predictions on the primary test set, with outputs if the metric reads them."""
    if record.evaluation is None:
        raise ValueError("a finished run has an evaluation")
    return predictions(record.evaluation, record.row["test_set"], record.task, metric.needs_outputs)
