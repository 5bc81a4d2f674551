"""The facts of a model card, from the results of a run and the tables of its study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

import intaglio
from intaglio import schemas
from intaglio.bundle.compared import Difference
from intaglio.bundle.licence import licence_of
from intaglio.catalogue import KNOWN_MODELS
from intaglio.checkpoint import Checkpoint
from intaglio.kinds import threshold_names
from intaglio.metrics import KNOWN_METRICS, label_of
from intaglio.predict.arguments import OPENVINO
from intaglio.recommendation.words import listed
from intaglio.report.formatting import number, percent, power_of_ten, score, speedup_cell
from intaglio.store import is_artifact, open_artifact
from intaglio.summary.recipes import in_words
from intaglio.tasks.stored import read_task

_Row = dict[str, Any]
# Rows by class that a card shows.
_OF_CLASSES = ("class_f1", "class_precision", "class_recall")
# The files of a graph, of an export and of a bundle.
GRAPH = "model.*"
_KEYS = ("task", "model", "variant")


def facts_of_card(
    results: Path,
    study: Mapping[str, Any],
    run: Mapping[str, Any],
    bundled: Mapping[str, Any],
    differences: Sequence[Difference],
    folder: Path,
) -> dict[str, Any]:
    """Return what the templates of a bundle are filled with.

    Args:
        results: folder of the study's results; its tables are used if they are there.
        study: the study, as in its plan.
        run: the run, as in the plan.
        bundled: the content of bundle.json.
        differences: how far the forms are from the evaluation.
        folder: the bundle, with its model.
    """
    task = study["tasks"][run["task"]]
    checkpoint, evaluation = Checkpoint(Path(run["checkpoint"])), open_artifact(Path(run["evaluation"]), "evaluation")
    record, own = checkpoint.record, read_task(Path(run["data"]))
    engine = "openvino" if OPENVINO in bundled["forms"] else "onnxruntime"
    changing = [f"{name}=={version}" for name, version in bundled["preprocess"]["libraries"].items()]
    packages = [engine, "tokenizers", "pyarrow", "numpy", *changing]
    return {
        "bundle": bundled,
        "packages": packages,
        "needed": listed(packages),
        "run": run,
        "study": study["study"],
        "task": {**task, "origin": origin(task["source"])},
        "splits": open_artifact(Path(run["data"]), "data").get("splits", {}),
        "models": [{"name": name, **_about_model(study, name)} for name in _models(run)],
        "recipe": in_words(run["recipe"]),
        "truncated": {name: percent(share) for name, share in evaluation["truncated"].items()},
        "thresholds": dict(zip(threshold_names(own), bundled["thresholds"] or (), strict=False)),
        # Those of cut texts say what `truncated` does.
        "warnings": [each for each in dict.fromkeys(evaluation["warnings"]) if "are cut at" not in each],
        "trained_on": record["device"],
        "trained_seconds": number(record["total_train_seconds"]),
        "machine": record["machine"],
        "measured": _metrics(Path(run["evaluation"]), task["metric"]),
        **_tables(results, run),
        "differences": [{**each._asdict(), "largest": power_of_ten(each.largest)} for each in differences],
        "sizes": {form: number(_megabytes(folder, form)) for form in bundled["forms"]},
        "version": intaglio.__version__,
    }


def origin(source: Mapping[str, Any]) -> str:
    """Return where a source is from, in words."""
    if source["kind"] == "hub":
        config = f", {source['config']}" if source.get("config") else ""
        return f"{source['repo']}{config} at revision {source['revision']}"
    if source["kind"] == "package":
        return f"{source['path']} in the Python package {source['requirement']}"
    return "own files"


def _models(run: Mapping[str, Any]) -> list[str]:
    """Return the names of the pretrained models that the run's weights come from."""
    students = [stage.get("student") for stage in run["recipe"]]
    return list(dict.fromkeys([run["model"], *(name for name in students if name)]))


def _about_model(study: Mapping[str, Any], name: str) -> dict[str, Any]:
    source = (study["models"].get(name) or KNOWN_MODELS[name])["source"]
    repo = source["repo"] if source["kind"] == "hub" else None
    return {"origin": origin(source), "repo": repo, "licence": licence_of(source)}


def _metrics(evaluation: Path, primary: str) -> dict[str, Any]:
    """Return metrics by test set, the primary one first, and those of every class on the first test set."""
    rows = schemas.read_table(evaluation / "metrics.parquet", schemas.METRICS).to_pylist()
    whole = [row for row in rows if row["label"] is None and row["metric"] in KNOWN_METRICS]
    tests = list(dict.fromkeys(row["test_set"] for row in whole))
    found = {
        test: [
            (label_of(row["metric"]), score(row["metric"], row["value"]), _unit(row["metric"]))
            for row in sorted(whole, key=lambda row: row["metric"] != primary)
            if row["test_set"] == test
        ]
        for test in tests
    }
    classes: dict[str, dict[str, str]] = {}
    for row in rows:
        if row["test_set"] == tests[0] and row["metric"] in _OF_CLASSES:
            classes.setdefault(row["label"], {})[row["metric"]] = percent(row["value"])
    return {"metrics": found, "classes": classes, "primary": label_of(primary)}


def _unit(metric: str) -> str:
    return " %" if KNOWN_METRICS[metric].unit == "%" else ""


def _tables(results: Path, run: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the study's tables say of the variant; nothing if they are not there."""
    folder = results / "summary"
    if not is_artifact(folder, "summary"):
        return {"over_seeds": None, "times": []}
    metric = None
    variants = _of_variant(folder / "variants.parquet", schemas.VARIANTS, run)
    seeds: _Row | None = None
    for row in variants:
        if row["n"]:
            metric = row["primary_metric"]
            ends = [row[f"difference{end}"] for end in ("", "_low", "_high")]
            seeds = {
                "n": row["n"],
                "metric": label_of(metric),
                "mean": score(metric, row["primary_mean"]),
                "sd": None if row["primary_sd"] is None else score(metric, row["primary_sd"]),
                "difference": None if None in ends else [score(metric, value, sign=True) for value in ends],
            }
    times = [
        {
            **{name: row[name] for name in ("backend", "device", "device_name", "threads", "batch_size", "length")},
            "latency": number(row["latency_ms_mean"]),
            "speedup": speedup_cell(row),
            "memory": number(row["peak_memory_mb_mean"]),
        }
        for row in _of_variant(folder / "backends.parquet", schemas.BACKENDS, run)
    ]
    return {"over_seeds": seeds, "times": times}


def _of_variant(path: Path, schema: Any, run: Mapping[str, Any]) -> list[_Row]:
    table = schemas.read_table(path, schema)
    for name in _KEYS:
        table = table.filter(pc.equal(table[name], run[name]))
    rows: list[_Row] = table.to_pylist()
    return rows


def _megabytes(folder: Path, form: str) -> float:
    """Return the size of a form of the model, MB."""
    files = (folder / form).rglob("*") if (folder / form).is_dir() else folder.glob(GRAPH)
    return sum(file.stat().st_size for file in files if file.is_file()) / 1e6
