"""All variants of a study in one table, with every column that is known, and as the points of a figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from intaglio.hardware import DEVICE_NAMES
from intaglio.metrics import named
from intaglio.recommendation.choose import order
from intaglio.recommendation.judge import FAILS, MEETS, UNDECIDED
from intaglio.report.compression import show_compression
from intaglio.report.display import Display
from intaglio.report.formatting import NOTHING, number, score, unit_of_differences
from intaglio.report.html.measurements import PLACE, VariantKey, by_place, key_of
from intaglio.report.results import show_variants
from intaglio.summary.read import Summary
from intaglio.summary.variants import BASELINE

_Row = Mapping[str, Any]
# Columns that come first, as far as a study has them. A page shows the first seven; the reader asks for others.
_FIRST = ("variant", "task", "model", "device", "constraints")
_VERDICTS = (MEETS, UNDECIDED, FAILS)
_NEXT = ("difference to float [95 %]", "latency, ms", "speed-up over float32 [95 %]", "size, MB", "training, s")
# Columns of the table of compression that the table of variants has under another name.
_TWICE = ("file, MB", "last stage, s")
# Axes of the figure: columns of `points`, and their titles.
AXES = {
    "latency": "latency, ms",
    "size": "file, MB",
    "memory": "peak memory, MB",
    "training": "training of the whole recipe, s",
}


def recommended_first(rows: Sequence[_Row], judged: Sequence[_Row]) -> list[_Row]:
    """Return rows of variants: of each task and model the recommended one, then by verdict, then by the objective.

    Args:
        rows: of `on_devices`.
        judged: rows of recommendations.parquet.
    """
    places = list(dict.fromkeys((row["task"], row["model"]) for row in rows))
    verdicts = {key_of(row): row for row in judged}

    def position(row: _Row) -> tuple[int, int, float]:
        at, of = places.index((row["task"], row["model"])), verdicts.get(key_of(row))
        if of is None:
            return at, len(_VERDICTS), 0.0
        value = math.inf if of["objective_value"] is None else order(of)
        return at, -1 if of["recommended"] else _VERDICTS.index(of["verdict"]), value

    return sorted(rows, key=position)


def show_all(summary: Summary, rows: Sequence[_Row]) -> Display:
    """Return the table of variants with every known column, from rows of `on_devices`, in their order."""
    variants = show_variants(summary.study, rows, summary.facts["resamples"], summary.facts["margin"])
    compression = show_compression(summary.study, rows, summary.facts["train_seconds"])
    columns = {name: [row[place] for row in variants.rows] for place, name in enumerate(variants.columns)}
    for place, name in enumerate(compression.columns):
        if name not in _TWICE:
            columns.setdefault(name, [row[place] for row in compression.rows])
    if len(set(columns["task"])) == 1:
        del columns["task"]
    judged = {key_of(row): row for row in summary.rows["recommendations"]}
    columns["constraints"] = [_unfinished(row) or _verdict(judged.get(key_of(row))) for row in rows]
    columns["why"] = [judged.get(key_of(row), {}).get("reason", NOTHING) for row in rows]
    memory = _peak_memory(summary, rows)
    if any(value is not None for value in memory):
        columns["peak memory, MB"] = [number(value) for value in memory]
    # The values of the metric are between the names of a variant and the rest.
    values = [name for name in columns if name not in (*_FIRST, *_NEXT, "seeds", "recipe", "why")][:1]
    if "metric" in columns:
        values = ["metric", *(name for name in columns if name in ("value", "value, %"))]
    order = [name for name in (*_FIRST, *values, *_NEXT) if name in columns]
    order += [name for name in columns if name not in order]
    notes = list(dict.fromkeys([*variants.notes, *compression.notes]))
    cells = list(zip(*(columns[name] for name in order), strict=True))
    numbers = variants.numbers | compression.numbers | {"peak memory, MB"}
    return Display(variants.title, order, cells, frozenset(order) & numbers, notes)


def _verdict(judged: _Row | None) -> str:
    if judged is None:
        return NOTHING
    return "recommended" if judged["recommended"] else str(judged["verdict"])


def _unfinished(row: _Row) -> str:
    """Return `failed` or `pending` for a variant without any complete run, else nothing."""
    if row["n"]:
        return ""
    return "failed" if row["failed"] else "pending"


def _peak_memory(summary: Summary, rows: Sequence[_Row]) -> list[float | None]:
    place = (*PLACE, "device", "backend")
    peaks = {tuple(row[name] for name in place): row["peak_memory_mb_mean"] for row in summary.rows["backends"]}
    return [peaks.get(tuple(row[name] for name in place)) for row in rows]


def by_task(rows: Sequence[_Row], judged: Sequence[_Row]) -> dict[str, Any]:
    """Return the differences to float of every variant on every task, as a table of variants by tasks.

    Args:
        rows: of variants.parquet.
        judged: rows of recommendations.parquet.

    Returns:
        `tasks`, `unit` of the differences, and `variants`: names with one cell for each task, None where there is no
        result; a cell has text, with a star if the variant is recommended, the verdict on the study's margin (within,
        not within, undecided; empty for float) or what is in its place (failed, pending), and page.
    """
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    several = len({row["model"] for row in rows}) > 1
    recommended = {key_of(row) for row in judged if row["recommended"]}
    cells: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        own, unfinished = row["difference"] is None or row["variant"] == BASELINE, _unfinished(row)
        text = unfinished or (NOTHING if own else score(row["primary_metric"], row["difference"], sign=True))
        cell = {"text": text + " ★" * (key_of(row) in recommended), "page": page_of(key_of(row))}
        cell["verdict"] = unfinished or (not own and row["noninferior"]) or ""
        name = f"{row['variant']} · {row['model']}" if several else row["variant"]
        cells.setdefault(name, {})[row["task"]] = cell
    found = [(name, [mine.get(task) for task in tasks]) for name, mine in cells.items()]
    return {"tasks": tasks, "unit": unit_of_differences(rows), "variants": found}


def page_of(place: VariantKey) -> str:
    """Return the name of a variant's page."""
    return "/".join(("variant", *place))


