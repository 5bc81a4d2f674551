"""Plot of the lengths of texts, in tokens of each model."""

from __future__ import annotations

from matplotlib.figure import Figure

from intaglio.plots.style import GREY, Look, panels, statement
from intaglio.summary.read import Summary

_CUT = "#d55e00"


def text_lengths(summary: Summary, look: Look) -> Figure:  # noqa: ARG001 (all plots have the same arguments)
    """Draw a histogram of the training texts' lengths for every task and model; what is cut stands out."""
    title = "Lengths of training texts, in tokens"
    rows = [row for row in summary.rows["descriptions"] if row["split"] == "train" and row["measure"] == "length"]
    if not rows:
        return statement(title, "No data was described.")
    drawn = list(dict.fromkeys((row["task"], row["model"]) for row in rows))
    several = len({model for _, model in drawn}) > 1
    limit = summary.facts["max_length"]
    caption = f"Whole texts, special tokens included. Colored: longer than max_length, {limit} tokens, and so cut."
    figure, axes = panels(len(drawn), (2.75, 2.2), title, caption)
    for ax, (task, model) in zip(axes, drawn, strict=True):
        mine = [row for row in rows if (row["task"], row["model"]) == (task, model)]
        total = sum(row["value"] for row in mine) or 1
        # Empty bins at the end are left out, but never those up to the limit.
        last = max(at for at, row in enumerate(mine) if row["value"] or _low(row["item"]) <= limit)
        shown = mine[: last + 1]
        colors = [_CUT if _low(row["item"]) > limit else GREY for row in shown]
        ax.bar(range(len(shown)), [100 * row["value"] / total for row in shown], width=0.9, color=colors)
        ax.set_xticks(range(len(shown)), [row["item"].replace("-", "–") for row in shown], rotation=90, fontsize=7)
        ax.set(title=f"{task} · {model}" if several else task, ylabel="texts, %")
        ax.grid(visible=False, axis="x")
    return figure


def _low(item: str) -> int:
    return int(item.partition("-")[0])
