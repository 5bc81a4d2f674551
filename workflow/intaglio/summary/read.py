"""Reading of a summary, for pages and plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from intaglio import schemas
from intaglio.store import open_artifact
from intaglio.summary.devices import times_of_runs
from intaglio.summary.hardware import of_one_device, of_one_machine

_Rows = list[dict[str, Any]]
_TABLES = {
    "runs": schemas.RUNS,
    "variants": schemas.VARIANTS,
    "model_comparison": schemas.MODEL_COMPARISON,
    "descriptions": schemas.DESCRIPTIONS,
    "backends": schemas.BACKENDS,
    "conversions": schemas.CONVERSIONS,
    "published": schemas.PUBLISHED,
}


@dataclass(frozen=True)
class Panel:
    """A panel of plots: one model on one task.

    Attributes:
        title: the task, with the model if the study has several.
        runs: rows of runs.parquet with status ok; training times on other devices than the most frequent one are null.
        variants: rows of variants.parquet with at least one such run.
        backends: rows of backends.parquet.
        times: the rows of `Summary.times` of these runs, of the machine that timed most of them.
        elsewhere: rows of `times` from other machines.
    """

    task: str
    model: str
    title: str
    runs: _Rows
    variants: _Rows
    backends: _Rows
    times: _Rows
    elsewhere: _Rows

    def of(self, variant: str) -> _Rows:
        """Return the runs of one variant."""
        return [run for run in self.runs if run["variant"] == variant]


@dataclass(frozen=True)
class Summary:
    """A study's summary.

    Attributes:
        study: name of the study.
        facts: the facts of its manifest: `resamples` of the bootstrap, `train_seconds` of the study, its `max_length`.
        rows: rows of the study's tables, by name: runs, variants, model_comparison, descriptions, ...
        times: rows of latency.parquet at the headline point, of every run in its variant's fastest backend, by device.
        panels: one per task and model with results, in the study's order.
        variants: names of all variants, in the study's order.
        metrics: table metrics.parquet with the runs' keys.
        history: table history.parquet with the runs' keys.
    """

    study: str
    facts: Mapping[str, Any]
    rows: Mapping[str, _Rows]
    times: _Rows
    panels: Sequence[Panel]
    variants: Sequence[str]
    metrics: Any
    history: Any


def read_summary(folder: Path) -> Summary:
    """Read an artifact [summary].

    Raises:
        UserError: the summary is not complete, or a table does not have its schema.
    """
    about = open_artifact(folder, "summary")
    rows = {name: schemas.read_table(folder / f"{name}.parquet", of).to_pylist() for name, of in _TABLES.items()}
    runs, variants, backends = rows["runs"], rows["variants"], rows["backends"]
    times = times_of_runs(_headline(folder, *about["headline"]), backends)
    several = len({row["model"] for row in variants}) > 1
    panels = []
    for task, model in dict.fromkeys((row["task"], row["model"]) for row in variants):
        mine = [row for row in variants if (row["task"], row["model"]) == (task, model) and row["n"]]
        done = [row for row in runs if (row["task"], row["model"], row["status"]) == (task, model, "ok")]
        if done:
            title = f"{task} · {model}" if several else task
            executed = [row for row in backends if (row["task"], row["model"]) == (task, model)]
            seeds = {(task, model, row["variant"], row["seed"]) for row in done}
            timed = [row for row in times if (row["task"], row["model"], row["variant"], row["seed"]) in seeds]
            panels.append(Panel(task, model, title, of_one_device(done), mine, executed, *of_one_machine(timed)))
    return Summary(
        study=about["study"],
        facts=about,
        rows=rows,
        times=times,
        panels=panels,
        variants=list(dict.fromkeys(row["variant"] for row in variants)),
        metrics=schemas.read_table(folder / "metrics.parquet", schemas.keyed(schemas.METRICS)),
        history=schemas.read_table(folder / "history.parquet", schemas.keyed(schemas.TRAINING_HISTORY)),
    )


def _headline(folder: Path, batch_size: int, length: int) -> _Rows:
    """Return the rows of latency.parquet at the headline point, without the times of single calls."""
    table = schemas.read_table(folder / "latency.parquet", schemas.keyed(schemas.LATENCY)).drop_columns(["calls"])
    chosen = (pc.field("batch_size") == batch_size) & (pc.field("length") == length)
    rows: _Rows = table.filter(chosen).to_pylist()
    return rows
