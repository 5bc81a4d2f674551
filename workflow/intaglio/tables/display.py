"""Tables for people: few columns, rounded, with units; the same content as Markdown, HTML and (in full) CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from intaglio.store import new_file

NOTHING = "–"
FASTEST = "The backend named is the fastest, and latency is its own; all of them are in the table of backends."
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
METRIC_NAMES = {
    "accuracy": "accuracy",
    "f1_macro": "macro F1",
    "f1": "F1",
    "balanced_accuracy": "balanced accuracy",
    "matthews": "Matthews correlation",
    "cohen_kappa": "Cohen's kappa",
}


@dataclass(frozen=True)
class Display:
    """A table to be read.

    Attributes:
        title: what it shows.
        columns: headings, with units.
        rows: cells, formatted.
        numbers: headings whose cells are numbers, to be aligned right.
        notes: sentences below it.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: frozenset[str]
    notes: Sequence[str] = ()


def number(value: float | None, digits: int = 3) -> str:
    """Format to so many significant digits, never in scientific notation, with a true minus sign."""
    if value is None:
        return NOTHING
    decimals = digits - 1
    for bound in (1, 10, 100, 1000):
        decimals -= abs(value) >= bound
    text = f"{value:.{max(0, min(decimals + 1, digits))}f}"
    return text.replace("-", "−")


def percent(value: float | None, decimals: int = 1, sign: bool = False) -> str:
    """Format a share as percent (or points, for a correlation), without the sign."""
    if value is None:
        return NOTHING
    text = f"{100 * value:{'+' if sign else ''}.{decimals}f}"
    if float(text) == 0:
        text = f"{0:.{decimals}f}"
    return text.replace("-", "−")


def spread(mean: str, sd: str) -> str:
    """Join a mean and its standard deviation, where there is one."""
    return mean if NOTHING in (mean, sd) else f"{mean} ± {sd}"


def measured(mean: float | None, sd: float | None) -> str:
    """Format a mean with its standard deviation, to the same decimals, one more where the deviation needs it."""
    if mean is None or sd is None:
        return number(mean)
    decimals = len(number(mean).partition(".")[2])
    decimals += 0 < sd < 0.5 * 10**-decimals
    return f"{mean:.{decimals}f} ± {sd:.{decimals}f}".replace("-", "−")


def magnitude(value: float) -> str:
    """Format what matters by its power of ten, such as a rounding error; nothing but 0 is shown as 0."""
    if value == 0:
        return "0"
    digits, _, power = f"{value:.0e}".partition("e")
    return f"{digits} × 10{str(int(power)).translate(_RAISED)}"


def times(value: float | None) -> str:
    """Format a factor."""
    return NOTHING if value is None else f"{number(value)}×"


