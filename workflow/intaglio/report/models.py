"""The tables of models and of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd

from intaglio.metrics import KNOWN_METRICS, label_of
from intaglio.report.display import Display, difference, tabulate
from intaglio.report.formatting import NOTHING, counted, number, percent, score, spread, value_heading
from intaglio.schemas.summary import SCORES
from intaglio.summary.variants import BASELINE

_Row = Mapping[str, Any]
# Metrics of a class, and the headings of their columns.
OF_CLASS = {
    "class_f1": "F1, %",
    "class_precision": "precision, %",
    "class_recall": "recall, %",
    "class_accuracy": "accuracy, %",
    "class_threshold": "threshold",
    "class_exact_match": KNOWN_METRICS["exact_match"].axis,
    "class_answer_f1": KNOWN_METRICS["answer_f1"].axis,
}
# What columns are, where their names do not tell.
_NOTES = {
    OF_CLASS["class_accuracy"]: "Accuracy: of the class against the rest, the share of all examples that are rightly "
    "said to be of this class or not.",
    OF_CLASS["class_threshold"]: "Threshold: the probability above which a label of a multi-label task is predicted, "
    "tuned on the validation split.",
}
_NOTHING = "Nothing to show: no run has metrics of classes, or of questions with and of questions without an answer."
# Of each class: true ones, by how they were predicted.
_TRUE = ("confusion", "true_positives", "false_negatives")


def show_models(study: str, rows: Sequence[_Row], variants: Sequence[_Row], resamples: int) -> Display:
    """Return the table that compares models, from rows of model_comparison.parquet and of variants.parquet."""
    cells = {
        "task": lambda row: row["task"],
        "model": lambda row: row["model"],
        "chosen": lambda row: "yes" if row["chosen"] else NOTHING,
        "seeds": lambda row: str(row["n"]) if row["n"] == row["planned"] else f"{row['n']} of {row['planned']}",
        "primary metric": lambda row: label_of(row["primary_metric"]) or NOTHING,
        value_heading(rows).replace("value", "validation"): lambda row: spread(
            *(score(row["primary_metric"], row[f"validation_{part}"]) for part in ("mean", "sd"))
        ),
        f"{value_heading(rows).replace('value', 'test')} [95 %]": _interval("primary"),
        **{KNOWN_METRICS[name].axis: _interval(name, name) for name, _, _ in SCORES},
        "size, MB": lambda row: number(row["size_mb_mean"]),
        "latency, ms": lambda row: number(row["latency_ms_mean"]),
        "backend": lambda row: row["backend"] or NOTHING,
    }
    table = tabulate(f"Models of {study}", cells, rows, {"task", "model", "chosen", "primary metric", "backend"})
    notes = [
        "Mean over seeds. Chosen: the best mean of the primary metric on the validation split (there ± standard "
        "deviation); the test set chooses nothing. Intervals: 95 %, on the test set, over its examples "
        f"({resamples} bootstrap resamples) and over seeds (Student's t).",
        *(_of_chosen(row, variants) for row in rows if row["chosen"]),
    ]
    return Display(table.title, table.columns, table.rows, table.numbers, notes)


def _interval(name: str, metric: str | None = None) -> Any:
    def cell(row: _Row) -> str:
        if row[f"{name}_mean"] is None:
            return NOTHING
        of = metric or row["primary_metric"]
        mean, low, high = (score(of, row[f"{name}_{part}"]) for part in ("mean", "low", "high"))
        return f"{mean} [{low}, {high}]"

    return cell


def _of_chosen(row: _Row, variants: Sequence[_Row]) -> str:
    """Return a sentence on the variants of a chosen model."""
    mine = [v for v in variants if (v["task"], v["model"]) == (row["task"], row["model"]) and v["variant"] != BASELINE]
    found = [
        f"{v['variant']} {score(v['primary_metric'], v['primary_mean'])} ({difference(v)})" for v in mine if v["n"]
    ]
    chosen = f"{row['task']}: {row['model']} is chosen"
    return f"{chosen}. Its variants (difference to {BASELINE}): {', '.join(found)}." if found else f"{chosen}."


def class_rows(metrics: Any, runs: Sequence[_Row]) -> list[dict[str, Any]]:
    """Return a row for each variant and class on the primary test set of its task, over seeds.

    A row has task, model, variant and label, the mean number of examples of the class (None if it was not counted), and
    for each metric of `OF_CLASS` its mean and standard deviation (None if there is none).

    Args:
        metrics: the metrics of all runs, with their keys.
        runs: rows of runs.parquet.
    """
    table = on_primary_sets(metrics, runs)
    of_class = table[table["metric"].isin(OF_CLASS)]
    place = ["task", "model", "variant", "label"]
    counts = table[table["metric"].isin(_TRUE)].groupby([*place, "seed"])["value"].sum().groupby(place).mean().to_dict()
    grouped = of_class.groupby([*place, "metric"], sort=False)["value"].agg(["mean", "std"])
    values = dict(zip(grouped.index, grouped.itertuples(index=False, name=None), strict=True))
    rows = []
    for at in dict.fromkeys(of_class[place].itertuples(index=False, name=None)):
        row: dict[str, Any] = {**dict(zip(place, at, strict=True)), "examples": counts.get(at)}
        for name in OF_CLASS:
            mean, sd = values.get((*at, name), (None, None))
            row[name] = (mean, None if pd.isna(sd) else sd)
        rows.append(row)
    return rows


def on_primary_sets(metrics: Any, runs: Sequence[_Row]) -> pd.DataFrame:
    """Return the metrics of complete runs on the primary test sets of their tasks."""
    key = ["task", "model", "variant", "seed", "test_set"]
    primary = {tuple(run[name] for name in key) for run in runs if run["status"] == "ok"}
    table: pd.DataFrame = metrics.to_pandas()
    kept = [of in primary for of in table[key].itertuples(index=False, name=None)]
    return table[pd.Series(kept, index=table.index, dtype=bool)]


def show_classes(study: str, rows: Sequence[_Row]) -> Display:
    """Return the table of classes, from rows of `class_rows`."""
    title = f"Classes of {study}"
    if not rows:
        return Display(title, [], [], frozenset(), [_NOTHING])
    cells: dict[str, Any] = {
        "task": lambda row: row["task"],
        "model": lambda row: row["model"],
        "variant": lambda row: row["variant"],
        "class": lambda row: row["label"],
        "examples": lambda row: counted(row["examples"]),
        **{heading: partial(class_cell, name=name) for name, heading in OF_CLASS.items()},
    }
    shown = tabulate(title, cells, rows, {"task", "model", "variant", "class"})
    notes = [
        "Test set, mean ± standard deviation over seeds.",
        *(_NOTES[name] for name in _NOTES if name in shown.columns),
    ]
    return Display(shown.title, shown.columns, shown.rows, shown.numbers, [" ".join(notes)])


def class_cell(row: _Row, name: str) -> str:
    """Format a metric of a row of `class_rows`."""
    written = partial(number, digits=2) if name == "class_threshold" else percent
    return spread(*map(written, row[name]))
