"""Plots of float against end-to-end integer: two points side by side, seeds joined."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from intaglio.metrics import named
from intaglio.plots.captions import INTEGER, pair, seeds_shown
from intaglio.plots.measured import training_conditions
from intaglio.plots.style import INK, Look, panels
from intaglio.report.display import difference
from intaglio.report.formatting import measured, score, spread, times
from intaglio.summary.read import Panel, Summary
from intaglio.summary.variants import BASELINE, mean_sd

# Longer names would run into each other beside each other.
_SHORT = 8


def accuracy(summary: Summary, look: Look) -> Figure:
    """Draw accuracy, and the primary metric where that is another, of float against end-to-end integer."""
    shown = pair(summary)
    drawn = [(panel, column) for panel in summary.panels for column in _scores(panel)]
    caption = f"Test set. {seeds_shown(summary)} Lines join the same seed."
    if len(shown) == 2:
        caption += " Below: difference with its 95\u00a0% interval, paired over examples and seeds."
    figure, axes = _panels(len(drawn), _against("Accuracy", shown), caption, shown)
    for ax, (panel, column) in zip(axes, drawn, strict=True):
        metric = named("accuracy" if column == "accuracy" else panel.runs[0]["primary_metric"])
        _slopes(ax, panel, shown, column, look, scale=metric.scale, text=partial(_scored, metric.name))
        ax.set(title=panel.title, ylabel=metric.axis)
        last = [row for row in panel.variants if row["variant"] == shown[-1]]
        primary = column == "primary_value" or panel.runs[0]["primary_metric"] == column
        if len(shown) == 2 and last and primary:
            ax.set_xlabel(difference(last[0]), color=INK)
    return figure


def _scores(panel: Panel) -> list[str]:
    if panel.runs[0]["primary_metric"] == "accuracy":
        return ["accuracy"]
    # Only single-label tasks have an accuracy.
    return ["primary_value"] if panel.runs[0]["accuracy"] is None else ["accuracy", "primary_value"]


def _scored(metric: str, mean: float | None, sd: float | None) -> str:
    return spread(score(metric, mean), score(metric, sd))


def _against(what: str, shown: Sequence[str]) -> str:
    if shown == [BASELINE, INTEGER]:
        return f"{what}: float against end-to-end integer"
    return f"{what} by variant"


def _panels(count: int, title: str, caption: str, shown: Sequence[str]) -> tuple[Figure, list[Axes]]:
    """Make panels with room for the names of variants."""
    size = (max(2.45, 0.6 + 0.17 * len(shown)), 2.75 + (0.07 * max(map(len, shown)) if _upright(shown) else 0))
    return panels(count, size, title, caption, columns=max(1, int(12.5 / size[0])))


def _upright(shown: Sequence[str]) -> bool:
    """Return whether names are written upwards."""
    return len(shown) > 2 or max(map(len, shown)) > _SHORT


def training_time(summary: Summary, look: Look) -> Figure:
    """Draw training time of float against end-to-end integer."""
    shown = pair(summary)
    caption = f"Of the variant's last stage. {training_conditions(summary)} {seeds_shown(summary)}"
    figure, axes = _panels(len(summary.panels), _against("Training time", shown), caption, shown)
    for ax, panel in zip(axes, summary.panels, strict=True):
        _slopes(ax, panel, shown, "train_seconds", look, text=measured)
        ax.set(title=panel.title, ylabel="training time, s")
        ax.set_ylim(0, ax.get_ylim()[1] * 1.05)
        last = [row for row in panel.variants if row["variant"] == shown[-1]]
        if len(shown) == 2 and last and last[0]["relative_train_seconds"]:
            ax.set_xlabel(f"{times(last[0]['relative_train_seconds'])} {shown[0]}", color=INK)
    return figure


def _slopes(
    ax: Axes,
    panel: Panel,
    shown: Sequence[str],
    column: str,
    look: Look,
    *,
    text: Callable[..., str],
    scale: float = 1.0,
) -> None:
    """Draw variants side by side: seeds as dots joined by lines, mean and deviation beside them, with their numbers."""
    for seed in sorted({run["seed"] for run in panel.runs}):
        runs = {run["variant"]: run[column] for run in panel.runs if run["seed"] == seed and run[column] is not None}
        at = [place for place, name in enumerate(shown) if name in runs]
        ax.plot(at, [runs[shown[place]] * scale for place in at], color="#aeb6bf", lw=1, zorder=1)
    for place, name in enumerate(shown):
        mine = [run[column] for run in panel.of(name) if run[column] is not None]
        if not mine:
            continue
        # Rounded from the same mean as in the tables, so that both show the same digits.
        mean, sd = mean_sd(mine)
        at_mean, at_sd = (mean or 0) * scale, (sd or 0) * scale
        color = look.color(name)
        ax.scatter(
            [place] * len(mine), [value * scale for value in mine], s=14, color=color, alpha=0.55, lw=0, zorder=2
        )
        side = -1 if place == 0 else 1
        beside = place + 0.16 * side * (len(shown) == 2)
        ax.errorbar(beside, at_mean, at_sd, fmt=look.marker(name), color=color, ms=7, elinewidth=1.6, zorder=3)
        if len(shown) == 2:
            label = text(mean, sd).replace(" ± ", "\n± ")
            ax.annotate(
                label, (beside, at_mean), (8 * side, 0), textcoords="offset points", va="center",
                ha="right" if side < 0 else "left", fontsize=8.5, color=color, weight="bold",
            )  # fmt: skip
    ax.set_xticks(range(len(shown)), shown)
    if _upright(shown):
        ax.tick_params(axis="x", labelrotation=90, labelsize=8)
    ax.set_xlim(*((-1.15, 2.15) if len(shown) == 2 else (-0.6, len(shown) - 0.4)))
    ax.margins(y=0.15)
    ax.grid(visible=False, axis="x")
