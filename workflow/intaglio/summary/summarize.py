"""The summary of a study: the results of all runs in machine-readable tables."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow.csv import write_csv

from intaglio import schemas
from intaglio.errors import UserError
from intaglio.store import MANIFEST, new_artifact, open_artifact
from intaglio.summary.backends import backend_rows
from intaglio.summary.conversions import conversion_rows, sparsity_of_runs
from intaglio.summary.devices import SPEEDUPS, on_devices
from intaglio.summary.models import model_rows
from intaglio.summary.published import published_rows
from intaglio.summary.runs import KEY, Record, read_run
from intaglio.summary.variants import variant_rows

_SUMMARIZED = {
    "runs": schemas.RUNS,
    "variants": schemas.VARIANTS,
    "model_comparison": schemas.MODEL_COMPARISON,
    "backends": schemas.BACKENDS,
    "conversions": schemas.CONVERSIONS,
    "sparsity": schemas.SPARSITY,
    "published": schemas.PUBLISHED,
    "descriptions": schemas.DESCRIPTIONS,
}
_GATHERED = {
    "metrics": schemas.METRICS,
    "history": schemas.TRAINING_HISTORY,
    "latency": schemas.LATENCY,
    "baselines": schemas.BASELINES,
    "sizes": schemas.SIZES,
    "operators": schemas.OPERATORS,
}
# Columns of variants and backends on what compression keeps and saves: one row per variant and device.
_COMPRESSION = (
    *("study", "task", "model", "variant", "recipe", "n"),
    *("primary_mean", "primary_sd", "difference", "difference_low", "difference_high"),
    *(f"{name}_{part}" for name in ("teacher_agreement", "teacher_kl") for part in ("mean", "sd")),
    *("sparsity_mean", "nonzero_mean", "size_mb_mean", "sparse_mb_mean", "zstd_mb_mean", "size_ratio"),
    *("device", "backend", "latency_ms_mean", "latency_ms_sd", *SPEEDUPS),
    *("train_seconds_mean", "total_train_seconds_mean"),
)


def write_summary(plan: Path, output: Path, partial: bool = False) -> None:
    """Gather a study's runs into the artifact `output` [summary], which holds `files.SUMMARY_FILES`.

    Args:
        plan: plan.json; its paths are relative to the working folder.
        output: the folder.
        partial: accept missing results; failed and pending runs are in runs.parquet with their status and reason.

    Raises:
        UserError: the plan cannot be read, a run is not complete (unless partial), or evaluations to compare differ in
            their examples.
    """
    content = _read_plan(plan)
    study: dict[str, Any] = content["study"]
    records = [read_run(study, run) for run in content["runs"]]
    if not partial:
        _refuse_gaps(study["study"], records)
    runs = [record.row for record in records]
    resamples, backends = int(study["bootstrap"]), backend_rows(records)
    rows: dict[str, Sequence[Mapping[str, Any]]] = {
        "runs": runs,
        "variants": variant_rows(records, resamples),
        "model_comparison": model_rows(records, backends, resamples),
        "backends": backends,
        "conversions": conversion_rows(records),
        "sparsity": sparsity_of_runs(records),
        "published": published_rows(study, runs, backends),
        "descriptions": _descriptions(study["study"], content["runs"]),
    }
    about = {
        "study": study["study"],
        "description": study.get("description", ""),
        "resamples": resamples,
        "max_length": int(study["max_length"]),
        "headline": list(study["profile"]["headline"]),
        "train_seconds": _training(records),
        "kinds": sorted({task["kind"] for task in study["tasks"].values()}),
    }
    with new_artifact(output, "summary", about) as folder:
        for name, schema in _SUMMARIZED.items():
            schemas.write_table(folder / f"{name}.parquet", rows[name], schema)
            if name != "sparsity":
                _write_csv(folder / f"{name}.csv", rows[name], list(schema.names))
        _write_csv(folder / "compression.csv", on_devices(rows["variants"], rows["backends"]), _COMPRESSION)
        gathered = {name: _gather(name, schema, records) for name, schema in _GATHERED.items()}
        for name, schema in _GATHERED.items():
            schemas.write_table(folder / f"{name}.parquet", gathered[name], schemas.keyed(schema))
        write_csv(gathered["latency"].drop_columns(["calls"]), folder / "latency.csv")


def _read_plan(plan: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(plan.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"{plan}: no readable plan ({error}); make it again from the study file") from error
    if not content.get("runs"):
        raise UserError(f"{plan}: plans no run; make it again from the study file")
    return content


def _refuse_gaps(study: str, records: Sequence[Record]) -> None:
    gaps = [record.row for record in records if record.row["status"] != "ok"]
    if not gaps:
        return
    named = [f"{'/'.join(str(row[name]) for name in KEY)} {row['status']} ({row['error']})" for row in gaps[:3]]
    more = f", and {len(gaps) - 3} more" if len(gaps) > 3 else ""
    raise UserError(
        f"study {study}: {len(gaps)} of {len(records)} runs are not complete: {', '.join(named)}{more}; "
        "run the rest, or summarize existing results with --partial"
    )


def _descriptions(study: str, runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of the existing descriptions of data, one for each task and model."""
    folders = {(run["task"], run["model"]): Path(run["description"]) for run in runs}
    rows = []
    for (task, model), folder in folders.items():
        if not (folder / MANIFEST).is_file():
            continue
        open_artifact(folder, "description")
        table = schemas.read_table(folder / "description.parquet", schemas.DESCRIPTION)
        rows += [{"study": study, "task": task, "model": model, **row} for row in table.to_pylist()]
    return rows


def _training(records: Sequence[Record]) -> dict[str, float]:
    """Return the training time of the study (`shared`), and that without sharing of stages (`alone`), in seconds."""
    stages = {folder: seconds for record in records for folder, seconds in record.trained.items()}
    alone = sum(seconds for record in records for seconds in record.trained.values())
    return {"shared": sum(stages.values()), "alone": alone}


def _gather(name: str, schema: Any, records: Sequence[Record]) -> Any:
    """Concatenate a table over runs, with the key of the run in every row."""
    parts = [_with_key(record.row, record.tables[name]) for record in records if name in record.tables]
    return pa.concat_tables(parts) if parts else schemas.keyed(schema).empty_table()


def _with_key(row: Mapping[str, Any], table: Any) -> Any:
    for position, field in enumerate(schemas.KEYS):
        column = pa.repeat(pa.scalar(row[field.name], field.type), table.num_rows)
        table = table.add_column(position, field, column)
    return table


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Write these columns in full precision; null is an empty field."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
