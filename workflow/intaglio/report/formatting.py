"""Formatting of numbers: rounded, with a true minus sign, never in scientific notation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from intaglio.measure.timing.ratios import is_measurable
from intaglio.metrics import named

NOTHING = "–"
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float | None, digits: int = 3) -> str:
    """Format to this number of significant digits, never in scientific notation, with a true minus sign."""
    if value is None:
        return NOTHING
    decimals = digits - 1
    for bound in (1, 10, 100, 1000):
        decimals -= abs(value) >= bound
    text = f"{value:.{max(0, min(decimals + 1, digits))}f}"
    return text.replace("-", "−")


def counted(value: float | None) -> str:
    """Format a number of examples, which is whole or a mean."""
    return NOTHING if value is None else f"{value:.1f}".removesuffix(".0").replace("-", "−")


def p_value(value: float | None) -> str:
    """Format a p value to three decimals."""
    return NOTHING if value is None else "< 0.001" if value < 0.0005 else f"{value:.3f}"


def percent(value: float | None, decimals: int = 1, sign: bool = False) -> str:
    """Format a share as percent (or points, for a correlation), without the sign."""
    if value is None:
        return NOTHING
    text = f"{100 * value:{'+' if sign else ''}.{decimals}f}"
    if float(text) == 0:
        text = f"{0:.{decimals}f}"
    return text.replace("-", "−")


def spread(mean: str, sd: str) -> str:
    """Join a mean and its standard deviation, if there is one."""
    return mean if NOTHING in (mean, sd) else f"{mean} ± {sd}"


def measured(mean: float | None, sd: float | None) -> str:
    """Format a mean with its standard deviation, to the same decimals, with one more if the deviation needs it."""
    if mean is None or sd is None:
        return number(mean)
    decimals = len(number(mean).partition(".")[2])
    decimals += 0 < sd < 0.5 * 10**-decimals
    return f"{mean:.{decimals}f} ± {sd:.{decimals}f}".replace("-", "−")


def power_of_ten(value: float) -> str:
    """Format a value by its power of ten, such as a rounding error; only 0 is shown as 0."""
    if value == 0:
        return "0"
    digits, _, power = f"{value:.0e}".partition("e")
    return f"{digits}·10{str(int(power)).translate(_RAISED)}"


def times(value: float | None) -> str:
    """Format a factor."""
    return NOTHING if value is None else f"{number(value)}×"


def is_faster_or_slower(row: Mapping[str, Any], end: str = "") -> bool:
    """Return whether a row's speed-up is known and its interval says that there is a difference."""
    return row[f"speedup{end}"] is not None and is_measurable(row[f"speedup{end}_low"], row[f"speedup{end}_high"])


def speedup_cell(row: Mapping[str, Any], end: str = "") -> str:
    """Format a row's speed-up (`end` "_any": over the fastest form of any precision) with its interval."""
    value, low, high = (row[f"speedup{end}{part}"] for part in ("", "_low", "_high"))
    if value is None or low == high == 1:
        return times(value)
    said = "" if is_faster_or_slower(row, end) else ", no difference"
    return f"{number(value)}× [{number(low)}, {number(high)}]{said}"


def speedup_in_short(row: Mapping[str, Any], end: str = "") -> str:
    """Format a row's speed-up without its interval, or say that no difference is measurable."""
    value, low, high = (row[f"speedup{end}{part}"] for part in ("", "_low", "_high"))
    own = value is None or low == high == 1
    return times(value) if own or is_faster_or_slower(row, end) else "no difference"


def score(metric: str | None, value: float | None, sign: bool = False) -> str:
    """Format a value of a metric: percent (or points), or in its own unit, for an error in the unit of the targets."""
    if value is None or metric is None or named(metric).scale == 100:
        return percent(value, sign=sign)
    return f"{'+' if sign and value > 0 else ''}{number(value)}"


def unit_of_differences(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the unit of differences in the primary metrics of these rows, in words."""
    scales = {named(row["primary_metric"]).scale for row in rows if row.get("primary_metric")}
    if scales <= {100}:
        return "in points"
    return "in the unit of the metric" if scales == {1} else "in points, of an error in its unit"


def primary_over_seeds(row: Mapping[str, Any]) -> str:
    """Format the primary metric in a row of variants.parquet: its mean over seeds with its deviation."""
    return spread(*(score(row["primary_metric"], row[f"primary_{part}"]) for part in ("mean", "sd")))


def value_heading(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the heading of the primary metric in rows of runs.parquet or variants.parquet."""
    metrics = {row["primary_metric"] for row in rows if row.get("primary_metric")}
    return "value, %" if all(named(metric).scale == 100 for metric in metrics) else "value"


def share_over_seeds(name: str) -> Callable[[Mapping[str, Any]], str]:
    """Return a formatter of a share in rows of variants.parquet: its mean over seeds with its deviation, percent."""
    return lambda row: spread(percent(row[f"{name}_mean"]), percent(row[f"{name}_sd"]))
