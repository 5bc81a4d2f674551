"""Plots that compare variants: values over seeds, differences with their intervals, bars of time, trade-offs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from intaglio.tables.display import METRIC_NAMES, difference, measured, number, percent, spread, times
from intaglio.tables.style import FAINT, GREY, INK, Look, panels, statement
from intaglio.tables.summary import Panel, Summary
from intaglio.tables.variants import BASELINE, mean_sd

INTEGER = "int"
Values = list[float]
# Of a column of runs.parquet: what it is called on an axis, and how many of its units make one of runs.parquet.
DEVICES = {"CPU": "latency_ms_mean", "GPU": "cuda_latency_ms_mean"}
_SPEEDUPS = {"latency_ms_mean": "relative_latency", "cuda_latency_ms_mean": "cuda_speedup"}


def pair(summary: Summary) -> list[str]:
    """Return float and end-to-end integer, or whatever variants there are in a study without them."""
    wanted = [name for name in (BASELINE, INTEGER) if name in summary.variants]
    return wanted if len(wanted) == 2 else list(summary.variants)


def values(panel: Panel, variant: str, column: str, scale: float = 1.0) -> Values:
    """Return a column of a variant's runs, those where it is known."""
    return [run[column] * scale for run in panel.of(variant) if run[column] is not None]


def seeds_said(summary: Summary, marks: str = "Large marks") -> str:
    """Say what marks mean, by how many seeds there are."""
    seeds = {run["seed"] for panel in summary.panels for run in panel.runs}
    if len(seeds) == 1:
        return "One seed."
    return f"{marks}: mean ± standard deviation over {len(seeds)} seeds; small dots: seeds."


def metric_name(panel: Panel) -> str:
    """Return how the panel's primary metric is called on an axis."""
    name: str = panel.runs[0]["primary_metric"]
    unit = " × 100" if name in ("matthews", "cohen_kappa") else ", %"
    return METRIC_NAMES.get(name, name) + unit


def conditions(summary: Summary, column: str) -> str:
    """Say on what the times of a column were taken."""
    runs = [run for panel in summary.panels for run in panel.runs]
    device = {"latency_ms_mean": "latency_device_name", "cuda_latency_ms_mean": "cuda_device_name"}.get(
        column, "device"
    )
    names = ", ".join(sorted({run[device] for run in runs if run[device] and run[column] is not None}))
    if device == "device":
        return f"Trained on {names}."
    point = {(run["latency_batch_size"], run["latency_length"]) for run in runs}
    at = "; ".join(f"batch {batch} × {length} tokens" for batch, length in sorted(point))
    return f"{'GPU' if column.startswith('cuda') else 'CPU'}: {names}, {at}."


def accuracy(summary: Summary, look: Look) -> Figure:
    """Draw accuracy, and the primary metric where that is another, of float against end-to-end integer."""
    shown = pair(summary)
    drawn = [(panel, column) for panel in summary.panels for column in _scores(panel)]
    said = f"Test set. {seeds_said(summary)} Lines join the same seed."
    if len(shown) == 2:
        said += " Below: difference with its 95\u00a0% interval, paired over examples and seeds."
    figure, axes = panels(len(drawn), (2.45, 2.75), _against("Accuracy", shown), said, columns=5)
    for ax, (panel, column) in zip(axes, drawn, strict=True):
        label = METRIC_NAMES["accuracy"] + ", %" if column == "accuracy" else metric_name(panel)
        _slopes(ax, panel, shown, column, look, scale=100, text=lambda m, s: spread(_plain(m), _plain(s)))
        ax.set(title=panel.title, ylabel=label)
        last = [row for row in panel.variants if row["variant"] == shown[-1]]
        primary = column == "primary_value" or panel.runs[0]["primary_metric"] == column
        if len(shown) == 2 and last and primary:
            ax.set_xlabel(difference(last[0]), color=INK)
    return figure


def _plain(value: float | None) -> str:
    return percent(None if value is None else value / 100)


def _scores(panel: Panel) -> list[str]:
    same = panel.runs[0]["primary_metric"] == "accuracy"
    return ["accuracy"] if same else ["accuracy", "primary_value"]


def _against(what: str, shown: Sequence[str]) -> str:
    if shown == [BASELINE, INTEGER]:
        return f"{what}: float against end-to-end integer"
    return f"{what} by variant (the study has no {BASELINE} beside {INTEGER})"


