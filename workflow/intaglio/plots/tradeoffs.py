"""Plots of accuracy against training time, inference time and size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from intaglio.metrics import named
from intaglio.plots.captions import metric_name, metric_scale, seeds_shown
from intaglio.plots.measured import (
    NOT_TIMED,
    NOT_TRAINED,
    Measured,
    fastest_backends,
    inference_conditions,
    inference_times,
    sizes,
    training_conditions,
    training_times,
)
from intaglio.plots.style import FAINT, GREY, INK, Look, panels, statement
from intaglio.summary.read import Summary
from intaglio.summary.variants import mean_sd

# With more variants than this, marks alone are hard to identify.
CROWD = 9


def accuracy_vs_training_time(summary: Summary, look: Look) -> Figure:
    """Draw the primary metric against training time."""
    title = "Accuracy against training time"
    drawn = training_times(summary)
    if not drawn:
        return statement(title, NOT_TRAINED)
    caption = f"Time of the variant's last stage. {training_conditions(summary)} {seeds_shown(summary)}"
    return _scatter(summary, look, drawn, title, caption, "training time, s", front=False)


def accuracy_vs_inference_time(summary: Summary, look: Look) -> Figure:
    """Draw the primary metric against inference time, with the Pareto front."""
    title = "Accuracy against inference time"
    drawn = inference_times(summary)
    if not drawn:
        return statement(title, NOT_TIMED)
    caption = f"{inference_conditions(summary)} {fastest_backends(summary)} {seeds_shown(summary)}"
    caption += " Ringed: the Pareto front of the means (no variant is both faster and better)."
    return _scatter(summary, look, drawn, title, caption, "time of a call, ms", front=True)


def accuracy_vs_size(summary: Summary, look: Look) -> Figure:
    """Draw the primary metric against the size of the deployed file, with the Pareto front."""
    title = "Accuracy against size"
    drawn = sizes(summary)
    if not drawn:
        return statement(title, "Nothing was measured: the study's runs have no exported files.")
    caption = f"Size of the exported file. {seeds_shown(summary)}"
    caption += " Ringed: the Pareto front of the means (no variant is both smaller and better)."
    return _scatter(summary, look, drawn, title, caption, "file, MB", front=True)


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices of (time, value) points that no other beats, in order of time.

    A point is beaten by one with no more time and more value, or with less time and no less value.
    """
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    front: list[int] = []
    for i in order:
        if not front or points[i][1] > points[front[-1]][1]:
            front.append(i)
    return front


def _scatter(
    summary: Summary,
    look: Look,
    drawn: Sequence[Measured],
    title: str,
    caption: str,
    label: str,
    front: bool,
) -> Figure:
    handles = look.handles([name for name in summary.variants if any(name in one.values for one in drawn)])
    if front:
        handles.append(Line2D([], [], color=GREY, lw=1.2, ls=(0, (4, 2)), label="Pareto front"))
    # Many variants need more room.
    size = (2.75, 2.6) if len(summary.variants) <= CROWD else (4.4, 3.6)
    figure, axes = panels(len(drawn), size, title, caption, legend=handles)
    for ax, measured in zip(axes, drawn, strict=True):
        means, names = [], []
        for name in [name for name in summary.variants if name in measured.values]:
            runs, known = measured.panel.of(name), measured.values[name]
            value = [metric_scale(measured.panel) * run["primary_value"] for run in runs]
            (x, x_sd), (y, y_sd) = mean_sd(known.values()), mean_sd(value)
            # A seed that was not measured is placed at the mean of the others.
            time = [known.get(run["seed"], x or 0.0) for run in runs]
            color = look.color(name)
            ax.scatter(time, value, s=9, color=color, alpha=0.45, lw=0, zorder=2)
            ax.errorbar(x or 0, y or 0, y_sd, x_sd, fmt=look.marker(name), color=color, ms=7, elinewidth=1, alpha=0.95)
            means.append((x or 0.0, y or 0.0))
            names.append(name)
        if front:
            _draw_front(ax, means, names, named(measured.panel.runs[0]["primary_metric"]).higher_is_better)
        ax.margins(0.14)
        ax.locator_params(axis="x", nbins=5)
        ax.set(title=measured.title, xlabel=label, ylabel=metric_name(measured.panel))
        ax.grid(color=FAINT)
    return figure


def _draw_front(ax: Axes, means: Sequence[tuple[float, float]], names: Sequence[str], higher: bool) -> None:
    """Mark and join the variants on the Pareto front, and label them if there are many."""
    best = pareto(means if higher else [(x, -y) for x, y in means])
    x_best, y_best = np.array([means[i] for i in best]).T
    ax.plot(x_best, y_best, color=GREY, lw=1.2, ls=(0, (4, 2)), zorder=1)
    ax.scatter(x_best, y_best, s=150, facecolor="none", edgecolor=INK, lw=1.1, zorder=4)
    if len(means) <= CROWD:
        return
    middle = (min(x for x, _ in means) + max(x for x, _ in means)) / 2
    for place, i in enumerate(best):
        x, y = means[i]
        side = 1 if x < middle else -1
        # Neighbors on the front are often close: their names alternate above and below.
        ax.annotate(
            names[i], (x, y), (9 * side, 9 if place % 2 else -13), textcoords="offset points", fontsize=8,
            ha="left" if side > 0 else "right",
        )  # fmt: skip
