"""Two questions to a study of sentiment: does quantization hurt small data more, and what is best kept in float?

    python benchmarks/sentiment.py [results/sentiment-cpu]

Run where the study ran. It prints tables in Markdown, of the study's predictions and tables. The second, of variants,
is for any study of one model with `int` and a control, such as results/mixed.

Differences are means over seeds of the primary metric, with 95 % intervals over test examples and seeds, as in all
tables. Tasks share neither test examples nor trainings, so half-widths of several add in squares: the mean of n tasks
has the half-width sqrt(sum of squares) / n, and the slope is that of least squares, weighted by 1 / square.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from intaglio.predictions import ReadOnce
from intaglio.schemas import BACKENDS, read_table
from intaglio.store import open_artifact
from intaglio.summary.controls import control_of
from intaglio.summary.differences import Differences
from intaglio.summary.runs import Record, read_run
from intaglio.summary.variants import BASELINE

RESAMPLES = 4_000
INTEGER = "int"


class Interval(NamedTuple):
    """A value and half the width of its interval, points."""

    value: float
    half: float

    def __str__(self) -> str:
        text = f"{self.value:+.2f} [{self.value - self.half:+.2f}, {self.value + self.half:+.2f}]"
        return text.replace("-", "−")


class Study:
    """The finished runs of a study with one model.

    Args:
        folder: its results.
    """

    def __init__(self, folder: Path) -> None:
        plan = json.loads((folder / "plan.json").read_text())
        self.content = plan["study"]
        self.tasks = sorted(self.content["tasks"], key=lambda task: self._examples(plan, task))
        self.examples = {task: self._examples(plan, task) for task in self.tasks}
        records = [read_run(plan["study"], run) for run in plan["runs"]]
        self._records = {task: [record for record in records if record.row["task"] == task] for task in self.tasks}
        self._differences = {task: Differences(self._records[task], ReadOnce(), RESAMPLES, 1.0) for task in self.tasks}
        recipes = {run["variant"]: run["recipe"] for run in plan["runs"]}
        self.variants = list(recipes)
        control = control_of(INTEGER, recipes)
        if control is None:
            raise SystemExit(f"{folder}: the study has no control, a variant with the stage `continue`")
        self.control = control
        self.backends = read_table(folder / "summary/backends.parquet", BACKENDS).to_pylist()

    @staticmethod
    def _examples(plan: Mapping[str, list[dict[str, str]]], task: str) -> int:
        data = next(run["data"] for run in plan["runs"] if run["task"] == task)
        return int(open_artifact(Path(data), "data")["splits"]["train"]["examples"])

    def records(self, task: str, variant: str) -> list[Record]:
        """Return a variant's runs."""
        return [record for record in self._records[task] if record.row["variant"] == variant]

    def score(self, task: str, variant: str) -> float:
        """Return the mean over seeds of the primary metric, in percent."""
        values = [100 * record.row["primary_value"] for record in self.records(task, variant)]
        return sum(values) / len(values)

    def difference(self, task: str, variant: str, other: str) -> Interval:
        """Return the mean over seeds of one variant's metric minus that of another."""
        seeds = [record.row["seed"] for record in self.records(task, variant)]
        low, high = self._differences[task].mean(variant, other, seeds).interval()
        return Interval(50 * (low + high), 50 * (high - low))

    def over_tasks(self, variant: str, other: str) -> Interval:
        """Return the mean over tasks of the difference."""
        found = [self.difference(task, variant, other) for task in self.tasks]
        return Interval(
            sum(each.value for each in found) / len(found),
            math.sqrt(sum(each.half**2 for each in found)) / len(found),
        )

    def fastest(self, variant: str) -> tuple[str, float, float]:
        """Return the fastest backend, and geometric means over tasks of its time in ms and of its speed-up."""
        rows = [row for row in self.backends if row["variant"] == variant and row["fastest"]]
        names = ", ".join(sorted({row["backend"] for row in rows}))
        return names, *(
            math.exp(sum(math.log(row[name]) for row in rows) / len(rows)) for name in ("latency_ms_mean", "speedup")
        )


def slope(sizes: Sequence[int], found: Sequence[Interval]) -> Interval:
    """Return by how much a difference changes when the training data doubles."""
    x = [math.log2(size) for size in sizes]
    weights = [1 / each.half**2 for each in found]
    total = sum(weights)
    middle = sum(w * place for w, place in zip(weights, x, strict=True)) / total
    spread = sum(w * (place - middle) ** 2 for w, place in zip(weights, x, strict=True))
    product = sum(w * (place - middle) * each.value for w, place, each in zip(weights, x, found, strict=True))
    return Interval(product / spread, 1 / math.sqrt(spread))


def by_size(study: Study) -> None:
    """Print what more training and integers change, task by task."""
    print(f"| task | training examples | {BASELINE}, % | {study.control} | {INTEGER} | {INTEGER} − {study.control} |")
    print("| --- | --- | --- | --- | --- | --- |")
    for task in study.tasks:
        cells = [study.difference(task, *pair) for pair in _pairs(study)]
        print(
            f"| {task} | {study.examples[task]:,} | {study.score(task, BASELINE):.2f} | {' | '.join(map(str, cells))} |"
        )
    over = [study.over_tasks(*pair) for pair in _pairs(study)]
    print(f"| mean of tasks | | | {' | '.join(map(str, over))} |")
    if len(study.tasks) == 1:
        return
    costs = [study.difference(task, INTEGER, study.control) for task in study.tasks]
    least, most = costs[0], costs[-1]
    contrast = Interval(least.value - most.value, math.hypot(least.half, most.half))
    print(f"\nSmallest minus largest task: {contrast}; for each doubling of the training data: ", end="")
    print(slope([study.examples[task] for task in study.tasks], costs))


def _pairs(study: Study) -> list[tuple[str, str]]:
    return [(study.control, BASELINE), (INTEGER, BASELINE), (INTEGER, study.control)]


def by_variant(study: Study) -> None:
    """Print accuracy and time of every variant, over tasks."""
    print(f"| variant | − {study.control}, points | − {INTEGER}, points | fastest backend | time, ms | speed-up |")
    print("| --- | --- | --- | --- | --- | --- |")
    for variant in study.variants:
        to = ["" if variant == other else str(study.over_tasks(variant, other)) for other in (study.control, INTEGER)]
        backend, time, speedup = study.fastest(variant)
        print(f"| {variant} | {' | '.join(to)} | {backend} | {time:.2f} | {speedup:.2f} |")


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="?", default=Path("results/sentiment-cpu"))
    study = Study(parser.parse_args().results)
    by_size(study)
    print()
    by_variant(study)


if __name__ == "__main__":
    main()