def runs(study: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Display:
    """Return the table of all runs."""
    cells = {
        "task": lambda row: row["task"],
        "model": lambda row: row["model"],
        "variant": lambda row: row["variant"],
        "seed": lambda row: str(row["seed"]),
        "status": lambda row: row["status"],
        "metric": lambda row: METRIC_NAMES.get(row.get("primary_metric"), row.get("primary_metric") or NOTHING),
        "value, %": lambda row: percent(row.get("primary_value")),
        "accuracy, %": lambda row: percent(row.get("accuracy")),
        "macro F1, %": lambda row: percent(row.get("f1_macro")),
        "training, s": lambda row: number(row.get("train_seconds")),
        "latency, ms": lambda row: measured(row.get("latency_ms_mean"), row.get("latency_ms_std")),
        "backend": lambda row: row.get("backend") or NOTHING,
        "p99, ms": lambda row: number(row.get("latency_ms_p99")),
        "GPU latency, ms": lambda row: measured(row.get("cuda_latency_ms_mean"), row.get("cuda_latency_ms_std")),
        "GPU backend": lambda row: row.get("cuda_backend") or NOTHING,
        "size, MB": lambda row: number(row.get("size_mb")),
    }
    text = {"task", "model", "variant", "status", "metric", "backend", "GPU backend"}
    table = tabulate(f"Runs of {study['study']}", cells, rows, text)
    failed = [
        f"{row['task']}/{row['model']}/{row['variant']}/{row['seed']}: {row['error']}"
        for row in rows
        if row.get("error")
    ]
    latency = f"Latency: mean ± standard deviation over the calls of one run. {FASTEST}"
    return Display(table.title, table.columns, table.rows, table.numbers, [latency, *conditions(rows), *failed])


def variants(study: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Display:
    """Return the table of all variants over seeds."""

    def over_seeds(name: str) -> Any:
        return lambda row: measured(row[f"{name}_mean"], row[f"{name}_sd"])

    def share(name: str) -> Any:
        return lambda row: spread(percent(row[f"{name}_mean"]), percent(row[f"{name}_sd"]))

    cells = {
        "task": lambda row: row["task"],
        "model": lambda row: row["model"],
        "variant": lambda row: row["variant"],
        "seeds": lambda row: str(row["n"]) if row["n"] == row["planned"] else f"{row['n']} of {row['planned']}",
        "metric": lambda row: METRIC_NAMES.get(row["primary_metric"], row["primary_metric"] or NOTHING),
        "value, %": share("primary"),
        "difference to float [95 %]": difference,
        "accuracy, %": share("accuracy"),
        "macro F1, %": share("f1_macro"),
        "training, s": over_seeds("train_seconds"),
        "training, × float": lambda row: times(row.get("relative_train_seconds")),
        "latency, ms": over_seeds("latency_ms"),
        "backend": lambda row: row.get("backend") or NOTHING,
        "speed-up": lambda row: times(row.get("speedup")),
        "GPU latency, ms": over_seeds("cuda_latency_ms"),
        "GPU backend": lambda row: row.get("cuda_backend") or NOTHING,
        "GPU speed-up": lambda row: times(row.get("cuda_speedup")),
        "size, MB": lambda row: number(row["size_mb_mean"]),
        "smaller": lambda row: times(row.get("size_ratio")),
    }
    text = {"task", "model", "variant", "metric", "backend", "GPU backend"}
    table = tabulate(f"Variants of {study['study']}", cells, rows, text)
    left_out = any(
        row[name] not in (0, row["n"]) for row in rows for name in ("train_n", "latency_n", "cuda_latency_n")
    )
    lonely = any(row.get("difference_n") == 1 for row in rows)
    notes = [
        "Mean ± standard deviation over seeds. Difference: value minus that of float with the same seeds, in points, "
        f"with its 95 % interval from {study['bootstrap']} bootstrap resamples, paired over test examples and seeds.",
        "Training: of the variant's last stage, without set-up and evaluation.",
        f"{FASTEST} Size: of the exported file.",
        *(["Times on other hardware than most are left out of the means; runs.csv has them."] if left_out else []),
        *(["One seed: its interval speaks of the choice of examples only."] if lonely else []),
        *conditions(rows),
    ]
    return Display(table.title, table.columns, table.rows, table.numbers, notes)


def difference(row: Mapping[str, Any]) -> str:
    """Format difference and interval, in points; the baseline itself has none."""
    if row.get("difference") is None or row["variant"] == "float":
        return NOTHING
    low, high = (percent(row[name], sign=True) for name in ("difference_low", "difference_high"))
    return f"{percent(row['difference'], sign=True)} [{low}, {high}]"


def conditions(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say on what hardware the times were taken."""

    def names(column: str) -> str:
        return "; ".join(sorted({row[column] for row in rows if row.get(column)}))

    points = sorted({(r["latency_batch_size"], r["latency_length"]) for r in rows if r.get("latency_batch_size")})
    at = ", ".join(f"batch {batch} × {length} tokens" for batch, length in points)
    said = [
        ("Trained on", names("device"), ""),
        ("Latency on the CPU", names("latency_device_name"), at),
        ("Latency on the GPU", names("cuda_device_name"), at),
    ]
    return [f"{what}: {', '.join(filter(None, [where, how]))}." for what, where, how in said if where]


def tabulate(title: str, cells: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], text: Iterable[str]) -> Display:
    """Format rows, leaving out columns that say nothing."""
    formatted = {name: [cell(row) for row in rows] for name, cell in cells.items()}
    if len(set(formatted["model"])) == 1:
        del formatted["model"]
    if set(formatted.get("metric", ())) == {"accuracy"}:
        # The metric is accuracy everywhere: its column would stand there twice.
        del formatted["metric"], formatted["accuracy, %"]
        formatted = {"accuracy, %" if name == "value, %" else name: column for name, column in formatted.items()}
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


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Write all columns in full precision; what is null is empty."""
    with new_file(path) as draft, draft.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
