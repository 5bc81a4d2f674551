"""The plots of a study: what there is, and how they are written."""

from __future__ import annotations

import functools
import logging
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from intaglio.parallel import in_processes
from intaglio.plots import backends, bars, curves, lengths, pairs, sparsity, tradeoffs
from intaglio.plots.files import PLOTS
from intaglio.plots.style import RC, Look, fit_titles, fonts, statement
from intaglio.report.files import of_kinds
from intaglio.store import new_artifact
from intaglio.summary.read import Summary, read_summary

_log = logging.getLogger(__name__)
# Panels from which several processes draw.
_MANY = 10
_GLYPH = re.compile(r"Glyph (\d+) .*missing from")
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
    "text-lengths": lengths.text_lengths,
    "loss-curves": curves.loss_curves,
    "confusion": curves.confusion,
}


def write_plots(summary: Path, output: Path) -> None:
    """Draw a study's summary into the artifact `output` [plots]: those of `files.PLOT_FILES` that it has.

    Raises:
        UserError: the summary is not complete.
    """
    content = read_summary(summary)
    names = of_kinds(PLOTS, content.facts["kinds"])
    with new_artifact(output, "plots", {"study": content.study}) as folder:
        write = functools.partial(_write, content, folder)
        said = in_processes(write, names, len(content.panels) < _MANY)
        _say({text for texts in said for text in texts})


def _write(content: Summary, folder: Path, name: str) -> list[str]:
    """Write the files of a plot; return what matplotlib warned of."""
    look = {**RC, "font.family": fonts()}
    with mpl.rc_context(look), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure = draw(name, content)
        # Without a date the same numbers are the same file.
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None, "Title": PLOTS[name]})
        figure.savefig(folder / f"{name}.pdf", metadata={"CreationDate": None, "Title": PLOTS[name]})
        figure.savefig(folder / f"{name}.png")
    return [str(warning.message) for warning in caught]


def _say(warned: set[str]) -> None:
    """Say in one line, in place of a warning for each, that installed fonts lack characters."""
    lacking = sorted({chr(int(found[1])) for text in warned if (found := _GLYPH.match(text))})
    if lacking:
        _log.warning(
            "no installed font has %s: PNG files show boxes there, and SVG files what the browser has; "
            "install one, such as fonts-noto-cjk",
            " ".join(lacking[:20]),
        )
    for text in sorted(warned):
        if not _GLYPH.match(text):
            warnings.warn(text, stacklevel=3)


def draw(name: str, content: Summary) -> Figure:
    """Draw one of `PLOTS`; where there is nothing to draw it says so."""
    if not content.panels:
        return statement(PLOTS[name], "Nothing to show yet: no run of this study has ended well.")
    figure = _DRAW[name](content, Look(tuple(content.variants)))
    fit_titles(figure)
    # What is placed stays there, and is not placed anew for each file.
    figure.set_layout_engine("none")
    return figure
