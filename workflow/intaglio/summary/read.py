"""Reading of a summary, for pages and plots."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import acero, dataset

from intaglio import schemas
from intaglio.hardware import of_one_device, of_one_machine
from intaglio.store import open_artifact
from intaglio.summary.devices import times_of_runs

_Rows = list[dict[str, Any]]
_TABLES = {
    "runs": schemas.RUNS,
    "variants": schemas.VARIANTS,
    "model_comparison": schemas.MODEL_COMPARISON,
    "descriptions": schemas.DESCRIPTIONS,
    "backends": schemas.BACKENDS,
    "conversions": schemas.CONVERSIONS,
    "published": schemas.PUBLISHED,
    "recommendations": schemas.RECOMMENDATIONS,
    "flips": schemas.FLIPS,
}
# Names in the history of trainings.
LOSSES = ("loss", "validation_loss")
# Columns of latency.parquet that are shown.
_TIMES = [
    *("task", "model", "variant", "seed", "backend", "device", "device_name", "batch_size", "length"),
    *("mean_ms", "std_ms", "p50_ms", "p99_ms", "machine_id"),
]


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
        return self._by_variant.get(variant, [])

    @cached_property
    def _by_variant(self) -> dict[str, _Rows]:
        found: dict[str, _Rows] = {}
        for run in self.runs:
            found.setdefault(run["variant"], []).append(run)
        return found


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
        losses: table of the losses in history.parquet over seeds: task, model, variant, name, step, and means of epoch
            and value, and the value's least and most, as epoch_mean, value_mean, value_min and value_max.
    """

    study: str
    facts: Mapping[str, Any]
    rows: Mapping[str, _Rows]
    times: _Rows
    panels: Sequence[Panel]
    variants: Sequence[str]
    metrics: Any
    losses: Any


def read_summary(folder: Path) -> Summary:
    """Read an artifact [summary].

    Raises:
        UserError: the summary is not complete, or a table does not have its schema.
    """
    about = open_artifact(folder, "summary")
    rows = {name: schemas.read_table(folder / f"{name}.parquet", of).to_pylist() for name, of in _TABLES.items()}
    runs, variants, backends = rows["runs"], rows["variants"], rows["backends"]
    times = times_of_runs(_headline(folder / "latency.parquet", *about["headline"]), backends)
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
        losses=_losses(folder / "history.parquet"),
    )


def _headline(path: Path, batch_size: int, length: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of latency.parquet at the headline point, in the columns that are shown."""
    for batch in pq.ParquetFile(path).iter_batches(columns=_TIMES):
        at = pc.and_(pc.equal(batch["batch_size"], batch_size), pc.equal(batch["length"], length))
        yield from batch.filter(at).to_pylist()


def _losses(path: Path) -> Any:
    """Return the losses over seeds; the file is read in parts."""
    wanted = pc.field("name").isin(LOSSES)
    keys = ["task", "model", "variant", "name", "step"]
    values = (("epoch", "mean"), ("value", "mean"), ("value", "min"), ("value", "max"))
    sums = [(column, f"hash_{of}", None, f"{column}_{of}") for column, of in values]
    scan = acero.ScanNodeOptions(dataset.dataset(path), columns=[*keys, "epoch", "value"], filter=wanted)
    steps = (
        acero.Declaration("scan", scan),
        acero.Declaration("filter", acero.FilterNodeOptions(wanted)),
        acero.Declaration("aggregate", acero.AggregateNodeOptions(sums, keys)),
    )
    # With one thread, sums have one order.
    return acero.Declaration.from_sequence(steps).to_table(use_threads=False)
