"""Reading of the results of one run: its row of runs.parquet, and the tables to concatenate."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from intaglio import schemas
from intaglio.errors import UserError
from intaglio.failures import reasons
from intaglio.planning.found import KEY
from intaglio.schemas.summary import SCORES
from intaglio.store import MANIFEST, open_artifact
from intaglio.summary import lineage, recipes
from intaglio.summary.devices import SPEEDUPS

_MB = 1e6
# Components of the sizes table, and columns of runs.parquet.
_SIZES = {
    "file": "size_mb",
    "sparse": "sparse_mb",
    "zstd": "zstd_mb",
    "checkpoint": "checkpoint_mb",
    "parameters": "parameters_mb",
}
# Columns of the latency table behind the table of backends.
_TIMED = [
    *("backend", "device", "device_name", "kernel", "batch_size", "length", "threads", "p50_ms", "p99_ms"),
    *("throughput", "busy", "peak_memory_mb", "max_difference", "changed_predictions", "compared_predictions"),
    *SPEEDUPS,
    *("machine_id", "machine_instructions"),
]


@dataclass
class Record:
    """One run.

    Attributes:
        row: its row of runs.parquet, without unknown values.
        tables: existing pyarrow tables by name (metrics, noise, history, latency, baselines, sizes, operators).
        timed: rows of its latency table at the study's headline point, in the columns of `_TIMED`.
        operators: times of operators by device and backend, ms.
        evaluation: folder of its predictions, if it is complete.
        task: content of its data's task.json.
        validation: metrics of the selected weights on the validation split.
        trained: training time of every stage by the folder of its checkpoint, s.
        sparsity: weights and zeros of its linear layers, rows of sparsity.parquet without the run's key.
        energy: rows of energy.parquet, of its trainings and its profile, without the run's key.
        conversions: its conversions, rows of conversions.parquet without the run's key.
        warnings: of its trainings and its metrics.
    """

    row: dict[str, Any]
    tables: dict[str, Any] = field(default_factory=dict)
    timed: list[dict[str, Any]] = field(default_factory=list)
    operators: dict[tuple[str, str], dict[str, float]] = field(default_factory=dict)
    evaluation: Path | None = None
    task: dict[str, Any] = field(default_factory=dict)
    validation: dict[str, float] = field(default_factory=dict)
    trained: dict[str, float] = field(default_factory=dict)
    sparsity: list[dict[str, Any]] = field(default_factory=list)
    energy: list[dict[str, Any]] = field(default_factory=list)
    conversions: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def read_run(study: Mapping[str, Any], run: Mapping[str, Any], shared: lineage.InCommon | None = None) -> Record:
    """Read the existing results of a run of the plan; `shared` holds what it has in common with others.

    Its status is `ok` if all results are complete, `failed` if an artifact is damaged or a job recorded an error, else
    `pending`.
    """
    key = {name: run[name] for name in KEY}
    facts = {"checkpoint": str(run["checkpoint"]), "recipe": recipes.in_words(run["recipe"])}
    facts["stages"] = json.dumps(run["recipe"], sort_keys=True)
    record = Record({"study": study["study"], **key, **facts})
    missing, damaged = [], []
    shared = lineage.InCommon() if shared is None else shared
    for kind, read in _READERS.items():
        if run[kind] is None:
            continue
        folder = Path(run[kind])
        if not (folder / MANIFEST).is_file():
            missing.append(kind)
            continue
        try:
            read(record, _Result(folder, open_artifact(folder, kind), study, run, shared))
        except UserError as error:
            damaged.append(str(error))
    record.row["validation_value"] = record.validation.get(record.row.get("primary_metric", ""))
    record.row["warnings"] = "; ".join(record.warnings) or None
    failures = damaged + (reasons(run) if missing else [])
    record.row["status"] = "failed" if failures else "pending" if missing else "ok"
    record.row["error"] = "; ".join(failures) or ("not there yet: " + ", ".join(missing) if missing else None)
    return record


@dataclass(frozen=True)
class _Result:
    """An artifact of a run, with the facts of its manifest."""

    folder: Path
    about: Mapping[str, Any]
    study: Mapping[str, Any]
    run: Mapping[str, Any]
    shared: lineage.InCommon


def _read_checkpoint(record: Record, of: _Result) -> None:
    training = lineage.read_json(of.folder / "training.json")
    of.shared.record(of.folder, training)
    record.tables["history"] = schemas.read_table(of.folder / "history.parquet", schemas.TRAINING_HISTORY)
    record.validation = {name.removeprefix("validation_"): value for name, value in training["validation"].items()}
    record.conversions += lineage.conversions(of.run["stages"], of.shared)
    record.warnings += lineage.warnings(of.run["stages"], of.shared)
    record.energy += [row for stage in of.run["stages"] for row in of.shared.record(Path(stage)).get("energy", [])]
    record.sparsity = training.get("sparsity", [])
    record.trained = lineage.trained_seconds(of.run["stages"], of.shared)
    record.row |= {
        "sparsity": lineage.share_of_zeros(record.sparsity),
        "train_seconds": training["train_seconds"],
        "total_train_seconds": training["total_train_seconds"],
        "step_seconds": training["step_seconds_median"],
        "steps": training["steps"],
        "padding": training.get("padding"),
        "padding_saved": training.get("padding_saved"),
        "trained_on": training["device"],
        "machine": training["machine"]["id"],
    }


def _read_evaluation(record: Record, of: _Result) -> None:
    data, task = of.shared.task(Path(of.run["data"]))
    metrics = schemas.read_table(of.folder / "metrics.parquet", schemas.METRICS)
    test_set, teacher = task["test_sets"][0], Path(of.run["teacher"])
    whole = pc.and_(pc.equal(metrics.column("test_set"), test_set), pc.is_null(metrics.column("label")))
    rows = metrics.filter(whole).to_pylist()
    values = {row["metric"]: row["value"] for row in rows}
    primary = [row["metric"] for row in rows if row["primary"]]
    if len(primary) != 1:
        raise UserError(
            f"{of.folder}/metrics.parquet: {len(primary)} primary metrics of {test_set!r}; evaluate it again"
        )
    record.tables["metrics"] = metrics
    if (of.folder / "noise.parquet").is_file():
        record.tables["noise"] = schemas.read_table(of.folder / "noise.parquet", schemas.NOISE)
    record.evaluation, record.task = of.folder, task
    mine = of.shared.predictions.of(of.folder, test_set, task)
    record.warnings += of.about.get("warnings", ())
    record.row |= {
        "test_set": test_set,
        "test_examples": len(mine.ids),
        "validation_examples": data.get("splits", {}).get("validation", {}).get("examples"),
        "primary_metric": primary[0],
        "primary_value": values[primary[0]],
        "truncated": of.about.get("truncated", {}).get(test_set),
        "test_texts_in_training": data.get("test_texts_in_training", {}).get(test_set),
        **{name: values.get(name) for name, _, _ in SCORES},
        **({} if teacher == of.folder else lineage.agreement(mine, teacher, test_set, task, of.shared.predictions)),
    }


def _read_export(record: Record, of: _Result) -> None:
    sizes = schemas.read_table(of.folder / "sizes.parquet", schemas.SIZES)
    record.tables["sizes"] = sizes
    components: dict[str, list[dict[str, Any]]] = {}
    for row in sizes.to_pylist():
        components.setdefault(row["component"], []).append(row)
    for component, column in _SIZES.items():
        of_it = components.get(component)
        record.row[column] = sum(row["bytes"] for row in of_it) / _MB if of_it else None
    nonzero = components.get("nonzero")
    record.row["nonzero"] = sum(row["count"] for row in nonzero) if nonzero else None
    record.conversions += lineage.exported(of.about)


def _read_profile(record: Record, of: _Result) -> None:
    latency = schemas.read_table(of.folder / "latency.parquet", schemas.LATENCY)
    operators = schemas.read_table(of.folder / "operators.parquet", schemas.OPERATORS)
    baselines = schemas.read_table(of.folder / "baselines.parquet", schemas.BASELINES)
    record.tables |= {"latency": latency, "baselines": baselines, "operators": operators}
    batch_size, length = of.study["profile"]["headline"]
    at = pc.and_(pc.equal(latency.column("batch_size"), batch_size), pc.equal(latency.column("length"), length))
    record.timed = latency.select(_TIMED).filter(at).to_pylist()
    columns = (operators.column(name).to_pylist() for name in ("device", "backend", "operator", "self_time_ms"))
    for device, backend, operator, milliseconds in zip(*columns, strict=True):
        times = record.operators.setdefault((device, backend), {})
        times[operator] = times.get(operator, 0.0) + milliseconds
    record.row["disturbed"] = of.about.get("disturbed")
    if (energy := of.folder / "energy.parquet").is_file():
        record.energy += schemas.read_table(energy, schemas.ENERGY).to_pylist()


_READERS: dict[str, Callable[[Record, _Result], None]] = {
    "checkpoint": _read_checkpoint,
    "evaluation": _read_evaluation,
    "export": _read_export,
    "profile": _read_profile,
}
