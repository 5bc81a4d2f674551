"""The plots of a study: what there is, and how they are written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from intaglio.store import new_artifact
from intaglio.tables import comparisons, curves
from intaglio.tables.style import RC, Look, statement
from intaglio.tables.summary import Summary, read_summary

# Every study has these, whatever ran: file stem and what it shows.
PLOTS: dict[str, str] = {
    "accuracy": "Accuracy of float against end-to-end integer",
    "training-time": "Training time of float against end-to-end integer",
    "differences": "Difference of every variant to float, with its 95 % interval",
    "training-time-variants": "Training time of every variant",
    "inference-time-variants": "Inference time of every variant",
    "accuracy-vs-training-time": "Accuracy against training time",
    "accuracy-vs-inference-time": "Accuracy against inference time, with the Pareto front",
    "loss-curves": "Loss curves",
    "confusion": "Confusion matrices of float and end-to-end integer",
}
SUFFIXES = ("svg", "png")
PLOT_FILES = tuple(f"{name}.{suffix}" for name in PLOTS for suffix in SUFFIXES)

_DRAW: dict[str, Callable[[Summary, Look], Figure]] = {
    "accuracy": comparisons.accuracy,
    "training-time": comparisons.training_time,
    "differences": comparisons.differences,
    "training-time-variants": comparisons.training_time_variants,
    "inference-time-variants": comparisons.inference_time_variants,
    "accuracy-vs-training-time": comparisons.accuracy_vs_training_time,
    "accuracy-vs-inference-time": comparisons.accuracy_vs_inference_time,
    "loss-curves": curves.loss_curves,
    "confusion": curves.confusion,
}


def plot(summary: Path, output: Path) -> None:
    """Draw a study's summary into the artifact `output` [plots], which holds `PLOT_FILES`.

    Raises:
        UserError: the summary is not complete.
    """
    content = read_summary(summary)
    with mpl.rc_context(RC), new_artifact(output, "plots", {"study": content.study}) as folder:
        for name in PLOTS:
            figure = draw(name, content)
            # Without a date the same numbers are the same file.
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None, "Title": PLOTS[name]})
            figure.savefig(folder / f"{name}.png")


def draw(name: str, content: Summary) -> Figure:
    """Draw one of `PLOTS`; where there is nothing to draw it says so."""
    if not content.panels:
        return statement(PLOTS[name], "Nothing to show yet: no run of this study has ended well.")
    return _DRAW[name](content, Look(tuple(content.variants)))
