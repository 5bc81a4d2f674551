"""The table of published and measured figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from intaglio.report.display import Display
from intaglio.report.formatting import NOTHING, measured, number, percent, spread
from intaglio.summary.published import PUBLISHED_MODEL

_QUANTITIES = {
    "accuracy": "accuracy, %",
    "matthews": "Matthews correlation × 100",
    "train_seconds": "training, s",
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
            [f"This study has no published counterpart: figures are known for {PUBLISHED_MODEL} on GLUE."],
        )
    columns = ["task", "variant", "quantity", "published", "measured", "seeds", "source", "what was published"]
    cells = [
        [
            row["task"],
            row["variant"],
            _QUANTITIES[row["quantity"]],
            _value(row, row["published"]),
            _measured(row),
            str(row["n"]) if row["n"] else NOTHING,
            row["source"],
            row["published_conditions"],
        ]
        for row in rows
    ]
    notes = [
        "Measured: mean ± standard deviation over seeds, on the official development set, on which nothing was "
        "selected: weights are selected on a validation split taken from the training data. I-BERT's scores were "
        "selected on the set that they report, so they are expected to be higher.",
        "Training times compare the recipes' cost only roughly: hardware, epochs and precision differ.",
        *(f"Measured on: {devices}." for devices in _devices(rows)),
    ]
    return Display(title, columns, cells, frozenset({"published", "measured", "seeds"}), notes)


def _devices(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return sorted({row["measured_conditions"] for row in rows if row["unit"] == "s"} - {""})


def _value(row: Mapping[str, Any], value: float | None) -> str:
    return number(value) if row["unit"] == "s" else percent(value)


def _measured(row: Mapping[str, Any]) -> str:
    mean, sd = row["measured_mean"], row["measured_sd"]
    return measured(mean, sd) if row["unit"] == "s" else spread(percent(mean), percent(sd))
