"""Plot of accuracy against sparsity: a line for recipes that differ in nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from intaglio.tables.lineage import NOTHING_DONE
from intaglio.tables.said import metric_name
from intaglio.tables.style import FAINT, GREY, Look, panels, statement
from intaglio.tables.summary import Panel, Summary

# Where a recipe's words tell its sparsity; what is left of the words names the line.
_PRUNED, _PATTERN = "pruned ", "pruned 2:4"


def accuracy_vs_sparsity(summary: Summary, look: Look) -> Figure:
    """Draw the primary metric of pruned variants against their sparsity, beside what they were pruned from."""
    title = "Accuracy against sparsity"
    drawn = [panel for panel in summary.panels if any(row["sparsity_mean"] is not None for row in panel.variants)]
    if not drawn:
        return statement(title, "Nothing to show: the study prunes no weights.")
    names = [name for name in summary.variants if any(_of(panel, name) for panel in drawn)]
    handles = look.handles(names)
    handles.append(Line2D([], [], color=GREY, lw=1.2, label="sparsity alone differs"))
    said = (
        "Zeros among the weights of the linear layers; 0 is the same recipe without pruning. Marks: means over seeds."
    )
    figure, axes = panels(len(drawn), (4.4, 3.2), title, said, legend=handles)
    for ax, panel in zip(axes, drawn, strict=True):
        for line in _lines(panel):
            x, y = ([100 * value for value in values] for values in zip(*((p[0], p[1]) for p in line), strict=True))
            ax.plot(x, y, color=GREY, lw=1.2, zorder=1)
        for name in names:
            for at, value, sd in _of(panel, name):
                color = look.color(name)
                ax.errorbar(100 * at, 100 * value, 100 * (sd or 0), fmt=look.marker(name), color=color, ms=7)
        ax.margins(0.12)
        ax.set(title=panel.title, xlabel="sparsity, %", ylabel=metric_name(panel))
        ax.grid(color=FAINT)
    return figure


def _of(panel: Panel, variant: str) -> list[tuple[float, float, float | None]]:
    """Return sparsity, mean and deviation of a variant that stands on some line."""
    points = [point for line in _lines(panel) for point in line]
    found = [(at, value, sd) for at, value, sd, name in points if name == variant]
    return found[:1]


def _lines(panel: Panel) -> list[Sequence[tuple[float, float, float | None, str]]]:
    """Return (sparsity, mean, deviation, variant) of each family of recipes, by sparsity."""
    families: dict[tuple[str, bool], list[dict[str, Any]]] = {}
    for row in panel.variants:
        if row["sparsity_mean"] is not None:
            pattern = _PATTERN in row["recipe"].split(" + ")
            families.setdefault((_without_pruning(row["recipe"]), pattern), []).append(row)
    for row in panel.variants:
        for (rest, _), rows in families.items():
            if row["sparsity_mean"] is None and row["recipe"] == rest:
                rows.append(row)
    return [
        sorted((row["sparsity_mean"] or 0.0, row["primary_mean"], row["primary_sd"], row["variant"]) for row in rows)
        for rows in families.values()
    ]


def _without_pruning(recipe: str) -> str:
    """Return a recipe's words without the stage that prunes weights."""
    rest = [words for words in recipe.split(" + ") if not words.startswith(_PRUNED)]
    return " + ".join(rest) or NOTHING_DONE
