"""How sure a difference between two variants is: a bootstrap paired over examples and seeds.

Two things would come out otherwise another time: which examples the test set holds, and which seeds were drawn. Every
resample draws both with replacement, independently, and takes for both variants the same examples and the same seeds
(two-way resampling of crossed factors: Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 1(2), 2007). The
metric is computed anew on every resample, so the interval holds for Matthews correlation or F1 as for accuracy.

With one seed the interval speaks of examples only; with few it is too narrow for what new seeds would do, since n
resampled seeds vary by (n - 1) / n of what n new ones do. Everything is deterministic.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from intaglio.errors import UserError, nearest

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_SEED = 20211
# Counts of a block of resamples over all examples, float32: 32 MB.
_BLOCK = 8_000_000


def _ratio(above: Floats, below: Floats) -> Floats:
    """Divide; what is undefined (0 / 0: a class that nobody has or predicts) is 0, as scikit-learn has it."""
    return np.divide(above, below, out=np.zeros_like(above), where=below != 0)


def metric_of(name: str, confusion: Floats) -> Floats:
    """Compute a metric from confusion matrices.

    Args:
        name: accuracy, balanced_accuracy, f1_macro, f1 (of class 1, for two classes), matthews or cohen_kappa.
        confusion: [..., true class, predicted class] counts, float64.

    Returns:
        [...] values. A class without examples does not count in balanced_accuracy, and is 0 in f1_macro.
    """
    total = confusion.sum((-2, -1))
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    true, predicted = confusion.sum(-1), confusion.sum(-2)
    if name == "accuracy":
        return _ratio(hits.sum(-1), total)
    if name == "balanced_accuracy":
        return _ratio(_ratio(hits, true).sum(-1), (true > 0).sum(-1).astype(np.float64))
    if name in ("f1_macro", "f1"):
        scores = _ratio(2 * hits, true + predicted)
        return scores[..., 1] if name == "f1" else np.asarray(scores.mean(-1))
    if name == "matthews":
        covariance = hits.sum(-1) * total - (true * predicted).sum(-1)
        variances = (total**2 - (true**2).sum(-1)) * (total**2 - (predicted**2).sum(-1))
        return _ratio(covariance, np.sqrt(variances))
    if name == "cohen_kappa":
        by_chance = (true * predicted).sum(-1)
        return _ratio(hits.sum(-1) * total - by_chance, total**2 - by_chance)
    known = ("accuracy", "balanced_accuracy", "f1_macro", "f1", "matthews", "cohen_kappa")
    raise UserError(f"tasks: no interval can be computed for metric {name!r}, {nearest(name, known)}")


def resampled(metric: str, labels: Ints, predictions: Ints, classes: int, resamples: int) -> Floats:
    """Compute a metric of several runs on the same resamples of the test examples.

    Args:
        metric: as for `metric_of`.
        labels: [examples] true classes.
        predictions: [runs, examples] predicted classes, in the same order of examples.
        classes: number of classes.
        resamples: how many; the same call with more runs draws the same ones.

    Returns:
        [runs, resamples] values.
    """
    examples = labels.shape[0]
    cells = classes * classes
    # One column a run and cell of its confusion matrix: a resample's matrices are its counts times these columns.
    member = (labels * classes + predictions)[:, None, :] == np.arange(cells)[None, :, None]
    columns = member.reshape(-1, examples).T.astype(np.float32)
    random = np.random.default_rng([_SEED, examples])
    block = max(1, _BLOCK // examples)
    values = []
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        drawn = random.integers(0, examples, (rows, examples)) + np.arange(rows)[:, None] * examples
        counts = np.bincount(drawn.ravel(), minlength=rows * examples).reshape(rows, examples)
        # Exact in float32: no cell counts more than 2^24 examples.
        confusion = (counts.astype(np.float32) @ columns).astype(np.float64)
        values.append(metric_of(metric, confusion.reshape(rows, -1, classes, classes)))
    return np.concatenate(values).T


def interval(variant: Floats, baseline: Floats, level: float = 0.95) -> tuple[float, float]:
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
