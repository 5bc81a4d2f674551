"""Plots of single runs: loss curves and confusion matrices."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from intaglio.plots.captions import pair
from intaglio.plots.style import Look, panels, statement
from intaglio.summary.read import Panel, Summary

_LOSSES = {"loss": "training loss", "validation_loss": "validation loss"}
# More classes than this leave no room for numbers in a confusion matrix.
_MOST_NUMBERS = 6
# Maximum length of a shown class name.
_LONGEST = 40


def loss_curves(summary: Summary, look: Look) -> Figure:
    """Draw training and validation loss of every variant's last stage, mean over seeds, with their range."""
    title = "Loss curves"
    history = summary.history.filter(pc.is_in(summary.history["name"], value_set=pa.array(_LOSSES))).to_pandas()
    # Rows are losses and columns panels, if these fit into one row.
    drawn = [(panel, name) for name in _LOSSES for panel in summary.panels]
    if history.empty:
        return statement(title, "No loss was recorded.")
    caption = "Of the variant's last stage: mean over seeds, and the range of seeds."
    figure, axes = panels(len(drawn), (2.75, 2.3), title, caption, legend=look.handles(summary.variants, line=True))
    for ax, (panel, name) in zip(axes, drawn, strict=True):
        mine = history[(history.task == panel.task) & (history.model == panel.model) & (history.name == name)]
        for variant in summary.variants:
            _curve(ax, mine[mine.variant == variant], look.color(variant), marked=name != "loss")
        ax.set(title=panel.title, xlabel="epoch", ylabel=_LOSSES[name])
        ax.set_ylim(bottom=0)
    return figure


def _curve(ax: Axes, rows: pd.DataFrame, color: str, marked: bool) -> None:
    if rows.empty:
        return
    steps = rows.groupby("step").agg(
        epoch=("epoch", "mean"), mean=("value", "mean"), low=("value", "min"), high=("value", "max")
    )
    epoch = steps["epoch"].to_numpy()
    ax.plot(epoch, steps["mean"].to_numpy(), color=color, lw=1.5, marker="o" if marked else "", ms=3.5)
    ax.fill_between(epoch, steps["low"].to_numpy(), steps["high"].to_numpy(), color=color, alpha=0.13, lw=0)


def confusion(summary: Summary, look: Look) -> Figure:  # noqa: ARG001 (all plots have the same arguments)
    """Draw confusion matrices of float and end-to-end integer: shares of each true class, mean over seeds."""
    title = "Confusion matrices"
    table = summary.metrics.filter(pc.equal(summary.metrics["metric"], "confusion")).to_pandas()
    drawn = [
        (panel, variant, _matrix(table, panel, variant))
        for panel in summary.panels
        for variant in pair(summary)
        if panel.of(variant)
    ]
    if table.empty or not drawn:
        return statement(title, "No confusion matrix was recorded.")
    caption = "Test set. Percent of each true class, mean over seeds; in brackets the mean count of examples."
    # Room for the names of classes, written along the axes.
    longest = max(len(name) for _, _, (names, _) in drawn for name in names)
    room = 0.055 * min(max(0, longest - 14), _LONGEST)
    figure, axes = panels(len(drawn), (2.6 + room, 2.9 + room), title, caption)
    for ax, (panel, variant, (names, counts)) in zip(axes, drawn, strict=True):
        _heat(ax, names, counts)
        ax.set_title(f"{panel.title} · {variant}")
    return figure


def _matrix(table: pd.DataFrame, panel: Panel, variant: str) -> tuple[list[str], npt.NDArray[np.float64]]:
    """Return class names and [true, predicted] counts, mean over seeds, on the primary test set."""
    mine = table[
        (table.task == panel.task)
        & (table.model == panel.model)
        & (table.variant == variant)
        & (table.test_set == panel.runs[0]["test_set"])
    ]
    names = list(dict.fromkeys(mine.label))
    mean = mine.pivot_table(index="label", columns="predicted", values="value", aggfunc="mean", sort=False)
    return names, mean.reindex(index=names, columns=names).to_numpy(dtype=float)


def _heat(ax: Axes, names: list[str], counts: npt.NDArray[np.float64]) -> None:
    totals = counts.sum(1, keepdims=True)
    shares = 100 * np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    ax.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    if len(names) <= _MOST_NUMBERS:
        for (true, predicted), share in np.ndenumerate(shares):
            ax.text(
                predicted, true, f"{share:.1f} %\n({counts[true, predicted]:.0f})", ha="center", va="center",
                fontsize=8 if len(names) < 4 else 6.5, color="white" if share > 55 else "#1f2328",
            )  # fmt: skip
    few = len(names) < 3 and max(map(len, names)) <= 14
    shown = [name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…" for name in names]
    ax.set_xticks(range(len(names)), shown, rotation=0 if few else 90)
    ax.set_yticks(range(len(names)), shown, rotation=90 if few else 0, va="center")
    ax.set(xlabel="predicted", ylabel="true")
    ax.tick_params(labelsize=8 if len(names) < 3 else 7)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
