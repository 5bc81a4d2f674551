"""How sure a difference between two variants is: a bootstrap paired over examples and seeds.

Two things would come out otherwise another time: which examples the test set holds, and which seeds were drawn. Every
resample draws both with replacement, independently, and takes for both variants the same examples and the same seeds
(two-way resampling of crossed factors: Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 1(2), 2007). The
metric is computed anew on every resample, so the interval holds for Matthews correlation or F1 as for accuracy.

With one seed the interval speaks of examples only; with few it is too narrow for what new seeds would do, since n
resampled seeds vary by (n - 1) / n of what n new ones do. Everything is deterministic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from intaglio.metrics import Classes, Judged, Metric
from intaglio.tasks.kinds import Draw, draw_examples

_Floats = npt.NDArray[np.float64]
_Integers = npt.NDArray[np.int64]

_SEED = 20211
# Numbers of a block of resamples: examples or cells of a confusion matrix.
_BLOCK = 8_000_000


def resampled(
    metric: Metric, classes: Classes, runs: Sequence[Judged], resamples: int, draw: Draw = draw_examples
) -> _Floats:
    """Compute a metric of several runs on the same resamples of the test examples.

    Args:
        metric: any that is computed from examples; fast where it can be computed from a confusion matrix.
        classes: of the task.
        runs: the same examples in the same order in each; at least one.
        resamples: how many; the same call with more runs draws the same ones.
        draw: draws the rows of resamples, as the task's kind has it.

    Returns:
        [runs, resamples] values.
    """
    examples = len(runs[0].targets)
    compute = _by_confusion if metric.from_confusion else _one_by_one
    prepared = [_cells(run, classes.count) if metric.from_confusion else run for run in runs]
    random = np.random.default_rng([_SEED, examples])
    block = max(1, _BLOCK // max(examples, classes.count**2))
    values = []
    for start in range(0, resamples, block):
        rows = draw(random, min(block, resamples - start), examples)
        values.append(compute(metric, classes, prepared, rows))
    return np.concatenate(values, axis=1)


def _one_by_one(metric: Metric, classes: Classes, runs: Sequence[Any], rows: _Integers) -> _Floats:
    return np.array([[metric.compute(run.take(drawn), classes) for drawn in rows] for run in runs])


def _cells(run: Judged, classes: int) -> tuple[_Integers, _Integers]:
    """Return the cells of a run's confusion matrix that are not empty, and which example is in which of them."""
    return np.unique(run.targets * classes + run.predictions, return_inverse=True)


def _by_confusion(metric: Metric, classes: Classes, runs: Sequence[Any], rows: _Integers) -> _Floats:
    assert metric.from_confusion is not None
    resamples, examples = len(rows), len(runs[0][1])
    places = rows + np.arange(resamples)[:, None] * examples
    counts = np.bincount(places.ravel(), minlength=resamples * examples).reshape(resamples, examples)
    counts = counts.astype(np.float32)
    values = []
    # Run by run, so that the memory does not grow with them.
    for cells, of_example in runs:
        member = (of_example[:, None] == np.arange(len(cells))).astype(np.float32)
        confusion = np.zeros((resamples, classes.count**2))
        # Exact in float32: no cell counts more than 2^24 examples.
        confusion[:, cells] = counts @ member
        values.append(metric.from_confusion(confusion.reshape(resamples, classes.count, classes.count), classes))
    return np.stack(values)


def interval(variant: _Floats, baseline: _Floats, level: float = 0.95) -> tuple[float, float]:
    """Return the percentile interval of the mean difference, with seeds resampled too.

    Args:
        variant: [seeds, resamples] values of `resampled`.
        baseline: the same of the baseline, of the same seeds in the same order.
        level: of confidence.
    """
    seeds, resamples = variant.shape
    random: Any = np.random.default_rng([_SEED, seeds, 1])
    drawn = random.integers(0, seeds, (seeds, resamples))
    differences = np.take_along_axis(variant - baseline, drawn, axis=0).mean(0)
    low, high = np.quantile(differences, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
