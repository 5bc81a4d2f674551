"""A summary read back, for whoever draws it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from intaglio import schemas
from intaglio.store import open_artifact
from intaglio.tables.hardware import comparable

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Panel:
    """What is drawn together: one model on one task.

    Attributes:
        title: the task, with the model where the study has several.
        runs: rows of runs.parquet that ended well; times from other hardware than most rows' are null.
        variants: rows of variants.parquet with at least one such run.
        backends: rows of backends.parquet.
    """

    task: str
    model: str
    title: str
    runs: Rows
    variants: Rows
    backends: Rows

    def of(self, variant: str) -> Rows:
        """Return the runs of one variant."""
        return [run for run in self.runs if run["variant"] == variant]


@dataclass(frozen=True)
class Summary:
    """A study's summary.

    Attributes:
        study: its name.
        panels: one a task and model that has results, in the study's order.
        variants: names of all variants, in the study's order.
        metrics: table metrics.parquet with the runs' keys.
        history: table history.parquet with the runs' keys.
    """

    study: str
    panels: Sequence[Panel]
    variants: Sequence[str]
    metrics: Any
    history: Any


def read_summary(folder: Path) -> Summary:
    """Read an artifact [summary].

    Raises:
        UserError: it is not complete, or a table is not of its schema.
    """
    about = open_artifact(folder, "summary")
    runs = schemas.read_table(folder / "runs.parquet", schemas.RUNS).to_pylist()
    variants = schemas.read_table(folder / "variants.parquet", schemas.VARIANTS).to_pylist()
    backends = schemas.read_table(folder / "backends.parquet", schemas.BACKENDS).to_pylist()
    several = len({row["model"] for row in variants}) > 1
    panels = []
    for task, model in dict.fromkeys((row["task"], row["model"]) for row in variants):
        mine = [row for row in variants if (row["task"], row["model"]) == (task, model) and row["n"]]
        done = [row for row in runs if (row["task"], row["model"], row["status"]) == (task, model, "ok")]
        if done:
            title = f"{task} · {model}" if several else task
            executed = [row for row in backends if (row["task"], row["model"]) == (task, model)]
            panels.append(Panel(task, model, title, comparable(done), mine, executed))
    return Summary(
        study=about["study"],
        panels=panels,
        variants=list(dict.fromkeys(row["variant"] for row in variants)),
        metrics=schemas.read_table(folder / "metrics.parquet", schemas.keyed(schemas.METRICS)),
        history=schemas.read_table(folder / "history.parquet", schemas.keyed(schemas.TRAINING_HISTORY)),
    )
