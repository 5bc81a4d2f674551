"""Reading of the results of one run: its row of runs.parquet, and the tables to concatenate."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from intaglio import schemas
from intaglio.errors import UserError
from intaglio.schemas.summary import SCORES
from intaglio.store import MANIFEST, open_artifact
from intaglio.summary import lineage, recipes
from intaglio.summary.failures import reasons

KEY = ("task", "model", "variant", "seed")
_MB = 1e6
# Components of the sizes table, and columns of runs.parquet.
_SIZES = {
    "file": "size_mb",
    "sparse": "sparse_mb",
    "zstd": "zstd_mb",
    "checkpoint": "checkpoint_mb",
    "parameters": "parameters_mb",
}


@dataclass
class Record:
    """One run.

    Attributes:
        row: its row of runs.parquet, without unknown values.
        tables: existing pyarrow tables by name (metrics, history, latency, baselines, sizes, operators).
        timed: rows of its latency table at the study's headline point.
        evaluation: folder of its predictions, if it is complete.
        task: content of its data's task.json.
        validation: metrics of the selected weights on the validation split.
        trained: training time of every stage by the folder of its checkpoint, s.
        sparsity: weights and zeros of its linear layers, rows of sparsity.parquet without the run's key.
        conversions: its conversions, rows of conversions.parquet without the run's key.
    """

    row: dict[str, Any]
    tables: dict[str, Any] = field(default_factory=dict)
    timed: list[dict[str, Any]] = field(default_factory=list)
    evaluation: Path | None = None
    task: dict[str, Any] = field(default_factory=dict)
    validation: dict[str, float] = field(default_factory=dict)
    trained: dict[str, float] = field(default_factory=dict)
    sparsity: list[dict[str, Any]] = field(default_factory=list)
    conversions: list[dict[str, Any]] = field(default_factory=list)


def read_run(study: Mapping[str, Any], run: Mapping[str, Any]) -> Record:
    """Read the existing results of a run of the plan.

    Its status is `ok` if all results are complete, `failed` if an artifact is damaged or a job recorded an error, else
    `pending`.
    """
    key = {name: run[name] for name in KEY}
    facts = {"checkpoint": str(run["checkpoint"]), "recipe": recipes.in_words(run["recipe"])}
    facts["stages"] = json.dumps(run["recipe"], sort_keys=True)
    record = Record({"study": study["study"], **key, **facts})
    missing, damaged = [], []
    for kind, read in _READERS.items():
        if run[kind] is None:
            continue
        folder = Path(run[kind])
        if not (folder / MANIFEST).is_file():
            missing.append(kind)
            continue
        try:
            open_artifact(folder, kind)
            read(record, folder, study, run)
        except UserError as error:
            damaged.append(str(error))
    record.row["validation_value"] = record.validation.get(record.row.get("primary_metric", ""))
    failures = damaged + (reasons(run) if missing else [])
    record.row["status"] = "failed" if failures else "pending" if missing else "ok"
    record.row["error"] = "; ".join(failures) or ("not there yet: " + ", ".join(missing) if missing else None)
    return record


def _json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); delete its folder and run again") from error
    return content


def _read_checkpoint(record: Record, folder: Path, _study: Mapping[str, Any], run: Mapping[str, Any]) -> None:
    training = _json(folder / "training.json")
    record.tables["history"] = schemas.read_table(folder / "history.parquet", schemas.TRAINING_HISTORY)
    record.validation = {name.removeprefix("validation_"): value for name, value in training["validation"].items()}
    record.conversions += lineage.conversions(run["stages"])
    record.sparsity = lineage.sparsity(folder)
    record.trained = lineage.trained_seconds(run["stages"])
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


def _read_evaluation(record: Record, folder: Path, _study: Mapping[str, Any], run: Mapping[str, Any]) -> None:
    data = open_artifact(Path(run["data"]), "data")
    task = _json(Path(run["data"]) / "task.json")
    about = open_artifact(folder, "evaluation")
    metrics = schemas.read_table(folder / "metrics.parquet", schemas.METRICS)
    test_set = task["test_sets"][0]
    rows = [row for row in metrics.to_pylist() if row["test_set"] == test_set]
    values = {row["metric"]: row["value"] for row in rows if row["label"] is None}
    primary = [row["metric"] for row in rows if row["primary"]]
    if len(primary) != 1:
        raise UserError(f"{folder}/metrics.parquet: {len(primary)} primary metrics of {test_set!r}; evaluate it again")
    record.tables["metrics"] = metrics
    record.evaluation, record.task = folder, task
    record.row |= {
        "test_set": test_set,
        "test_examples": len(lineage.predictions(folder, test_set, task).ids),
        "primary_metric": primary[0],
        "primary_value": values[primary[0]],
        "warnings": "; ".join(about.get("warnings", ())) or None,
        "truncated": about.get("truncated", {}).get(test_set),
        "test_texts_in_training": data.get("test_texts_in_training", {}).get(test_set),
        **{name: values.get(name) for name, _, _ in SCORES},
        **lineage.agreement(folder, Path(run["teacher"]), test_set, task),
    }


def _read_export(record: Record, folder: Path, _study: Mapping[str, Any], _run: Mapping[str, Any]) -> None:
    sizes = schemas.read_table(folder / "sizes.parquet", schemas.SIZES)
    record.tables["sizes"] = sizes
    components: dict[str, list[dict[str, Any]]] = {}
    for row in sizes.to_pylist():
        components.setdefault(row["component"], []).append(row)
    for component, column in _SIZES.items():
        of_it = components.get(component)
        record.row[column] = sum(row["bytes"] for row in of_it) / _MB if of_it else None
    nonzero = components.get("nonzero")
    record.row["nonzero"] = sum(row["count"] for row in nonzero) if nonzero else None
    record.conversions += lineage.exported(open_artifact(folder, "export"))


def _read_profile(record: Record, folder: Path, study: Mapping[str, Any], _run: Mapping[str, Any]) -> None:
    latency = schemas.read_table(folder / "latency.parquet", schemas.LATENCY)
    operators = schemas.read_table(folder / "operators.parquet", schemas.OPERATORS)
    baselines = schemas.read_table(folder / "baselines.parquet", schemas.BASELINES)
    record.tables |= {"latency": latency, "baselines": baselines, "operators": operators}
    batch_size, length = study["profile"]["headline"]
    record.timed = [row for row in latency.to_pylist() if (row["batch_size"], row["length"]) == (batch_size, length)]
    record.row["disturbed"] = open_artifact(folder, "profile").get("disturbed")


_Reader = Callable[[Record, Path, Mapping[str, Any], Mapping[str, Any]], None]
_READERS: dict[str, _Reader] = {
    "checkpoint": _read_checkpoint,
    "evaluation": _read_evaluation,
    "export": _read_export,
    "profile": _read_profile,
}
