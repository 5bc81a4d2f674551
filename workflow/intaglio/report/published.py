"""The table of published and measured figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from intaglio.metrics import KNOWN_METRICS, named
from intaglio.report.display import Display
from intaglio.report.formatting import NOTHING, measured, number, percent, spread

_QUANTITIES = {
    "train_seconds": "training, s",
    "latency_ms": "time of a call, ms",
    "size_mb": "file, MB",
}


def show_published(study: str, rows: Sequence[Mapping[str, Any]]) -> Display:
    """Return the table of the comparison, or a sentence if there is nothing to compare."""
    title = f"Published figures beside those of {study}"
    if not rows:
        return Display(
            title,
            [],
            [],
            frozenset(),
            [
                "This study has no published counterpart: figures are known for FacebookAI/roberta-base on GLUE, and "
                "for google-bert/bert-base-uncased on the emotions in tweets of SemEval-2018."
            ],
        )
    columns = ["task", "variant", "quantity", "published", "measured", "seeds", "source", "what was published"]
    cells = [
        [
            row["task"],
            row["variant"],
            named(row["quantity"]).axis if row["quantity"] in KNOWN_METRICS else _QUANTITIES[row["quantity"]],
            _value(row, row["published"]),
            _measured(row),
            str(row["n"]) if row["n"] else NOTHING,
            row["source"],
            row["published_conditions"],
        ]
        for row in rows
    ]
    notes = [
        "Measured: mean ± standard deviation over seeds, on examples on which nothing was selected: weights and "
        "thresholds are selected on a validation split taken from the training data.",
        *_remarks(rows),
        *(f"Measured on: {devices}." for devices in _devices(rows)),
    ]
    return Display(title, columns, cells, frozenset({"published", "measured", "seeds"}), notes)


def _remarks(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what to keep in mind of the quantities and sources that occur."""
    notes = []
    if any(row["source"].startswith("I-BERT") for row in rows):
        notes.append(
            "I-BERT's scores were selected on the set that they report, so they are expected to be higher than ours."
        )
    if any(row["quantity"] == "train_seconds" for row in rows):
        notes.append("Training times compare the recipes' cost only roughly: hardware, epochs and precision differ.")
    if any(row["quantity"] == "subset_accuracy" for row in rows):
        notes.append(
            "Published accuracies are set beside our subset accuracy (all labels of a tweet right), which is what "
            "scikit-learn's accuracy_score computes of label sets and what values below 30 % suggest. The official "
            "Jaccard accuracy is in the other tables."
        )
    return notes


def _devices(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return sorted({row["measured_conditions"] for row in rows if row["unit"] in ("s", "ms")} - {""})


def _value(row: Mapping[str, Any], value: float | None) -> str:
    return percent(value) if row["unit"] == "share" else number(value)


def _measured(row: Mapping[str, Any]) -> str:
    mean, sd = row["measured_mean"], row["measured_sd"]
    return spread(percent(mean), percent(sd)) if row["unit"] == "share" else measured(mean, sd)
