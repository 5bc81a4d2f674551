"""Readable tables: few columns, rounded, with units; as Markdown here, in the report by `html`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from intaglio.hardware import DEVICE_NAMES
from intaglio.metrics import KNOWN_METRICS
from intaglio.report.formatting import NOTHING, percent, score, speedup_cell

# Columns with names of backends.
FORMS = ("float32 form", "float form")


@dataclass(frozen=True)
class Display:
    """A readable table.

    Attributes:
        title: its title.
        columns: headings, with units.
        rows: cells, formatted.
        numbers: headings whose cells are numbers, to be aligned right.
        notes: sentences below the table.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: frozenset[str]
    notes: Sequence[str] = ()


def difference(row: Mapping[str, Any], name: str = "difference") -> str:
    """Format a difference to float (`control_difference`: to the control) and its interval.

    It is in points, of an error in its unit. The baseline itself has none.
    """
    if row.get(name) is None or row["variant"] == "float":
        return NOTHING
    ends = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    mean, low, high = (score(row["primary_metric"], end, sign=True) for end in ends)
    return f"{mean} [{low}, {high}]"


def device_cell(row: Mapping[str, Any]) -> str:
    """Return the name of the device of a row's times."""
    return DEVICE_NAMES[row["device"]] if row["device"] else NOTHING


def state(row: Mapping[str, Any]) -> str:
    """Return the number of complete runs of a variant if it is not all: `1 of 3, 1 failed`."""
    if row["n"] == row["planned"]:
        return str(row["n"])
    failed = f", {row['failed']} failed" if row["failed"] else ""
    return f"{row['n']} of {row['planned']}{failed}"


def disturbances(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a sentence on the variants whose times are not reliable; empty if there are none."""
    names = list(dict.fromkeys(row["variant"] for row in rows if row.get("disturbed")))
    if not names:
        return []
    most = max(row["disturbed"] for row in rows if row.get("disturbed"))
    return [
        f"Other processes took up to {most:.0f} % of the cores "
        f"while these were timed: {', '.join(names)}. Their times are not reliable; the next run measures them again."
    ]


def of_data(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return warnings of test texts that are also in the training data, and of truncated ones, from runs.parquet."""
    notes = []
    for task in dict.fromkeys(run["task"] for run in runs):
        mine = [run for run in runs if run["task"] == task]
        leaked = max((run.get("test_texts_in_training") or 0 for run in mine), default=0)
        cut = sorted({percent(run["truncated"]) for run in mine if run.get("truncated")}, key=float)
        if leaked:
            notes.append(f"{task}: {leaked} test texts are also in the training data.")
        if cut:
            share = cut[0] if len(cut) == 1 else f"{cut[0]} to {cut[-1]}"
            notes.append(f"{task}: {share} % of test texts were truncated at max_length.")
    return notes


def speedups(rows: Sequence[Mapping[str, Any]]) -> dict[str, Callable[[Mapping[str, Any]], str]]:
    """Return the columns of speed-ups, which name the forms of the float model that they are over.

    The fastest form of any precision has columns of its own where it is another than the fastest float32 form.
    """
    cells: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "speed-up over float32 [95 %]": speedup_cell,
        "float32 form": lambda row: row["against"] or NOTHING,
    }
    if any(row["against_any"] != row["against"] for row in rows):
        cells |= {
            "speed-up over any float [95 %]": lambda row: speedup_cell(row, "_any"),
            "float form": lambda row: row["against_any"] or NOTHING,
        }
    return cells


def speedup_notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what speed-ups are, and whether any is missing."""
    timed = [row for row in rows if row["device"]]
    notes = []
    if any(row["speedup"] is not None for row in timed):
        same = all(row["against_any"] == row["against"] for row in timed)
        of_any = ", which is its fastest of any precision" if same else ", and over its fastest of any precision"
        notes.append(
            "Speed-up: over the fine-tuned float model in its fastest float32 form" + of_any + "; called in turns in "
            "one process, the median ratio of times with its 95 % interval. No difference: none is measurable, as the "
            "interval holds 1."
        )
    if any(row["speedup"] is None for row in timed):
        notes.append("No speed-up where no float model was timed beside.")
    return notes


def tabulate(title: str, cells: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], text: Iterable[str]) -> Display:
    """Format rows, without columns that are the same in all rows: a single model or device, or only dashes."""
    formatted = {name: [cell(row) for row in rows] for name, cell in cells.items()}
    if len(set(formatted.get("model", ()))) == 1:
        del formatted["model"]
    if len(set(formatted.get("device", ())) - {NOTHING}) == 1:
        del formatted["device"]
    metrics = set(formatted.get("metric", ())) - {NOTHING}
    if len(metrics) == 1:
        # The only metric names the column of its values, which may have been there already.
        (label,) = metrics
        axis = {metric.label: metric.axis for metric in KNOWN_METRICS.values()}.get(label, label)
        del formatted["metric"]
        formatted.pop(axis, None)
        formatted = {axis if name in ("value", "value, %") else name: column for name, column in formatted.items()}
    kept = {name: column for name, column in formatted.items() if set(column) != {NOTHING}}
    return Display(title, list(kept), list(zip(*kept.values(), strict=True)), frozenset(kept) - frozenset(text))


def to_markdown(table: Display) -> str:
    """Return the table as a Markdown document."""
    lines = [f"# {table.title}", ""]
    if table.rows:
        frame = pd.DataFrame(list(table.rows), columns=list(table.columns))
        align = ["right" if name in table.numbers else "left" for name in table.columns]
        frame = frame.map(lambda cell: str(cell).replace("|", "\\|"))
        lines += [frame.to_markdown(index=False, disable_numparse=True, colalign=align), ""]
    for note in table.notes:
        lines += [note, ""]
    return "\n".join(lines)
