"""Style of all plots: colors by variant, fonts, headings, grids of panels."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import font_manager
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from intaglio.report.colors import color_of

# DejaVu Sans comes with matplotlib; what it lacks is taken from the first of the others that is installed and has it.
_FONTS = (
    *("DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Zen Hei"),
    *("WenQuanYi Micro Hei", "Microsoft YaHei", "PingFang SC", "Hiragino Sans", "Noto Sans Arabic", "Noto Sans"),
    *("Noto Sans Devanagari", "Noto Sans Thai", "Droid Sans Fallback", "Arial Unicode MS", "Unifont"),
)
INK, GREY, FAINT = "#1f2328", "#6b7480", "#e4e7eb"
RC: Any = {
    "text.parse_math": False,  # names are drawn as they are written, with dollar signs
    "pdf.fonttype": 42,  # whole fonts: text stays text
    "svg.fonttype": "none",  # text stays text: a browser has fonts for every script
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelcolor": GREY,
    "axes.edgecolor": "#c9d1d9",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "legend.frameon": False,
    "svg.hashsalt": "intaglio",  # the same plot is the same file
    "savefig.dpi": 150,
}


def fonts() -> list[str]:
    """Return the installed font families to use."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return [name for name in _FONTS if name in installed]


_MARKERS = "oDs^vP<X>ph*d8H"


@dataclass(frozen=True)
class Look:
    """Color and marker of every variant of a study."""

    variants: tuple[str, ...]

    def color(self, variant: str) -> str:
        """Return the variant's color, the same as in the report."""
        return color_of(variant, self.variants)

    def marker(self, variant: str) -> str:
        """Return a marker, so that variants differ not only in color."""
        return _MARKERS[self.variants.index(variant) % len(_MARKERS)]

    def handles(self, variants: Sequence[str], line: bool = False) -> list[Line2D]:
        """Return legend entries."""
        return [
            Line2D(
                [], [], color=self.color(name), label=name, lw=2 if line else 0, markersize=6,
                marker="" if line else self.marker(name),
            )
            for name in variants
        ]  # fmt: skip


def panels(
    count: int,
    size: tuple[float, float],
    title: str,
    subtitle: str,
    *,
    columns: int = 4,
    left: float = 0.0,
    legend: Sequence[Artist] = (),
    **options: Any,
) -> tuple[Figure, list[Axes]]:
    """Make a figure of equal panels under a heading, with a legend below.

    Args:
        count: panels, at least one, filled row by row.
        size: of a panel, inches (width, height).
        title: in bold above everything.
        subtitle: what is shown and under what conditions.
        columns: maximum number of panels in a row.
        left: additional inches for the first column's labels.
        legend: entries below the panels.
        options: for `Figure.subplots`.
    """
    # As few rows as possible, as evenly filled as possible.
    rows = -(-count // columns)
    columns = -(-count // rows)
    # A single narrow panel would leave no room for the heading.
    width = max(5.2, columns * size[0] + left + 0.3)
    lines = textwrap.wrap(subtitle, int(width * 15)) if subtitle else []
    title_lines = textwrap.wrap(title, int(width * 9.7))
    top = 0.2 + 0.24 * len(title_lines) + 0.17 * len(lines)
    in_a_row = max(1, int(width / (0.5 + 0.069 * max((len(str(h.get_label())) for h in legend), default=1))))
    bottom = 0.12 + 0.178 * -(-len(legend) // in_a_row) if legend else 0.0
    height = rows * size[1] + top + bottom
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.get_layout_engine().set(  # type: ignore[union-attr, call-arg]
        rect=(0, bottom / height, 1, 1 - (top + bottom) / height), w_pad=0.08, h_pad=0.06, wspace=0.03
    )
    figure.text(0.1 / width, 1 - 0.1 / height, "\n".join(title_lines), weight="bold", size=12, va="top")
    below = 1 - (0.14 + 0.24 * len(title_lines)) / height
    figure.text(0.1 / width, below, "\n".join(lines), color=GREY, size=8.5, va="top", linespacing=1.25)
    if legend:
        figure.legend(handles=list(legend), loc="lower left", bbox_to_anchor=(0.0, 0.0), ncols=in_a_row, fontsize=8.5)
    grid = figure.subplots(rows, columns, squeeze=False, **options)
    axes: list[Axes] = list(np.ravel(grid))
    for spare in axes[count:]:
        spare.set_visible(False)
    return figure, axes[:count]


def fit_titles(figure: Figure) -> None:
    """Break titles of panels that are wider than their panels into lines."""
    _place(figure)
    broken = False
    for ax in figure.axes:
        room = ax.get_position(original=True).width * figure.bbox.width
        for side in ("left", "center"):
            text = ax.get_title(loc=side)
            width = ax.set_title(text, loc=side).get_window_extent().width
            if width > room:
                ax.set_title(textwrap.fill(text, max(8, int(len(text) * room / width))), loc=side)
                broken = True
    if broken:
        # One layout makes room for the lines, the next one places what is around.
        _place(figure)
        _place(figure)


def _place(figure: Figure) -> None:
    """Let the layout engine place everything, without drawing it."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)


def statement(title: str, text: str) -> Figure:
    """Return a figure with a sentence in place of a plot."""
    figure, (axes,) = panels(1, (6.0, 0.9), title, "")
    axes.axis("off")
    axes.text(0, 0.8, textwrap.fill(text, 80), va="top", color=GREY, transform=axes.transAxes)
    return figure
