"""Numbers and names in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from intaglio.metrics import Metric, named


def in_unit(row: Mapping[str, Any], value: float) -> str:
    """Return a difference in the primary metric: `+0.3 points`, or of a metric without points `+0.02 in its name`."""
    return _with_unit(row, _signed(row, value))


def with_interval(row: Mapping[str, Any], name: str) -> str:
    """Return the difference in the column `name` with its interval: `+0.3 points [−3.1, +3.7]`."""
    value, low, high = (_signed(row, row[f"{name}{end}"]) for end in ("", "_low", "_high"))
    return f"{_with_unit(row, value)} [{low}, {high}]"


def lost_at_most(metric: Metric | None, drop: float) -> str:
    """Return the largest loss to accept, in the metric's unit: `at most 1 point lost`."""
    if metric is not None and metric.scale == 1:
        return f"at most {drop:g} lost in {metric.label}"
    return f"at most {drop:g} {'point' if drop == 1 else 'points'} lost"


def _with_unit(row: Mapping[str, Any], text: str) -> str:
    metric = named(row["primary_metric"])
    return f"{text} points" if metric.scale == 100 else f"{text} in {metric.label}"


def _signed(row: Mapping[str, Any], value: float) -> str:
    text = f"{value * 100:+.1f}" if named(row["primary_metric"]).scale == 100 else f"{value:+.3g}"
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", "−")


def three_digits(value: float) -> str:
    """Return a positive number with three digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def listed(names: Sequence[str]) -> str:
    """Return names as a list in a sentence."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
