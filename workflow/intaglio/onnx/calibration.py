"""Ranges of activations from the values in a graph: of all values, of a percentile, or with the least squared error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from intaglio.onnx.graph import save
from intaglio.onnx.int8_graph import RANGE_STEPS, ActivationRange
from intaglio.onnx.session import open_session

if TYPE_CHECKING:
    import onnx

Calibration = Literal["min-max", "percentile", "mse"]
_Floats = NDArray[np.floating[Any]]
# Bins of a histogram from the smallest to the largest value: 32 bins per step of the widest range.
BINS = 32 * RANGE_STEPS
# Candidate ends of a range on each side of zero, evenly spaced up to the extreme value.
PARTS = 64


@dataclass
class Histogram:
    """Histogram of an activation: `counts` of equal bins from `low` to `high`."""

    low: float
    high: float
    counts: NDArray[np.int64]

    @property
    def edges(self) -> _Floats:
        """Edges of the bins."""
        return np.linspace(self.low, self.high, len(self.counts) + 1)


def activation_ranges(
    model: onnx.ModelProto,
    names: Sequence[str],
    batches: Sequence[dict[str, NDArray[np.int64]]],
    calibration: Calibration,
    percentile: float,
    threads: int,
    work: Path,
) -> dict[str, ActivationRange]:
    """Return the ranges of values in a float graph.

    Args:
        model: the graph.
        names: of the values.
        batches: inputs of the graph without padding, which would be counted.
        calibration: `min-max`, `percentile` or `mse`, as in the study's options.
        percentile: for `percentile`: share of the values inside the range, %; equal shares are left out above and
            below.
        threads: of ONNX Runtime.
        work: a folder for the graph.
    """
    values = _watched(model, names, threads, work / "calibration.onnx")
    extremes = dict.fromkeys(names, (0.0, 0.0))
    for batch in batches:
        for name, x in values(batch).items():
            low, high = extremes[name]
            extremes[name] = (min(low, float(x.min())), max(high, float(x.max())))
    if calibration == "min-max":
        return {name: ActivationRange(*extremes[name]) for name in names}
    histograms = {name: Histogram(*extremes[name], np.zeros(BINS, np.int64)) for name in names}
    for batch in batches:
        for name, x in values(batch).items():
            count(histograms[name], x)
    if calibration == "percentile":
        return {name: percentile_range(histograms[name], percentile) for name in names}
    return {name: least_error_range(histograms[name]) for name in names}


def _watched(
    model: onnx.ModelProto, names: Sequence[str], threads: int, path: Path
) -> Callable[[dict[str, NDArray[np.int64]]], dict[str, _Floats]]:
    """Return a function from inputs of a graph to values in it."""
    import onnx

    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    outputs = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    shown.graph.output.extend(outputs)
    save(shown, path)
    session = open_session(path, threads)
    wanted = list(names)
    return lambda batch: dict(zip(wanted, session.run(wanted, batch), strict=True))


def count(histogram: Histogram, values: _Floats) -> None:
    """Add values to a histogram whose range holds them."""
    if histogram.high > histogram.low:
        histogram.counts += np.histogram(values, len(histogram.counts), (histogram.low, histogram.high))[0]


def percentile_range(histogram: Histogram, percentile: float) -> ActivationRange:
    """Return the range that holds this share of the values, %, with equal shares above and below; it includes 0."""
    below = np.concatenate([[0], np.cumsum(histogram.counts)])
    if not below[-1]:
        return ActivationRange(histogram.low, histogram.high)
    shares = np.array([100 - percentile, 100 + percentile]) / 200
    low, high = np.interp(shares * below[-1], below, histogram.edges)
    return ActivationRange(min(0.0, float(low)), max(0.0, float(high)))


def least_error_range(histogram: Histogram) -> ActivationRange:
    """Return the range with the least squared error of 8-bit integers, among `PARTS` x `PARTS` ranges."""
    used = np.flatnonzero(histogram.counts)
    edges = histogram.edges
    values, weights = ((edges[:-1] + edges[1:]) / 2)[used], histogram.counts[used]
    parts = np.arange(1, PARTS + 1) / PARTS
    best, least = ActivationRange(histogram.low, histogram.high), np.inf
    for low in np.unique(histogram.low * parts):
        highs = np.unique(histogram.high * parts)
        errors = [float(weights @ squared_errors(values, ActivationRange(low, high))) for high in highs if high > low]
        if errors and min(errors) < least:
            least, best = min(errors), ActivationRange(float(low), float(highs[highs > low][np.argmin(errors)]))
    return best


def squared_errors(values: _Floats, known: ActivationRange) -> _Floats:
    """Return the squared error of every value as an 8-bit integer of this range."""
    zero = int(known.zero_point)
    integers = np.clip(np.rint(values / known.scale) + zero, 0, RANGE_STEPS) - zero
    errors: _Floats = values - integers * known.scale
    return errors * errors
