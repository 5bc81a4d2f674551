"""Plots with one line per variant: differences to float, and bars of time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from intaglio.metrics import named
from intaglio.plots.measured import (
    NOT_TIMED,
    NOT_TRAINED,
    Measured,
    fastest_backends,
    inference_conditions,
    inference_times,
    speedup_caption,
    training_conditions,
    training_times,
)
from intaglio.plots.style import INK, Look, panels, statement
from intaglio.report.formatting import number, score
from intaglio.summary.read import Panel, Summary
from intaglio.summary.variants import BASELINE, mean_sd


def differences(summary: Summary, look: Look) -> Figure:
    """Draw every variant's difference to float with its interval."""
    title = "What each variant costs: primary metric minus that of float"
    names = [name for name in summary.variants if name != BASELINE]
    drawn = [panel for panel in summary.panels if any(row["difference"] is not None for row in panel.variants)]
    if not names or not drawn:
        return statement(title, "Nothing to compare: the study has no finished float runs to compare with.")
    caption = "Mean over seeds and 95\u00a0% interval (paired over test examples and seeds)."
    if any(row["difference_n"] == 1 for panel in drawn for row in panel.variants):
        caption += " With one seed, the interval is over test examples only."
    figure, axes = rows_of_variants(len(drawn), names, title, caption)
    for ax, panel in zip(axes, drawn, strict=True):
        metric = named(panel.runs[0]["primary_metric"])
        ax.axvline(0, color=look.color(BASELINE), lw=1.2, zorder=1)
        for place, row in _placed(panel, names):
            if row["difference"] is None:
                continue
            mean, low, high = (metric.scale * row[f"difference{part}"] for part in ("", "_low", "_high"))
            color = look.color(row["variant"])
            ax.plot([low, high], [place, place], color=color, lw=2, solid_capstyle="round")
            ax.plot(mean, place, look.marker(row["variant"]), color=color, ms=7)
            text = score(metric.name, row["difference"], sign=True)
            ax.text(0.99, place, text, transform=ax.get_yaxis_transform(), va="center", ha="right", fontsize=8)
        left, right = ax.get_xlim()
        ax.set_xlim(left, right + 0.25 * (right - left))
        ax.set(title=panel.title, xlabel=metric.label + (", points" if metric.unit else ""))
    return figure


def rows_of_variants(
    count: int, names: Sequence[str], title: str, caption: str, *, height: float = 0.27, legend: Sequence[Artist] = ()
) -> tuple[Figure, list[Axes]]:
    """Make panels with one line per variant of this height in inches, from top to bottom, labelled on the left."""
    left = 0.075 * max(map(len, names))
    size = (2.55, height * len(names) + 0.85)
    figure, axes = panels(count, size, title, caption, left=left, legend=legend, sharey=True)
    for ax in axes:
        ax.set_yticks(range(len(names)), names)
        ax.set_ylim(len(names) - 0.4, -0.6)
        ax.grid(visible=False, axis="y")
        ax.tick_params(axis="y", labelsize=8.5)
        ax.locator_params(axis="x", nbins=5)
    return figure, axes


def deviations(ax: Axes, bars: Sequence[tuple[float, float, float | None]], **options: Any) -> None:
    """Draw deviations of bars, given by mean, place and deviation, as one artist; `options` for `Axes.errorbar`."""
    means, places, sds = zip(*bars, strict=True)
    ax.errorbar(means, places, xerr=sds, color=INK, fmt="none", **options)


def _placed(panel: Panel, names: Sequence[str]) -> list[tuple[int, dict[str, Any]]]:
    return [(names.index(row["variant"]), row) for row in panel.variants if row["variant"] in names]


def training_time_variants(summary: Summary, look: Look) -> Figure:
    """Draw training time of every variant."""
    title = "Training time of every variant"
    drawn = training_times(summary)
    if not drawn:
        return statement(title, NOT_TRAINED)
    caption = f"Of the variant's last stage. {training_conditions(summary)}"
    if BASELINE in summary.variants and len(summary.variants) > 1:
        caption += f" In brackets: ratio to {BASELINE}."
    return _bars(summary, look, drawn, title, caption, "training time, s")


def inference_time_variants(summary: Summary, look: Look) -> Figure:
    """Draw inference time of every variant, on the CPU and, in separate panels, on the GPU."""
    title = "Inference time of every variant"
    drawn = inference_times(summary)
    if not drawn:
        return statement(title, NOT_TIMED)
    caption = f"{inference_conditions(summary)} {fastest_backends(summary)}{speedup_caption(summary)}"
    return _bars(summary, look, drawn, title, caption, "time of a call, ms")


def _bars(summary: Summary, look: Look, drawn: Sequence[Measured], title: str, caption: str, label: str) -> Figure:
    """Draw one horizontal bar per variant, with its seeds, deviation, number and ratio to float."""
    names = list(summary.variants)
    count = max((len(seeds) for measured in drawn for seeds in measured.values.values()), default=0)
    caption += f" Bars: mean ± standard deviation over {count} seeds; small dots: seeds." if count > 1 else " One seed."
    figure, axes = rows_of_variants(len(drawn), names, title, caption)
    for ax, measured in zip(axes, drawn, strict=True):
        top = max(max(seeds.values()) for seeds in measured.values.values())
        several, dots = [], []
        for name, seeds in measured.values.items():
            place, mine = names.index(name), list(seeds.values())
            mean, sd = mean_sd(mine)
            ax.barh(place, mean or 0, height=0.62, color=look.color(name), alpha=0.85, lw=0)
            if len(mine) > 1:
                several.append((mean or 0, place, sd))
                dots += [(value, place) for value in mine]
            text = "  ".join(filter(None, [number(mean), measured.ratios.get(name)]))
            ax.annotate(
                text, (max(*mine, (mean or 0) + (sd or 0)), place), (5, 0), textcoords="offset points",
                va="center", fontsize=8,
            )  # fmt: skip
        if several:
            deviations(ax, several, elinewidth=1.2, capsize=2.5)
            values, places = zip(*dots, strict=True)
            ax.scatter(values, places, s=9, color="white", edgecolor=INK, lw=0.6, zorder=3)
        ax.set_xlim(0, top * 1.62)
        ax.set_xticks(MaxNLocator(4).tick_values(0, top)[:-1])
        ax.set(title=measured.title, xlabel=label)
    return figure
