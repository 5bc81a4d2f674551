"""Variants, values and captions shared by the plots."""

from __future__ import annotations

from intaglio.metrics import named
from intaglio.summary.read import Panel, Summary
from intaglio.summary.variants import BASELINE

INTEGER = "int"


def pair(summary: Summary) -> list[str]:
    """Return float and the integer-only variant, or all variants of a study without them."""
    wanted = [name for name in (BASELINE, INTEGER) if name in summary.variants]
    return wanted if len(wanted) == 2 else list(summary.variants)


def seeds_shown(summary: Summary) -> str:
    """Return the meaning of marks, by the number of seeds."""
    seeds = {run["seed"] for panel in summary.panels for run in panel.runs}
    if len(seeds) == 1:
        return "One seed."
    return f"Large marks: mean ± standard deviation over {len(seeds)} seeds; small dots: seeds."


def metric_scale(panel: Panel) -> int:
    """Return the factor from values of the panel's primary metric to those on its axis."""
    return named(panel.runs[0]["primary_metric"]).scale


def metric_name(panel: Panel) -> str:
    """Return the axis label of the panel's primary metric."""
    return named(panel.runs[0]["primary_metric"]).axis
