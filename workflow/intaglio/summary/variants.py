"""One row per variant: statistics over seeds, and the difference to `float` with its interval and tests."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from intaglio.hardware import of_one_device
from intaglio.predictions import ReadOnce
from intaglio.statistics.compare import holm
from intaglio.summary.controls import control_of
from intaglio.summary.differences import Differences
from intaglio.summary.runs import Record

BASELINE = "float"
_NO_DIFFERENCE = {
    f"{name}{end}": 0.0 for name in ("difference", "validation_difference") for end in ("", "_low", "_high")
}
_OVER_SEEDS = {
    "primary": "primary_value",
    "validation": "validation_value",
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


def variant_rows(
    records: Sequence[Record], predictions: ReadOnce, resamples: int, margin: float
) -> list[dict[str, Any]]:
    """Return the rows of variants.parquet of one task and model, in the order of the plan.

    Args:
        records: all their runs.
        predictions: reads theirs.
        resamples: of the bootstrap.
        margin: the largest loss to accept, in points.
    """
    planned: dict[str, list[Record]] = {}
    for record in records:
        planned.setdefault(record.row["variant"], []).append(record)
    done = {name: {r.row["seed"]: r for r in runs if r.row["status"] == "ok"} for name, runs in planned.items()}
    finished = [record for runs in done.values() for record in runs.values()]
    facts = {(row["variant"], row["seed"]): row for row in of_one_device([record.row for record in finished])}
    baseline = done.get(BASELINE, {})
    recipes = {name: json.loads(runs[0].row["stages"]) for name, runs in planned.items()}
    controls = {name: control_of(name, recipes) for name in planned}
    compared = bool(baseline) or any(controls.values())
    differences = Differences(finished, predictions, resamples, margin) if compared else None
    rows = []
    for name, runs in done.items():
        row = _over_seeds(planned[name], [facts[name, seed] for seed in runs])
        common = [seed for seed in runs if seed in baseline]
        if differences and common:
            row |= _against([facts[name, seed] for seed in common], [facts[BASELINE, seed] for seed in common])
            row["one_example"] = differences.one_example
            row |= _NO_DIFFERENCE if name == BASELINE else differences.columns(name, BASELINE, common)
        control = controls[name] or name
        common = [seed for seed in runs if seed in done[control]]
        if differences and control != name and common:
            row |= {"control": control, **differences.to_control(name, control, common)}
        rows.append(row)
    for test in ("difference_p", "mcnemar_p"):
        for row, adjusted in zip(rows, holm([row.get(test) for row in rows]), strict=True):
            row[f"{test}_holm"] = adjusted
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
    """Return ratios to the baseline's runs with the same seeds, and their number."""

    def ratio(column: str) -> float | None:
        pairs = [
            (run[column], base[column])
            for run, base in zip(runs, baseline, strict=True)
            if run.get(column) and base.get(column)
        ]
        return sum(run for run, _ in pairs) / sum(base for _, base in pairs) if pairs else None

    size = ratio("size_mb")
    return {
        "difference_n": len(runs),
        "relative_train_seconds": ratio("train_seconds"),
        "size_ratio": 1 / size if size else None,
    }