def training_time(summary: Summary, look: Look) -> Figure:
    """Draw training time of float against end-to-end integer."""
    shown = pair(summary)
    said = f"Of the variant's last stage. {conditions(summary, 'train_seconds')} {seeds_said(summary)}"
    figure, axes = panels(len(summary.panels), (2.45, 2.75), _against("Training time", shown), said)
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
        mine = values(panel, name, column, scale)
        if not mine:
            continue
        mean, sd = mean_sd(mine)
        color = look.color(name)
        ax.scatter([place] * len(mine), mine, s=14, color=color, alpha=0.55, lw=0, zorder=2)
        side = -1 if place == 0 else 1
        beside = place + 0.16 * side * (len(shown) == 2)
        ax.errorbar(beside, mean or 0, sd or 0, fmt=look.marker(name), color=color, ms=7, elinewidth=1.6, zorder=3)
        if len(shown) == 2:
            label = text(mean, sd).replace(" ± ", "\n± ")
            ax.annotate(
                label, (beside, mean or 0), (8 * side, 0), textcoords="offset points", va="center",
                ha="right" if side < 0 else "left", fontsize=8.5, color=color, weight="bold",
            )  # fmt: skip
    ax.set_xticks(range(len(shown)), shown)
    if len(shown) > 2:
        ax.tick_params(axis="x", labelrotation=90, labelsize=8)
    ax.set_xlim(*((-1.15, 2.15) if len(shown) == 2 else (-0.6, len(shown) - 0.4)))
    ax.margins(y=0.15)
    ax.grid(visible=False, axis="x")


def differences(summary: Summary, look: Look) -> Figure:
    """Draw every variant's difference to float with its interval."""
    title = "What each variant costs: primary metric minus that of float"
    names = [name for name in summary.variants if name != BASELINE]
    drawn = [panel for panel in summary.panels if any(row["difference"] is not None for row in panel.variants)]
    if not names or not drawn:
        return statement(
            title, "Nothing to compare: the study has no finished float runs beside those of other variants."
        )
    said = "Mean over seeds and 95\u00a0% interval (bootstrap paired over test examples and seeds), in points."
    if any(row["difference_n"] == 1 for panel in drawn for row in panel.variants):
        said += " Where there is one seed, the interval speaks of the choice of examples only."
    figure, axes = _rows_of_variants(len(drawn), names, title, said)
    for ax, panel in zip(axes, drawn, strict=True):
        ax.axvline(0, color=look.color(BASELINE), lw=1.2, zorder=1)
        for place, row in _placed(panel, names):
            if row["difference"] is None:
                continue
            low, high = 100 * row["difference_low"], 100 * row["difference_high"]
            color = look.color(row["variant"])
            ax.plot([low, high], [place, place], color=color, lw=2, solid_capstyle="round")
            ax.plot(100 * row["difference"], place, look.marker(row["variant"]), color=color, ms=7)
            number_said = percent(row["difference"], sign=True)
            ax.text(0.99, place, number_said, transform=ax.get_yaxis_transform(), va="center", ha="right", fontsize=8)
        left, right = ax.get_xlim()
        ax.set_xlim(left, right + 0.25 * (right - left))
        ax.set(title=panel.title, xlabel=metric_name(panel).replace(", %", "") + ", points")
    return figure


def _rows_of_variants(count: int, names: Sequence[str], title: str, said: str) -> tuple[Figure, list[Axes]]:
    """Make panels with a line a variant, from top to bottom, named on the left."""
    left = 0.075 * max(map(len, names))
    figure, axes = panels(count, (2.55, 0.27 * len(names) + 0.85), title, said, left=left, sharey=True)
    for ax in axes:
        ax.set_yticks(range(len(names)), names)
        ax.set_ylim(len(names) - 0.4, -0.6)
        ax.grid(visible=False, axis="y")
        ax.tick_params(axis="y", labelsize=8.5)
        ax.locator_params(axis="x", nbins=5)
    return figure, axes


def _placed(panel: Panel, names: Sequence[str]) -> list[tuple[int, dict[str, Any]]]:
    return [(names.index(row["variant"]), row) for row in panel.variants if row["variant"] in names]


def training_time_variants(summary: Summary, look: Look) -> Figure:
    """Draw training time of every variant."""
    said = f"Of the variant's last stage. {conditions(summary, 'train_seconds')} {seeds_said(summary, 'Bars')}"
    drawn = [(panel, "train_seconds", panel.title) for panel in summary.panels]
    return _bars(summary, look, drawn, "Training time of every variant", said, "training time, s")


def inference_time_variants(summary: Summary, look: Look) -> Figure:
    """Draw inference time of every variant, on the CPU and, in panels of its own, on the GPU."""
    title = "Inference time of every variant"
    drawn = timed(summary)
    if not drawn:
        return statement(title, "Nothing was timed: the study's runs have no latency.")
    columns = dict.fromkeys(column for _, column, _ in drawn)
    said = " ".join([*(conditions(summary, column) for column in columns), seeds_said(summary, "Bars")])
    return _bars(summary, look, drawn, title, said, "time of a call, ms")


def timed(summary: Summary) -> list[tuple[Panel, str, str]]:
    """Return (panel, latency column, title) of all that was timed: numbers of two devices never share an axis."""
    found = [
        (panel, column, f"{panel.title} · {device}")
        for device, column in DEVICES.items()
        for panel in summary.panels
        if any(run[column] is not None for run in panel.runs)
    ]
    if len({column for _, column, _ in found}) == 1:
        return [(panel, column, panel.title) for panel, column, _ in found]
    return found


