"""Published figures compared with the measured ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from intaglio.hardware import of_one_device
from intaglio.publications import PUBLICATIONS, UNITS, Publication, PublishedFigure
from intaglio.summary.variants import mean_sd


def published_rows(
    study: Mapping[str, Any], runs: Sequence[Mapping[str, Any]], backends: Sequence[Mapping[str, Any]] = ()
) -> list[dict[str, Any]]:
    """Return a row for every published figure with a counterpart in the study, whatever the names of its tasks.

    Args:
        study: the resolved study file.
        runs: rows of runs.parquet; those that are not ok are ignored.
        backends: rows of backends.parquet, for the time of a call.
    """
    rows = []
    for name, task in study["tasks"].items():
        for publication in PUBLICATIONS:
            models = [key for key, model in study["models"].items() if model["source"].get("repo") == publication.model]
            for figure in publication.figures:
                if figure.task == publication.data(task) and figure.variant in study["variants"]:
                    rows += [_row(name, model, publication, figure, runs, backends) for model in models]
    return rows


def _row(
    task: str,
    model: str,
    publication: Publication,
    figure: PublishedFigure,
    runs: Sequence[Mapping[str, Any]],
    backends: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    wanted = {"task": task, "model": model, "variant": figure.variant}
    mine = of_one_device([run for run in runs if _has(run, {**wanted, "status": "ok"})])
    measured: dict[str, Any] = {"measured_mean": None, "measured_sd": None, "n": len(mine), "measured_conditions": ""}
    if figure.column == "latency_ms":
        for timed in [row for row in backends if _has(row, {**wanted, "fastest": True, "device": "cpu"})]:
            measured["measured_mean"], measured["measured_sd"] = (
                timed[f"latency_ms_{part}"] for part in ("mean", "sd")
            )
            measured["measured_conditions"] = (
                f"{timed['backend']} on {timed['device_name']}, batch {timed['batch_size']} by {timed['length']} tokens"
            )
            measured["n"] = timed["n"]
    else:
        measured["measured_mean"], measured["measured_sd"] = mean_sd(run.get(figure.column) for run in mine)
    if figure.column == "train_seconds":
        measured["measured_conditions"] = _listed(mine, "trained_on")
    elif figure.column not in UNITS:
        measured["measured_conditions"] = f"{publication.test_set} ({_listed(mine, 'test_set')}), never selected on"
    return {
        **wanted,
        "quantity": figure.column,
        "unit": UNITS.get(figure.column, "share"),
        "source": publication.name,
        "published": figure.value,
        "published_conditions": publication.conditions(figure),
        **measured,
    }


def _has(row: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return all(row[key] == value for key, value in wanted.items())


def _listed(runs: Sequence[Mapping[str, Any]], column: str) -> str:
    return ", ".join(sorted({run[column] for run in runs if run.get(column)}))
