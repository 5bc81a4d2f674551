"""The summary of a study: the results of all runs in machine-readable tables."""

from __future__ import annotations

import csv
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from intaglio import schemas
from intaglio.errors import UserError
from intaglio.flips import flip_rows
from intaglio.parallel import in_processes
from intaglio.planning.found import KEY
from intaglio.predictions import ReadOnce
from intaglio.recommendation.choose import recommend
from intaglio.recommendation.judge import judged_rows
from intaglio.store import MANIFEST, new_artifact, open_artifact
from intaglio.summary.backends import backend_rows
from intaglio.summary.devices import SPEEDUPS, on_devices
from intaglio.summary.gathered import gathered, joined_tables
from intaglio.summary.lineage import InCommon
from intaglio.summary.models import choose_models, model_row
from intaglio.summary.published import published_rows
from intaglio.summary.runs import Record, read_run
from intaglio.summary.variants import BASELINE, variant_rows

# Tables of the study, which are in memory as a whole.
_SUMMARIZED = {
    "runs": schemas.RUNS,
    "variants": schemas.VARIANTS,
    "model_comparison": schemas.MODEL_COMPARISON,
    "backends": schemas.BACKENDS,
    "published": schemas.PUBLISHED,
    "descriptions": schemas.DESCRIPTIONS,
    "recommendations": schemas.RECOMMENDATIONS,
    "flips": schemas.FLIPS,
}
# Runs from which several processes gather them.
_MANY = 500
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
    about = {
        "study": study["study"],
        "description": study.get("description", ""),
        "resamples": int(study["bootstrap"]),
        "margin": float(study["margin"]),
        "max_length": int(study["max_length"]),
        "headline": list(study["profile"]["headline"]),
        "kinds": sorted({task["kind"] for task in study["tasks"].values()}),
    }
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in _SUMMARIZED}
    training = _TrainingTime()
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for run in content["runs"]:
        groups.setdefault((run["task"], run["model"]), []).append(run)
    with new_artifact(output, "summary", about) as folder:
        with gathered(folder) as tables:
            compute = functools.partial(_of_group, study, partial)
            # Group by group, since what is compared with each other is in memory at a time.
            for group in in_processes(compute, list(groups.values()), len(content["runs"]) < _MANY):
                tables.add(group.tables)
                training.add(group.trained)
                for name, found in group.rows.items():
                    rows[name] += found
        if not partial:
            _refuse_gaps(study["study"], rows["runs"])
        choose_models(rows["model_comparison"])
        chosen = {(row["task"], row["model"]) for row in rows["model_comparison"] if row["chosen"]}
        recommend(rows["recommendations"], chosen)
        rows["published"] += published_rows(study, rows["runs"], rows["backends"])
        rows["descriptions"] += _descriptions(study["study"], content["runs"])
        about["train_seconds"] = training.seconds()
        for name, schema in _SUMMARIZED.items():
            schemas.write_table(folder / f"{name}.parquet", rows[name], schema)
            _write_csv(folder / f"{name}.csv", rows[name], list(schema.names))
        _write_csv(folder / "compression.csv", on_devices(rows["variants"], rows["backends"]), _COMPRESSION)


class _Group(NamedTuple):
    """What the tables hold on the runs of one task and model.

    Attributes:
        tables: those of each run, joined (`gathered.joined_tables`).
        trained: training time of every stage of each run by the folder of its checkpoint, s.
        rows: rows of the tables in `_SUMMARIZED`.
    """

    tables: dict[str, Any]
    trained: list[dict[str, float]]
    rows: dict[str, list[dict[str, Any]]]


def _of_group(study: Mapping[str, Any], partial: bool, runs: Sequence[Mapping[str, Any]]) -> _Group:
    shared = InCommon()
    records = [read_run(study, run, shared) for run in runs]
    rows = {"runs": [record.row for record in records]}
    group = _Group(joined_tables(records), [record.trained for record in records], rows)
    if not partial and any(record.row["status"] != "ok" for record in records):
        return group
    resamples, backends = int(study["bootstrap"]), backend_rows(records)
    variants = variant_rows(records, shared.predictions, resamples, float(study["margin"]))
    rows |= {"backends": backends, "variants": variants, "recommendations": judged_rows(study, variants, backends)}
    rows["model_comparison"] = [model_row(records, backends, shared.predictions, resamples)]
    rows["flips"] = _flips(study, runs[0], records, shared.predictions)
    return group


def _read_plan(plan: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(plan.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"{plan}: no readable plan ({error}); make it again from the study file") from error
    if not content.get("runs"):
        raise UserError(f"{plan}: plans no run; make it again from the study file")
    return content


def _flips(
    study: Mapping[str, Any], run: Mapping[str, Any], records: Sequence[Record], predictions: ReadOnce
) -> list[dict[str, Any]]:
    """Return the rows of flips.parquet of one task and model."""
    done = [(record.row, record.evaluation) for record in records if record.row["status"] == "ok" and record.evaluation]
    task = next((record.task for record in records if record.task), {})
    return flip_rows(done, BASELINE, predictions, Path(run["data"]), task, study["tasks"][run["task"]]["private"])


def _refuse_gaps(study: str, runs: Sequence[Mapping[str, Any]]) -> None:
    gaps = [row for row in runs if row["status"] != "ok"]
    if not gaps:
        return
    named = [f"{'/'.join(str(row[name]) for name in KEY)} {row['status']} ({row['error']})" for row in gaps[:3]]
    more = f", and {len(gaps) - 3} more" if len(gaps) > 3 else ""
    raise UserError(
        f"study {study}: {len(gaps)} of {len(runs)} runs are not complete: {', '.join(named)}{more}; "
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


class _TrainingTime:
    """The training time of a study, with stages that runs share, and without sharing."""

    def __init__(self) -> None:
        self._stages: dict[str, float] = {}
        self._alone = 0.0

    def add(self, trained: Sequence[Mapping[str, float]]) -> None:
        """Add the times of the stages of runs."""
        for of_run in trained:
            self._stages |= of_run
            self._alone += sum(of_run.values())

    def seconds(self) -> dict[str, float]:
        """Return the time (`shared`), and that without sharing of stages (`alone`), in seconds."""
        return {"shared": sum(self._stages.values()), "alone": self._alone}


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Write these columns in full precision; null is an empty field."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
