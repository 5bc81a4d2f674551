"""Resamples of the test examples: any metric of several runs, computed on the same resamples.

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

_SEED = 20211
# Size of a block of resamples, in examples or cells of a confusion matrix.
_BLOCK = 8_000_000
# Cells of confusion matrices that are counted by one product.
_COLUMNS = 512


def resampled(
    metric: Metric, classes: Classes, runs: Sequence[Judged], resamples: int, draw: Draw = draw_examples
) -> _Floats:
    """Compute a metric of several runs on the same resamples of the test examples.

    Args:
        metric: any metric of examples; computed faster if it has `from_confusion` (of classes) or `means`.
        classes: the classes of the task.
        runs: at least one; all with the same examples in the same order.
        resamples: number of resamples; they do not depend on the number of runs.
        draw: draws the rows of resamples, as defined by the task's kind.

    Returns:
        [runs, resamples] values.
    """
    examples = len(runs[0].targets)
    compute, prepared = _prepared(metric, classes, runs)
    random = np.random.default_rng([_SEED, examples])
    block = max(1, _BLOCK // max(examples, classes.count**2))
    values = []
    for start in range(0, resamples, block):
        rows = draw(random, min(block, resamples - start), examples)
        values.append(compute(metric, classes, prepared, rows))
    return np.concatenate(values, axis=1)


def _prepared(metric: Metric, classes: Classes, runs: Sequence[Judged]) -> tuple[Callable[..., _Floats], list[Any]]:
    """Return the fastest way to compute a metric on resamples, and the runs as it takes them."""
    of_classes = runs[0].targets.ndim == 1 and np.issubdtype(runs[0].targets.dtype, np.integer)
    if metric.from_confusion and of_classes:
        return _by_confusion, [_cells(run, classes.count) for run in runs]
    if metric.means and not of_classes:
        return _by_means, [metric.means.of_examples(run) for run in runs]
    return _one_by_one, list(runs)


def _counts(rows: _Integers, examples: int) -> npt.NDArray[np.float32]:
    """Return how often each example occurs in each resample, [resamples, examples]."""
    resamples = len(rows)
    places = rows + np.arange(resamples)[:, None] * examples
    counts = np.bincount(places.ravel(), minlength=resamples * examples).reshape(resamples, examples)
    return counts.astype(np.float32)


def _by_means(metric: Metric, _: Classes, runs: Sequence[_Floats], rows: _Integers) -> _Floats:
    assert metric.means is not None
    counts = _counts(rows, len(runs[0])).astype(np.float64)
    return np.stack([metric.means.combine(counts @ of_examples / rows.shape[1]) for of_examples in runs])


def _one_by_one(metric: Metric, classes: Classes, runs: Sequence[Any], rows: _Integers) -> _Floats:
    return np.array([[metric.compute(run.take(drawn), classes) for drawn in rows] for run in runs])


def _cells(run: Judged, classes: int) -> tuple[_Integers, _Integers]:
    """Return the non-empty cells of a run's confusion matrix, and the cell of each example."""
    return np.unique(run.targets * classes + run.predictions, return_inverse=True)


def _by_confusion(metric: Metric, classes: Classes, runs: Sequence[Any], rows: _Integers) -> _Floats:
    assert metric.from_confusion is not None
    resamples, examples = len(rows), len(runs[0][1])
    counts = _counts(rows, examples)
    values = []
    # Some runs at a time: a product of many is faster, and memory does not grow with the number of runs.
    some = max(1, _COLUMNS // classes.count**2)
    for start in range(0, len(runs), some):
        part = runs[start : start + some]
        member = np.concatenate([of_example[:, None] == np.arange(len(cells)) for cells, of_example in part], axis=1)
        # Exact in float32: no cell counts more than 2^24 examples.
        found = counts @ member.astype(np.float32)
        ends = np.cumsum([len(cells) for cells, _ in part])[:-1]
        for (cells, _), of_run in zip(part, np.split(found, ends, axis=1), strict=True):
            confusion = np.zeros((resamples, classes.count**2))
            confusion[:, cells] = of_run
            values.append(metric.from_confusion(confusion.reshape(resamples, classes.count, classes.count), classes))
    return np.stack(values)