def points(summary: Summary) -> list[dict[str, Any]]:
    """Return the points of the figure: every variant in every backend on every device that timed it.

    A point has its panel, variant, page, and whether it is recommended; value, low and high of the primary metric, in
    its unit; the metric's axis; better, 1 or -1; device, backend, and whether that is the fastest one there; and the
    columns of `AXES`. The interval is that of the difference to float, around the value.
    """
    backends = by_place(summary.rows["backends"])
    recommended = {key_of(row) for row in summary.rows["recommendations"] if row["recommended"]}
    untimed = [dict.fromkeys(("device", "backend", "latency_ms_mean", "peak_memory_mb_mean")) | {"fastest": True}]
    found = []
    for panel in summary.panels:
        for row in panel.variants:
            if row["primary_mean"] is None:
                continue
            metric, place = named(row["primary_metric"]), key_of(row)
            value = row["primary_mean"]
            known = row["difference"] is not None and row["difference_low"] is not None
            low, high = (
                value + row[f"difference_{end}"] - row["difference"] if known else value for end in ("low", "high")
            )
            for at in backends.get(place, untimed):
                found.append(
                    {
                        "panel": panel.title,
                        "variant": row["variant"],
                        "page": page_of(place),
                        "recommended": place in recommended,
                        "metric": metric.axis,
                        "better": 1 if metric.higher_is_better else -1,
                        **{
                            name: short(metric.scale * of)
                            for name, of in (("value", value), ("low", low), ("high", high))
                        },
                        "device": DEVICE_NAMES.get(at["device"], ""),
                        "backend": at["backend"] or "",
                        "fastest": at["fastest"],
                        "latency": short(at["latency_ms_mean"]),
                        "memory": short(at["peak_memory_mb_mean"]),
                        "size": short(row["size_mb_mean"]),
                        "training": short(row["total_train_seconds_mean"]),
                    }
                )
    return found


def short(value: float | None) -> float | None:
    """Return a number to five significant digits, for figures."""
    return None if value is None else float(f"{value:.5g}")
