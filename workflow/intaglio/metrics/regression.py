"""Metrics of regression."""

from __future__ import annotations

import numpy as np

from intaglio.metrics.metric import REGRESSION, Classes, Floats, Judged, Means, Metric

_KINDS = frozenset({REGRESSION})
# A variance below this share of the mean square is rounding.
_NEGLIGIBLE = 1e-12


def _squares(judged: Judged) -> Floats:
    return np.square(_errors(judged))


def _errors(judged: Judged) -> Floats:
    """Return absolute errors, [examples, 1]."""
    errors: Floats = np.abs(judged.predictions.astype(np.float64) - judged.targets)[:, None]
    return errors


def _mean(means: Floats) -> Floats:
    value: Floats = means[..., 0]
    return value


def _moments(judged: Judged) -> Floats:
    return _moments_of(judged.targets, judged.predictions)


def _moments_of(first: Floats, second: Floats) -> Floats:
    """Return both values with their mean subtracted, against cancellation, their squares and their product."""
    x, y = (_centered(values.astype(np.float64)) for values in (first, second))
    return np.stack([x, y, x * x, y * y, x * y], axis=1)


def _centered(values: Floats) -> Floats:
    # The mean of equal values may differ from them by rounding.
    return values - values.mean() if np.ptp(values) else np.zeros_like(values)


def _correlation(means: Floats) -> Floats:
    """Return Pearson's correlation; 0 if either side is constant."""
    x, y, xx, yy, xy = np.moveaxis(means, -1, 0)
    variances = [square - mean**2 for square, mean in ((xx, x), (yy, y))]
    known = (variances[0] > _NEGLIGIBLE * xx) & (variances[1] > _NEGLIGIBLE * yy)
    scale = np.sqrt(np.where(known, variances[0] * variances[1], 1.0))
    return np.where(known, np.clip((xy - x * y) / scale, -1.0, 1.0), 0.0)


def _spearman(judged: Judged, _: Classes) -> float:
    """Return the correlation of ranks, the mean rank for equal values; 0 if either side is constant."""
    from scipy.stats import rankdata

    ranks = (rankdata(values) for values in (judged.targets, judged.predictions))
    return float(_correlation(_moments_of(*ranks).mean(0)))


_PEARSON, _MSE, _MAE = Means(_moments, _correlation), Means(_squares, _mean), Means(_errors, _mean)
OF_VALUES = (
    Metric("pearson", "Pearson correlation", "× 100", _PEARSON, _KINDS, means=_PEARSON),
    Metric("spearman", "Spearman correlation", "× 100", _spearman, _KINDS),
    Metric("mse", "mean squared error", "", _MSE, _KINDS, higher_is_better=False, means=_MSE),
    Metric("mae", "mean absolute error", "", _MAE, _KINDS, higher_is_better=False, means=_MAE),
)
