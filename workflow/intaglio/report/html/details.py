"""What the page of one variant shows beside its numbers: curves, classes, confusion, operators, times, sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd

from intaglio.hardware import DEVICE_NAMES
from intaglio.report.display import Display, tabulate
from intaglio.report.formatting import NOTHING, counted, number, percent
from intaglio.report.html.measurements import PLACE, RowList, VariantKey
from intaglio.report.html.variants import short
from intaglio.report.models import OF_CLASS, class_cell, on_primary_sets
from intaglio.summary.variants import BASELINE

_Row = Mapping[str, Any]
_LOSSES = {"loss": "training", "validation_loss": "validation"}
# More points of a curve than this are thinned out, evenly; more classes leave no room for a confusion matrix.
_MOST_POINTS, _MOST_CLASSES = 60, 24
# In its place stand the pairs of classes that are confused most often, so many.
_MOST_CONFUSED = 20
# With more classes than this, a cell of the matrix shows its share alone, as a whole number.
_FEW_CLASSES = 8
_MOST_OPERATORS = 10
# Components of the table of sizes, in their order.
_COMPONENTS = {
    "file": "exported file",
    "tensors": "tensors in it",
    "nonzero": "non-zero elements",
    "sparse": "stored sparse",
    "zstd": "under zstd",
    "checkpoint": "checkpoint",
    "checkpoint_tensors": "tensors in the checkpoint",
    "parameters": "parameters in memory",
    "buffers": "buffers in memory",
}


def curves(losses: Any) -> dict[VariantKey, RowList]:
    """Return the losses of each variant's last stage, from `Summary.losses`: name, epoch, value, low and high."""
    found: dict[VariantKey, RowList] = {}
    table = losses.to_pandas().sort_values("step", kind="stable")
    for (task, model, variant, name), rows in table.groupby([*PLACE, "name"], sort=False):
        every = -(-len(rows) // _MOST_POINTS)
        kept = pd.concat([rows.iloc[::every], rows.iloc[-1:]]).drop_duplicates("step")
        columns = ("epoch_mean", "value_mean", "value_min", "value_max")
        for epoch, value, low, high in kept[list(columns)].itertuples(index=False, name=None):
            at = {"epoch": short(epoch), "value": short(value), "low": short(low), "high": short(high)}
            found.setdefault((task, model, variant), []).append({"name": _LOSSES[name], **at})
    return found


def classes(rows: Sequence[_Row], baseline: Sequence[_Row]) -> Display:
    """Return the table of a variant's classes, with differences to float in points, from rows of `class_rows`.

    Args:
        rows: of the variant.
        baseline: of float, on the same task and model.
    """
    of_float = {row["label"]: row for row in baseline}
    # A threshold is no result, and has no difference.
    compared = [name for name in OF_CLASS if name != "class_threshold"]

    def difference(row: _Row, name: str) -> str:
        mean, beside = row[name][0], of_float.get(row["label"], {}).get(name, (None,))[0]
        return NOTHING if mean is None or beside is None else percent(mean - beside, sign=True)

    cells: dict[str, Any] = {
        "class": lambda row: row["label"],
        "examples": lambda row: counted(row["examples"]),
    }
    own = bool(rows) and rows[0]["variant"] == BASELINE
    for name, heading in OF_CLASS.items():
        cells[heading] = partial(class_cell, name=name)
        if name in compared and of_float and not own:
            cells[f"{heading.removesuffix(', %')}: to float, points"] = partial(difference, name=name)
    if not rows:
        return Display("Classes", [], [], frozenset())
    return tabulate("Classes", cells, rows, {"class"})


def confusions(metrics: Any, runs: Sequence[_Row]) -> tuple[dict[VariantKey, RowList], dict[VariantKey, RowList]]:
    """Return the confusion matrix of each variant, mean over seeds, and of many classes the pairs that are confused.

    Cells of a matrix have true, predicted, count, share of the true class, and text. Pairs of different classes have
    true, predicted, count and share.

    Args:
        metrics: the metrics of all runs, with their keys.
        runs: rows of runs.parquet.
    """
    table = on_primary_sets(metrics, runs)
    table = table[table["metric"] == "confusion"]
    place = list(PLACE)
    mean = table.groupby([*place, "label", "predicted"], sort=False)["value"].mean().reset_index()
    totals = mean.groupby([*place, "label"], sort=False)["value"].transform("sum")
    mean["share"] = (mean["value"] / totals.where(totals > 0)).fillna(0.0)
    matrices: dict[VariantKey, RowList] = {}
    pairs: dict[VariantKey, RowList] = {}
    for key, cells in mean.groupby(place, sort=False):
        task, model, variant = map(str, key)
        known = cells["label"].nunique()
        if known > _MOST_CLASSES:
            cells = cells[(cells["label"] != cells["predicted"]) & (cells["value"] > 0)]
        rows = [
            {"true": true, "predicted": predicted, "count": short(count), "share": short(share)}
            for true, predicted, count, share in cells[["label", "predicted", "value", "share"]].itertuples(False, None)
        ]
        if known > _MOST_CLASSES:
            pairs[task, model, variant] = rows
            continue
        for row in rows:
            row["text"] = percent(row["share"]) + " %" if known <= _FEW_CLASSES else percent(row["share"], 0)
        matrices[task, model, variant] = rows
    return matrices, pairs


def most_confused(pairs: Sequence[_Row], baseline: Sequence[_Row]) -> Display:
    """Return the table of the classes that a variant confuses most often, from pairs of `confusions`.

    Args:
        pairs: of the variant.
        baseline: of float, on the same task and model.
    """
    if not pairs:
        return Display("Confusion", [], [], frozenset())
    of_float = {(row["true"], row["predicted"]): row["count"] for row in baseline}
    compared = bool(of_float) and pairs is not baseline

    def difference(row: _Row) -> str:
        change = row["count"] - of_float.get((row["true"], row["predicted"]), 0.0)
        return ("+" if change > 0 else "") + counted(change)

    cells = {
        "true": lambda row: row["true"],
        "predicted": lambda row: row["predicted"],
        "examples": lambda row: counted(row["count"]),
        "of the true class, %": lambda row: percent(row["share"]),
        **({"examples: to float": difference} if compared else {}),
    }
    most = sorted(pairs, key=lambda row: -row["count"])[:_MOST_CONFUSED]
    return tabulate("Confusion", cells, most, {"true", "predicted"})


def flips(rows: Sequence[_Row], flip: str) -> dict[str, Any]:
    """Return the examples that a variant mended or broke: their number, seed, and those with the largest changes.

    Args:
        rows: of flips.parquet, of the variant.
        flip: mended or broken.
    """
    mine = [row for row in rows if row["flip"] == flip]
    if not mine:
        return {"flip": flip, "count": 0}
    # Of a task with one label, the probabilities are those of the true one.
    several = any(row["probability_of"] != row["label"] for row in mine)
    examples = [
        {
            "texts": [row[name] for name in ("text_a", "text_b") if row[name]] or [f"text not shown, id {row['id']}"],
            "said": {
                "true": row["label"] or NOTHING,
                "float": row["baseline_prediction"] or NOTHING,
                "here": row["prediction"] or NOTHING,
                f"p of {row['probability_of'] if several else 'the true one'}": " → ".join(
                    number(row[name], digits=2) for name in ("baseline_probability", "probability")
                ),
            },
        }
        for row in mine
    ]
    return {"flip": flip, "count": mine[0]["flips"], "seed": mine[0]["seed"], "sets": several, "examples": examples}


def operators(rows: Sequence[_Row]) -> list[tuple[str, RowList]]:
    """Return the operators with the largest shares of the time, by device and backend in words."""
    found: dict[str, RowList] = {}
    for row in rows:
        name = f"{row['backend']}, {DEVICE_NAMES[row['device']]}"
        mine = found.setdefault(name, [])
        if len(mine) < _MOST_OPERATORS:
            mine.append({"operator": row["operator"], "share": short(row["share_mean"])})
    return list(found.items())


def time_grid(rows: Sequence[_Row]) -> tuple[Display, RowList]:
    """Return the times of a call over batch sizes and lengths, as a table, and as the rows of a figure.

    The table has a column for each backend. The figure has no rows where a single length was measured.
    """
    if not rows:
        return Display("Latency", [], [], frozenset()), []
    ordered = sorted(rows, key=lambda row: (row["device"], row["batch_size"], row["length"], row["p50_ms_mean"]))
    backends = dict.fromkeys(row["backend"] for row in ordered)
    points: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in ordered:
        place = {name: row[name] for name in ("device", "batch_size", "length")}
        points.setdefault(tuple(place.values()), place)[row["backend"]] = row

    def times(point: _Row, backend: str) -> str:
        row = point.get(backend)
        return NOTHING if row is None else f"{number(row['p50_ms_mean'])} ({number(row['p99_ms_mean'])})"

    cells = {
        "device": lambda point: DEVICE_NAMES[point["device"]],
        "batch": lambda point: str(point["batch_size"]),
        "tokens": lambda point: str(point["length"]),
        **{f"{backend}, ms": partial(times, backend=backend) for backend in backends},
    }
    table = tabulate("Latency", cells, list(points.values()), {"device"})
    drawn = [
        {
            "backend": row["backend"] if row["device"] == "cpu" else f"{row['backend']}, GPU",
            "batch": row["batch_size"],
            "length": row["length"],
            "ms": short(row["p50_ms_mean"]),
        }
        for row in ordered
    ]
    return table, drawn if len({row["length"] for row in rows}) > 1 else []


def energy_table(rows: Sequence[_Row]) -> Display:
    """Return the table of the energy of a call in each backend, and of each training; no rows without a meter."""
    if not rows:
        return Display("Energy", [], [], frozenset())
    cells = {
        "of": lambda row: (
            f"training ({row['stage']})"
            if row["stage"]
            else f"a call in {row['backend']}, {row['batch_size']} by {row['length']}"
        ),
        "on": lambda row: row["device_name"],
        "J": lambda row: number(row["joules_mean"]),
        "J above rest": lambda row: number(row["joules_mean"] - row["idle_watts_mean"] * row["seconds_mean"]),
        "at rest, W": lambda row: number(row["idle_watts_mean"]),
        "time": lambda row: _time(row["seconds_mean"]),
        "counted by": lambda row: row["meter"],
    }
    return tabulate("Energy", cells, rows, {"of", "on", "time", "counted by"})


def _time(seconds: float) -> str:
    return f"{number(seconds)} s" if seconds >= 1 else f"{number(1000 * seconds)} ms"


def size_table(rows: Sequence[_Row]) -> Display:
    """Return the table of sizes by data type."""
    if not rows:
        return Display("Sizes", [], [], frozenset())
    names = list(_COMPONENTS)
    ordered = sorted(rows, key=lambda row: (names.index(row["component"]), -row["bytes_mean"]))
    cells = {
        "what": lambda row: _COMPONENTS[row["component"]],
        "type": lambda row: row["dtype"] or NOTHING,
        "MB": lambda row: number(row["bytes_mean"] / 1e6),
        "elements, M": lambda row: (
            NOTHING if row["component"] in ("file", "zstd", "checkpoint") else number(row["count_mean"] / 1e6)
        ),
    }
    return tabulate("Sizes", cells, ordered, {"what", "type"})
