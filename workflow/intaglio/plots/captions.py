"""What the plots have in common: which variants and values they show, and what their captions say of them."""

from __future__ import annotations

from intaglio.metrics import named
from intaglio.summary.read import Panel, Summary
from intaglio.summary.variants import BASELINE

INTEGER = "int"


def pair(summary: Summary) -> list[str]:
    """Return float and end-to-end integer, or whatever variants there are in a study without them."""
    wanted = [name for name in (BASELINE, INTEGER) if name in summary.variants]
    return wanted if len(wanted) == 2 else list(summary.variants)


def seeds_shown(summary: Summary) -> str:
    """Say what marks mean, by how many seeds there are."""
    seeds = {run["seed"] for panel in summary.panels for run in panel.runs}
    if len(seeds) == 1:
        return "One seed."
    return f"Large marks: mean ± standard deviation over {len(seeds)} seeds; small dots: seeds."


def metric_name(panel: Panel) -> str:
    """Return how the panel's primary metric is called on an axis."""
    return named(panel.runs[0]["primary_metric"]).axis
