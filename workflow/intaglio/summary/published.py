"""Published figures for RoBERTa-base on GLUE, compared with the measured ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from intaglio.summary.hardware import of_one_device
from intaglio.summary.variants import mean_sd

PUBLISHED_MODEL, DATA = "FacebookAI/roberta-base", "nyu-mll/glue"


class PublishedFigure(NamedTuple):
    """One published number: GLUE task, variant, column of runs.parquet, value in that column's unit."""

    task: str
    variant: str
    column: str
    value: float


class Publication(NamedTuple):
    """A source of figures, with the conditions of its scores, of single tasks and of its times."""

    name: str
    scores: str
    of_task: Mapping[str, str]
    seconds: str
    figures: tuple[PublishedFigure, ...]

    def conditions(self, figure: PublishedFigure) -> str:
        """Return the conditions of a figure."""
        if figure.column == "train_seconds":
            return self.seconds
        return "; ".join(filter(None, [self.of_task.get(figure.task), self.scores]))


def _students() -> tuple[PublishedFigure, ...]:
    table = {
        "mnli": (87.6, 10348.4, 86.6, 48243.7),
        "sst2": (95.0, 2362.5, 94.3, 15238.0),
        "cola": (84.1, 766.8, 69.4, 4349.6),
        "rte": (78.0, 607.3, 66.8, 1553.5),
    }
    return tuple(
        PublishedFigure(task, variant, column, value)
        for task, (f_accuracy, f_seconds, i_accuracy, i_seconds) in table.items()
        for variant, column, value in (
            ("float", "accuracy", f_accuracy / 100),
            ("int", "accuracy", i_accuracy / 100),
            ("float", "train_seconds", f_seconds),
            ("int", "train_seconds", i_seconds),
        )
    )


def _scores(variant: str, accuracy: Mapping[str, float], cola: float) -> tuple[PublishedFigure, ...]:
    scores = [PublishedFigure(task, variant, "accuracy", value / 100) for task, value in accuracy.items()]
    return (*scores, PublishedFigure("cola", variant, "matthews", cola / 100))


PUBLICATIONS = (
    Publication(
        "Students' study of I-BERT",
        "one figure, no spread",
        {"cola": "accuracy, where GLUE asks for Matthews correlation"},
        "one figure on an NVIDIA T4",
        _students(),
    ),
    Publication(
        "I-BERT (Kim et al., 2021)",
        "best development-set score over up to 16 settings, no seeds",
        {"mnli": "matched"},
        "",
        (
            *_scores("float", {"mnli": 87.8, "qnli": 92.8, "sst2": 94.6, "rte": 78.0}, 61.2),
            *_scores("int", {"mnli": 87.5, "qnli": 92.8, "sst2": 95.2, "rte": 79.4}, 62.5),
        ),
    ),
    Publication(
        "RoBERTa-base (Liu et al., 2019)",
        "development set",
        {"mnli": "matched"},
        "",
        _scores("float", {"mnli": 87.6, "sst2": 94.8, "rte": 78.7}, 63.6),
    ),
)


def published_rows(study: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for every published figure with a counterpart in the study, whatever the names of its tasks.

    Args:
        study: the resolved study file.
        runs: rows of runs.parquet; those that are not ok are ignored.
    """
    models = [name for name, model in study["models"].items() if model["source"].get("repo") == PUBLISHED_MODEL]
    rows = []
    for name, task in study["tasks"].items():
        if task["source"].get("repo") != DATA:
            continue
        for publication in PUBLICATIONS:
            for figure in publication.figures:
                if figure.task == task["source"].get("config") and figure.variant in study["variants"]:
                    rows += [_row(name, model, publication, figure, runs) for model in models]
    return rows


def _row(
    task: str, model: str, publication: Publication, figure: PublishedFigure, runs: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    wanted = {"task": task, "model": model, "variant": figure.variant, "status": "ok"}
    mine = of_one_device([run for run in runs if all(run[key] == value for key, value in wanted.items())])
    mean, sd = mean_sd(run.get(figure.column) for run in mine)
    seconds = figure.column == "train_seconds"
    devices = ", ".join(sorted({run["trained_on"] for run in mine if run.get("trained_on")}))
    test_sets = ", ".join(sorted({run["test_set"] for run in mine if run.get("test_set")}))
    return {
        **{key: wanted[key] for key in ("task", "model", "variant")},
        "quantity": figure.column,
        "unit": "s" if seconds else "share",
        "source": publication.name,
        "published": figure.value,
        "measured_mean": mean,
        "measured_sd": sd,
        "n": len(mine),
        "published_conditions": publication.conditions(figure),
        "measured_conditions": devices if seconds else f"GLUE development set ({test_sets}), never selected on",
    }
