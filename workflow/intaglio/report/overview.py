"""The overview of a study: one row per variant in 80 columns, for a terminal and for the report's first page."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from intaglio.metrics import label_of
from intaglio.planning.found import KEY
from intaglio.recommendation.sentences import recommendation_sentences
from intaglio.report.display import Display, device_cell, difference, disturbances, of_data, state, tabulate
from intaglio.report.formatting import number, score, speedup_in_short, value_heading

WIDTH = 80
# Tasks whose recommendation is more than a sentence.
_FEW = 3


def show_overview(study: str, variants: Sequence[Mapping[str, Any]], runs: Sequence[Mapping[str, Any]]) -> Display:
    """Return the most important columns for comparing variants.

    Args:
        study: name of the study.
        variants: rows of `on_devices`.
        runs: rows of runs.parquet.
    """
    several = len({row["model"] for row in variants}) > 1
    metrics = sorted({row["primary_metric"] for row in variants if row["primary_metric"]})
    name = (label_of(metrics[0]) if len(metrics) == 1 else None) or "value"
    several_forms = any(row["against_any"] != row["against"] for row in variants)
    cells = {
        "task": lambda row: f"{row['task']} · {row['model']}" if several else row["task"],
        "model": lambda row: row["model"],
        "variant": lambda row: row["variant"],
        f"{name}{value_heading(variants).removeprefix('value')}": lambda row: (
            score(row["primary_metric"], row["primary_mean"]) if row["n"] else state(row)
        ),
        "difference [95 %]": difference,
        "device": device_cell,
        "speed-up": speedup_in_short,
        **({"any float": lambda row: speedup_in_short(row, "_any")} if several_forms else {}),
        "MB": lambda row: number(row["size_mb_mean"]),
    }
    shown = {heading: cell for heading, cell in cells.items() if heading != "model"}
    table = tabulate(f"Study {study}", shown, variants, {"task", "variant", "device"})
    gaps = [run for run in runs if run["status"] != "ok"]
    notes = [*_forms(variants, several_forms)]
    if gaps:
        first = next((run for run in gaps if run["status"] == "failed"), gaps[0])
        name = ", ".join((*(first[part] for part in KEY[:-1]), f"seed {first['seed']}"))
        notes.append(
            f"{len(gaps)} of {len(runs)} runs {'is' if len(gaps) == 1 else 'are'} not complete. {name}: "
            f"{first['status']}, {first['error']}"
        )
    notes += of_data(runs)
    notes += disturbances(variants)
    return Display(table.title, table.columns, table.rows, table.numbers, notes)


def _forms(variants: Sequence[Mapping[str, Any]], several: bool) -> list[str]:
    """Return a sentence that says what speed-ups are over."""

    def names(column: str) -> str:
        return ", ".join(dict.fromkeys(name for row in variants if row[column] for name in row[column].split(", ")))

    if not names("against"):
        return []
    of_any = f"; any float: over its fastest form of any precision ({names('against_any')})" if several else ""
    return [f"Speed-up: over the float model's fastest float32 form ({names('against')}){of_any}."]


def recommended(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a paragraph for each task: what is recommended and why, from rows of recommendations.parquet.

    Of many tasks it is one sentence each.
    """
    tasks = dict.fromkeys(row["task"] for row in rows)
    found = [recommendation_sentences([row for row in rows if row["task"] == task]) for task in tasks]
    return [" ".join(sentences if len(tasks) <= _FEW else sentences[:1]) for sentences in found]


def to_text(table: Display, first: Sequence[str], places: Mapping[str, str]) -> str:
    """Return the table as text of at most 80 columns (except for paths); long names are shortened.

    Args:
        table: of `show_overview`.
        first: paragraphs before it.
        places: paths of further results, by name.
    """
    widths = [max(len(cell) for cell in column) for column in zip(table.columns, *table.rows, strict=True)]
    texts = [place for place, name in enumerate(table.columns) if name not in table.numbers]
    while sum(widths) + 2 * (len(widths) - 1) > WIDTH and max(widths[place] for place in texts) > 6:
        widths[max(texts, key=lambda place: widths[place])] -= 1

    def line(cells: Sequence[str]) -> str:
        padded = []
        for name, cell, width in zip(table.columns, cells, widths, strict=True):
            short = cell if len(cell) <= width else cell[: width - 1] + "…"
            padded.append(short.rjust(width) if name in table.numbers else short.ljust(width))
        return "  ".join(padded).rstrip()

    def wrapped(text: str) -> list[str]:
        return textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False)

    lines = [each for paragraph in first for each in (*wrapped(paragraph), "")]
    lines += [line(table.columns), *map(line, table.rows)]
    for note in table.notes:
        lines += ["", *wrapped(note)]
    label = max(map(len, places), default=0) + 1
    lines += ["", *(f"{f'{what}:':{label}} {where}" for what, where in places.items())]
    return "\n".join(lines) + "\n"


def to_rst(table: Display, first: Sequence[str]) -> str:
    """Return these paragraphs and the table as reStructuredText, for the report's first page."""

    def plain(text: str) -> str:
        return re.sub(r"([\\*`|_])", r"\\\1", text)

    frame = pd.DataFrame([[plain(cell) for cell in row] for row in table.rows], columns=list(table.columns))
    grid = frame.to_markdown(index=False, tablefmt="grid", disable_numparse=True)
    return "\n\n".join([*map(plain, first), grid, *map(plain, table.notes)]) + "\n"
