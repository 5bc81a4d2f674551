"""The plots of a study: what there is, and how they are written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from intaglio.plots import backends, bars, curves, pairs, sparsity, tradeoffs
from intaglio.plots.files import PLOTS
from intaglio.plots.style import RC, Look, statement
from intaglio.store import new_artifact
from intaglio.summary.read import Summary, read_summary

_DRAW: dict[str, Callable[[Summary, Look], Figure]] = {
    "accuracy": pairs.accuracy,
    "training-time": pairs.training_time,
    "differences": bars.differences,
    "training-time-variants": bars.training_time_variants,
    "inference-time-variants": bars.inference_time_variants,
    "inference-time-backends": backends.inference_time_backends,
    "accuracy-vs-training-time": tradeoffs.accuracy_vs_training_time,
    "accuracy-vs-inference-time": tradeoffs.accuracy_vs_inference_time,
    "accuracy-vs-size": tradeoffs.accuracy_vs_size,
    "accuracy-vs-sparsity": sparsity.accuracy_vs_sparsity,
    "loss-curves": curves.loss_curves,
    "confusion": curves.confusion,
}


def write_plots(summary: Path, output: Path) -> None:
    """Draw a study's summary into the artifact `output` [plots], which holds `files.PLOT_FILES`.

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
