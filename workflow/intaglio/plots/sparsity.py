"""Plot of accuracy against sparsity: a line for recipes that differ in nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from intaglio.plots.captions import metric_name, metric_scale
from intaglio.plots.style import FAINT, GREY, Look, panels, statement
from intaglio.summary.read import Panel, Summary


def accuracy_vs_sparsity(summary: Summary, look: Look) -> Figure:
    """Draw the primary metric of pruned variants against their sparsity, beside what they were pruned from."""
    title = "Accuracy against sparsity"
    drawn = [(panel, lines) for panel in summary.panels if (lines := _lines(panel))]
    if not drawn:
        return statement(title, "Nothing to show: the study prunes no weights.")
    shown = {row["variant"] for _, lines in drawn for line in lines for row in line}
    names = [name for name in summary.variants if name in shown]
    handles = look.handles(names)
    handles.append(Line2D([], [], color=GREY, lw=1.2, label="sparsity alone differs"))
    caption = (
        "Zeros among the weights of the linear layers; 0 is the same recipe without pruning. Marks: means over seeds."
    )
    figure, axes = panels(len(drawn), (4.4, 3.2), title, caption, legend=handles)
    for ax, (panel, lines) in zip(axes, drawn, strict=True):
        scale = metric_scale(panel)
        for line in lines:
            ax.plot(
                [100 * (row["sparsity_mean"] or 0) for row in line], [scale * row["primary_mean"] for row in line],
                color=GREY, lw=1.2, zorder=1,
            )  # fmt: skip
        # What several lines begin with is drawn once.
        for name, row in {row["variant"]: row for line in lines for row in line}.items():
            value, sd = (scale * (row[key] or 0) for key in ("primary_mean", "primary_sd"))
            ax.errorbar(
                100 * (row["sparsity_mean"] or 0), value, sd, fmt=look.marker(name), color=look.color(name), ms=7
            )
        ax.margins(0.12)
        ax.set(title=panel.title, xlabel="sparsity, %", ylabel=metric_name(panel))
        ax.grid(color=FAINT)
    return figure


def _lines(panel: Panel) -> list[Sequence[dict[str, Any]]]:
    """Return rows of variants of each family of recipes, by sparsity; nothing where no weights are pruned."""
    families: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in panel.variants:
        if row["sparsity_mean"] is not None:
            families.setdefault(_family(row), []).append(row)
    for row in panel.variants:
        for (rest, _), rows in families.items():
            if row["sparsity_mean"] is None and _family(row)[0] == rest:
                rows.append(row)
    return [sorted(rows, key=lambda row: row["sparsity_mean"] or 0) for rows in families.values()]


def _family(row: Mapping[str, Any]) -> tuple[str, str]:
    """Return a recipe without the stage that prunes weights, and that stage without its sparsity, as JSON."""
    rest: list[Any] = []
    pruning: list[Any] = []
    for options in json.loads(row["stages"]):
        (pruning if options["stage"] == "prune" else rest).append(options)
    return json.dumps(rest), json.dumps([{**options, "sparsity": None} for options in pruning])
