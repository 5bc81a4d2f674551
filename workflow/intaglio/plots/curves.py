"""Plots of single runs: loss curves and confusion matrices."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from intaglio.plots.captions import pair
from intaglio.plots.style import INK, Look, panels, statement
from intaglio.summary.read import Panel, Summary

_LOSSES = {"loss": "training loss", "validation_loss": "validation loss"}
# Counts of a label, in the order in which they are drawn, and what they are called.
_CELLS = {
    "true_positives": "has it: predicted",
    "false_negatives": "has it: missed",
    "false_positives": "lacks it: predicted",
    "true_negatives": "lacks it: not predicted",
}
# More classes than this leave no room for numbers in a confusion matrix; more than the other, none for decimals.
_MOST_NUMBERS, _MOST_DECIMALS = 6, 3
# Maximum length of a shown class name.
_LONGEST = 40


def loss_curves(summary: Summary, look: Look) -> Figure:
    """Draw training and validation loss of every variant's last stage, mean over seeds, with their range."""
    title = "Loss curves"
    losses = summary.losses.to_pandas()
    # Rows are losses and columns panels, if these fit into one row.
    drawn = [(panel, name) for name in _LOSSES for panel in summary.panels]
    if losses.empty:
        return statement(title, "No loss was recorded.")
    caption = "Of the variant's last stage: mean over seeds, and the range of seeds."
    trained = [name for name in summary.variants if name in set(losses.variant)]
    figure, axes = panels(len(drawn), (2.75, 2.3), title, caption, legend=look.handles(trained, line=True))
    for ax, (panel, name) in zip(axes, drawn, strict=True):
        mine = losses[(losses.task == panel.task) & (losses.model == panel.model) & (losses["name"] == name)]
        for variant in summary.variants:
            _curve(ax, mine[mine.variant == variant], look.color(variant), marked=name != "loss")
        ax.set(title=panel.title, xlabel="epoch", ylabel=_LOSSES[name])
        ax.set_ylim(bottom=0)
    return figure


def _curve(ax: Axes, rows: pd.DataFrame, color: str, marked: bool) -> None:
    if rows.empty:
        return
    steps = rows.sort_values("step")
    epoch, mean, low, high = (steps[name].to_numpy() for name in ("epoch_mean", "value_mean", "value_min", "value_max"))
    ax.plot(epoch, mean, color=color, lw=1.5, marker="o" if marked else "", ms=3.5)
    ax.fill_between(epoch, low, high, color=color, alpha=0.13, lw=0)


def confusion(summary: Summary, look: Look) -> Figure:  # noqa: ARG001 (all plots have the same arguments)
    """Draw confusion matrices of float and end-to-end integer: shares of each true class, mean over seeds.

    A multi-label task has a table of two by two for each label, which is a row.
    """
    title = "Confusion matrices"
    chosen = pc.is_in(summary.metrics["metric"], value_set=pa.array(["confusion", *_CELLS]))
    table = summary.metrics.filter(chosen).to_pandas()
    drawn = [
        (panel, variant, _matrix(table, panel, variant))
        for panel in summary.panels
        for variant in pair(summary)
        if panel.of(variant)
    ]
    drawn = [(panel, variant, matrix) for panel, variant, matrix in drawn if matrix.counts.size]
    if not drawn:
        return statement(title, "No confusion matrix was recorded.")
    caption = "Test set. Percent of each true class, mean over seeds; in brackets the mean count of examples."
    # Room for the names of classes, written along the axes.
    longest = max(len(name) for _, _, matrix in drawn for name in (*matrix.rows, *matrix.columns))
    room = 0.055 * min(max(0, longest - 14), _LONGEST)
    figure, axes = panels(len(drawn), (2.6 + room, 2.9 + room), title, caption)
    for ax, (panel, variant, matrix) in zip(axes, drawn, strict=True):
        _heat(ax, matrix)
        ax.set_title(f"{panel.title} · {variant}")
    return figure


class _Matrix(NamedTuple):
    """Counts [rows, columns] with their names; shares are of the columns in groups of `group`."""

    rows: list[str]
    columns: list[str]
    counts: npt.NDArray[np.float64]
    group: int


def _matrix(table: pd.DataFrame, panel: Panel, variant: str) -> _Matrix:
    """Return the counts of a confusion matrix, or of the tables of labels, mean over seeds, on the primary test set."""
    mine = table[
        (table.task == panel.task)
        & (table.model == panel.model)
        & (table.variant == variant)
        & (table.test_set == panel.runs[0]["test_set"])
    ]
    names = list(dict.fromkeys(mine.label))
    of_labels = not mine.empty and mine.metric.iloc[0] in _CELLS
    columns, known = ("metric", list(_CELLS)) if of_labels else ("predicted", names)
    mean = mine.pivot_table(index="label", columns=columns, values="value", aggfunc="mean", sort=False)
    counts = mean.reindex(index=names, columns=known).to_numpy(dtype=float)
    return _Matrix(names, list(_CELLS.values()) if of_labels else names, counts, 2 if of_labels else len(names))


def _heat(ax: Axes, matrix: _Matrix) -> None:
    names, counts = matrix.rows, matrix.counts
    of_labels = matrix.group < counts.shape[1]
    grouped = counts.reshape(len(counts), -1, matrix.group)
    totals = np.broadcast_to(grouped.sum(2, keepdims=True), grouped.shape).reshape(counts.shape)
    shares = 100 * np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    ax.imshow(shares, cmap="Blues", vmin=0, vmax=100, aspect="auto" if of_labels else "equal")
    if len(names) <= _MOST_NUMBERS or of_labels:
        for (true, predicted), share in np.ndenumerate(shares):
            count = counts[true, predicted]
            if of_labels:
                text, size = f"{share:.0f} % ({count:.0f})", 5.0
            elif len(names) <= _MOST_DECIMALS:
                text, size = f"{share:.1f} %\n({count:.0f})", 8.0
            else:
                text, size = f"{share:.0f} %\n({count:.0f})", 6.5
            color = "white" if share > 55 else INK
            ax.text(predicted, true, text, ha="center", va="center", fontsize=size, color=color)
    few = len(names) < 3 and max(map(len, names)) <= 14 and not of_labels
    rows, columns = (
        [name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…" for name in each]
        for each in (matrix.rows, matrix.columns)
    )
    ax.set_xticks(range(len(columns)), columns, rotation=0 if few else 90)
    ax.set_yticks(range(len(rows)), rows, rotation=90 if few else 0, va="center")
    ax.set(xlabel="" if of_labels else "predicted", ylabel="label" if of_labels else "true")
    ax.tick_params(labelsize=8 if len(names) < 3 else 7)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
