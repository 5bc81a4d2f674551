"""Plot of backends: grouped bars, one group per variant, one bar per backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from intaglio.plots.bars import deviations, rows_of_variants
from intaglio.plots.measured import (
    NOT_TIMED,
    devices_of,
    inference_conditions,
    speedup_caption,
    speedup_in_brackets,
    title_on,
)
from intaglio.plots.style import GREY, Look, statement
from intaglio.report.formatting import number
from intaglio.summary.read import Summary

# Colors distinguish variants, so fill patterns distinguish backends.
_FILLINGS: dict[str, dict[str, Any]] = {
    "torch": {"fill": False},
    "torch.compile": {"fill": False, "hatch": "//////"},
    "torch.sparse": {"fill": False, "hatch": "....."},
    "native": {"fill": True, "alpha": 0.5},
    "onnxruntime": {"fill": True},
    "openvino": {"fill": False, "hatch": "xxxxxx"},
    "torch-bf16": {"fill": False, "ls": "--"},
    "torch.compile-bf16": {"fill": False, "hatch": "//////", "ls": "--"},
    "openvino-bf16": {"fill": False, "hatch": "xxxxxx", "ls": "--"},
}


def inference_time_backends(summary: Summary, look: Look) -> Figure:
    """Draw inference time of every variant in every backend, on the CPU and, in separate panels, on the GPU."""
    title = "Inference time of every variant in every backend"
    devices = devices_of(summary)
    if not devices:
        return statement(title, NOT_TIMED)
    found = {row["backend"] for panel in summary.panels for row in panel.backends}
    backends = [name for name in _FILLINGS if name in found]
    caption = inference_conditions(summary)
    if any(row["n"] > 1 for panel in summary.panels for row in panel.backends):
        caption += " Bars: mean ± standard deviation over seeds."
    caption += speedup_caption(summary)
    legend = [Patch(facecolor=GREY, edgecolor=GREY, lw=1.2, label=name, **_FILLINGS[name]) for name in backends]
    names = list(summary.variants)
    height = 0.12 + 0.16 * len(backends)
    groups = [
        (title_on(device, panel, devices), rows)
        for device in devices
        for panel in summary.panels
        if (rows := [row for row in panel.backends if row["device"] == device])
    ]
    figure, axes = rows_of_variants(len(groups), names, title, caption, height=height, legend=legend)
    for ax, (heading, rows) in zip(axes, groups, strict=True):
        _groups(ax, rows, names, backends, look)
        ax.set(title=heading, xlabel="time of a call, ms")
    return figure


def _groups(
    ax: Axes, rows: Sequence[dict[str, Any]], names: Sequence[str], backends: Sequence[str], look: Look
) -> None:
    """Draw bars with their deviation, number and ratio, grouped by variant."""
    height = 0.82 / len(backends)
    several = []
    for row in rows:
        beside = backends.index(row["backend"]) - (len(backends) - 1) / 2
        place = names.index(row["variant"]) + beside * height
        mean, sd = row["latency_ms_mean"], row["latency_ms_sd"] or 0
        color = look.color(row["variant"])
        filling = _FILLINGS[row["backend"]]
        ax.barh(place, mean, height=height * 0.82, color=color, edgecolor=color, lw=1.1, **filling)
        if row["latency_ms_sd"] is not None:
            several.append((mean, place, sd))
        text = "  ".join(filter(None, [number(mean), speedup_in_brackets(row)]))
        ax.annotate(text, (mean + sd, place), (4, 0), textcoords="offset points", va="center", fontsize=7)
    if several:
        deviations(ax, several, elinewidth=1, capsize=1.8)
    top = max(row["latency_ms_mean"] + (row["latency_ms_sd"] or 0) for row in rows)
    ax.set_xlim(0, top * 1.62)
    ax.set_xticks(MaxNLocator(4).tick_values(0, top)[:-1])