def _bars(
    summary: Summary, look: Look, drawn: Sequence[tuple[Panel, str, str]], title: str, said: str, label: str
) -> Figure:
    """Draw a horizontal bar a variant, with its seeds, deviation, number and ratio to float."""
    names = list(summary.variants)
    if BASELINE in names and len(names) > 1:
        said += f" ×: ratio to {BASELINE}."
    figure, axes = _rows_of_variants(len(drawn), names, title, said)
    for ax, (panel, column, heading) in zip(axes, drawn, strict=True):
        top = max(run[column] for run in panel.runs if run[column] is not None)
        for place, row in _placed(panel, names):
            mine = values(panel, row["variant"], column)
            if not mine:
                continue
            mean, sd = mean_sd(mine)
            ax.barh(place, mean or 0, height=0.62, color=look.color(row["variant"]), alpha=0.85, lw=0)
            if len(mine) > 1:
                ax.errorbar(mean or 0, place, xerr=sd, color=INK, elinewidth=1.2, capsize=2.5, fmt="none")
                ax.scatter(mine, [place] * len(mine), s=9, color="white", edgecolor=INK, lw=0.6, zorder=3)
            said = "  ".join(filter(None, [number(mean), _ratio(row, column)]))
            ax.annotate(
                said, (max(*mine, (mean or 0) + (sd or 0)), place), (5, 0), textcoords="offset points",
                va="center", fontsize=8,
            )  # fmt: skip
        ax.set_xlim(0, top * 1.62)
        ax.set_xticks(MaxNLocator(4).tick_values(0, top)[:-1])
        ax.set(title=heading, xlabel=label)
    return figure


def _ratio(row: dict[str, Any], column: str) -> str:
    """Return how much longer a variant takes than float, where both were taken on the same hardware."""
    ratio = {
        "train_seconds": row["relative_train_seconds"],
        "latency_ms_mean": row["relative_latency"],
        "cuda_latency_ms_mean": 1 / row["cuda_speedup"] if row["cuda_speedup"] else None,
    }[column]
    return "" if ratio is None or row["variant"] == BASELINE else f"({ratio:.2f}×)"


def accuracy_vs_training_time(summary: Summary, look: Look) -> Figure:
    """Draw the primary metric against training time."""
    said = f"Time of the variant's last stage. {conditions(summary, 'train_seconds')} {seeds_said(summary)}"
    drawn = [(panel, "train_seconds", panel.title) for panel in summary.panels]
    return _scatter(summary, look, drawn, "Accuracy against training time", said, "training time, s", front=False)


def accuracy_vs_inference_time(summary: Summary, look: Look) -> Figure:
    """Draw the primary metric against inference time, with the variants that no other beats in both."""
    title = "Accuracy against inference time"
    drawn = timed(summary)
    if not drawn:
        return statement(title, "Nothing was timed: the study's runs have no latency.")
    columns = dict.fromkeys(column for _, column, _ in drawn)
    said = " ".join([*(conditions(summary, column) for column in columns), seeds_said(summary)])
    said += " Ringed: the Pareto front of the means (no variant is both faster and better)."
    return _scatter(summary, look, drawn, title, said, "time of a call, ms", front=True)


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices of (time, value) points that no other point beats: less or equal time and more value, or
    less time and no less value. In order of time."""
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    front: list[int] = []
    for i in order:
        if not front or points[i][1] > points[front[-1]][1]:
            front.append(i)
    return front


def _scatter(
    summary: Summary,
    look: Look,
    drawn: Sequence[tuple[Panel, str, str]],
    title: str,
    said: str,
    label: str,
    front: bool,
) -> Figure:
    handles = look.handles(summary.variants)
    if front:
        handles.append(Line2D([], [], color=GREY, lw=1.2, ls=(0, (4, 2)), label="Pareto front"))
    figure, axes = panels(len(drawn), (2.75, 2.6), title, said, legend=handles)
    for ax, (panel, column, heading) in zip(axes, drawn, strict=True):
        means = []
        for name in summary.variants:
            runs = [run for run in panel.of(name) if run[column] is not None]
            if not runs:
                continue
            time, value = [run[column] for run in runs], [100 * run["primary_value"] for run in runs]
            (x, x_sd), (y, y_sd) = mean_sd(time), mean_sd(value)
            color = look.color(name)
            ax.scatter(time, value, s=9, color=color, alpha=0.45, lw=0, zorder=2)
            ax.errorbar(x or 0, y or 0, y_sd, x_sd, fmt=look.marker(name), color=color, ms=7, elinewidth=1, alpha=0.95)
            means.append((x or 0.0, y or 0.0))
        if front:
            best = pareto(means)
            x_best, y_best = np.array([means[i] for i in best]).T
            ax.plot(x_best, y_best, color=GREY, lw=1.2, ls=(0, (4, 2)), zorder=1)
            ax.scatter(x_best, y_best, s=150, facecolor="none", edgecolor=INK, lw=1.1, zorder=4)
        ax.margins(0.14)
        ax.locator_params(axis="x", nbins=5)
        ax.set(title=heading, xlabel=label, ylabel=metric_name(panel))
        ax.grid(color=FAINT)
    return figure
