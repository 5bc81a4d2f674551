"""Numbers and names in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from intaglio.metrics import named


def in_points(row: Mapping[str, Any], value: float) -> str:
    """Return a difference in the primary metric, in points, or in the metric's unit if it has none."""
    metric = named(row["primary_metric"])
    text = f"{value * 100:+.1f}" if metric.scale == 100 else f"{value:+.3g}"
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", "−")


def three_digits(value: float) -> str:
    """Return a positive number with three digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def listed(names: Sequence[str]) -> str:
    """Return names as a list in a sentence."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
