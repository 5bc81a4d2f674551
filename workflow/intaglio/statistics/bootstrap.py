"""Resamples of the test examples: any metrics of several runs, computed on the same resamples.

Every resample draws test examples with replacement, the same ones for all runs, so that differences between runs are
paired. Everything is deterministic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from intaglio.kinds import Draw, draw_examples
from intaglio.metrics import Classes, Judged, Metric

_Floats = npt.NDArray[np.float64]
_Integers = npt.NDArray[np.int64]
# A function of metrics, classes, runs and drawn rows that returns [runs, resamples] by metric; its metrics and runs.
_Way = tuple[Callable[..., dict[str, _Floats]], Sequence[Metric], Sequence[Any]]

_SEED = 20211
# Size of a block of resamples, in examples or cells of a confusion matrix.
_BLOCK = 8_000_000
# Cells of confusion matrices that are counted by one product.
_COLUMNS = 512


def resampled(
    metrics: Sequence[Metric], classes: Classes, runs: Sequence[Judged], resamples: int, draw: Draw = draw_examples
) -> _Floats:
    """Compute metrics of several runs on the same resamples of the test examples.

    Args:
        metrics: any metrics of examples; computed faster if they have `from_confusion` (of classes) or `means`.
        classes: the classes of the task.
        runs: at least one; all with the same examples in the same order.
        resamples: number of resamples; they do not depend on the number of runs.
        draw: draws the rows of resamples, as defined by the task's kind.

    Returns:
        [metrics, runs, resamples] values.
    """
    examples = len(runs[0].targets)
    # A metric may be asked for twice, as one of several and as the primary one.
    ways = _ways(list(dict.fromkeys(metrics)), classes, runs)
    random = np.random.default_rng([_SEED, examples])
    block = max(1, _BLOCK // max(examples, classes.count**2))
    values = []
    for start in range(0, resamples, block):
        rows = draw(random, min(block, resamples - start), examples)
        found: dict[str, _Floats] = {}
        for compute, of_metrics, prepared in ways:
            found |= compute(of_metrics, classes, prepared, rows)
        values.append(np.stack([found[metric.name] for metric in metrics]))
    return np.concatenate(values, axis=2)


def _ways(metrics: Sequence[Metric], classes: Classes, runs: Sequence[Judged]) -> list[_Way]:
    """Return the fastest way to compute each metric on resamples, with the runs as it takes them."""
    of_classes = runs[0].targets.ndim == 1 and np.issubdtype(runs[0].targets.dtype, np.integer)
    counted = [metric for metric in metrics if metric.from_confusion and of_classes]
    averaged = [metric for metric in metrics if metric.means and not of_classes]
    others = [metric for metric in metrics if metric not in counted and metric not in averaged]
    ways: list[_Way] = [(_by_confusion, counted, [_cells(run, classes.count) for run in runs])] if counted else []
    ways += [(_by_means, [m], [m.means.of_examples(run) for run in runs]) for m in averaged if m.means]
    return ways + ([(_one_by_one, others, list(runs))] if others else [])


def _counts(rows: _Integers, examples: int) -> npt.NDArray[np.float32]:
    """Return how often each example occurs in each resample, [resamples, examples]."""
    resamples = len(rows)
    places = rows + np.arange(resamples)[:, None] * examples
    counts = np.bincount(places.ravel(), minlength=resamples * examples).reshape(resamples, examples)
    return counts.astype(np.float32)


def _by_means(metrics: Sequence[Metric], _: Classes, runs: Sequence[_Floats], rows: _Integers) -> dict[str, _Floats]:
    counts = _counts(rows, len(runs[0])).astype(np.float64)
    (metric,) = metrics
    assert metric.means is not None
    values = [metric.means.combine(counts @ of_examples / rows.shape[1]) for of_examples in runs]
    return {metric.name: np.stack(values)}


def _one_by_one(
    metrics: Sequence[Metric], classes: Classes, runs: Sequence[Judged], rows: _Integers
) -> dict[str, _Floats]:
    return {
        metric.name: np.array([[metric.compute(run.take(drawn), classes) for drawn in rows] for run in runs])
        for metric in metrics
    }


def _cells(run: Judged, classes: int) -> tuple[_Integers, _Integers]:
    """Return the non-empty cells of a run's confusion matrix, and the cell of each example."""
    return np.unique(run.targets * classes + run.predictions, return_inverse=True)


def _by_confusion(
    metrics: Sequence[Metric], classes: Classes, runs: Sequence[Any], rows: _Integers
) -> dict[str, _Floats]:
    resamples, examples = len(rows), len(runs[0][1])
    counts = _counts(rows, examples)
    values: dict[str, list[_Floats]] = {metric.name: [] for metric in metrics}
    # Some runs at a time: a product of many is faster, and memory does not grow with the number of runs.
    some = max(1, _COLUMNS // classes.count**2)
    for start in range(0, len(runs), some):
        part = runs[start : start + some]
        member = np.concatenate([of_example[:, None] == np.arange(len(cells)) for cells, of_example in part], axis=1)
        # Exact in float32: no cell counts more than 2^24 examples.
        found = counts @ member.astype(np.float32)
        ends = np.cumsum([len(cells) for cells, _ in part])[:-1]
        for (cells, _), of_run in zip(part, np.split(found, ends, axis=1), strict=True):
            counted = np.zeros((resamples, classes.count**2))
            counted[:, cells] = of_run
            confusion = counted.reshape(resamples, classes.count, classes.count)
            for metric in metrics:
                assert metric.from_confusion is not None
                values[metric.name].append(metric.from_confusion(confusion, classes))
    return {name: np.stack(of_runs) for name, of_runs in values.items()}
