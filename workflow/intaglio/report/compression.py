"""Tables of compression (quality kept, resources saved) and of conversions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from intaglio.metrics import label_of
from intaglio.report.display import FORMS, Display, device_cell, difference, speedup_notes, speedups, tabulate
from intaglio.report.formatting import (
    NOTHING,
    measured,
    number,
    percent,
    power_of_ten,
    primary_over_seeds,
    share_over_seeds,
    value_heading,
)

_Row = Mapping[str, Any]
_KEY = ("study", "task", "model", "variant", "stage", "measure")


def show_compression(study: str, rows: Sequence[_Row], seconds: Mapping[str, float]) -> Display:
    """Return the table of what compression keeps and saves, from rows of `on_devices`.

    Args:
        study: its name.
        rows: of `on_devices`.
        seconds: training time of the study as it is (`shared`) and if nothing were shared (`alone`), s.
    """

    cells = {
        "task": lambda row: row["task"],
        "model": lambda row: row["model"],
        "variant": lambda row: row["variant"],
        "recipe": lambda row: row["recipe"],
        "metric": lambda row: label_of(row["primary_metric"]) or NOTHING,
        value_heading(rows): primary_over_seeds,
        "difference to float [95 %]": difference,
        "accuracy, %": share_over_seeds("accuracy"),
        "as teacher, %": share_over_seeds("teacher_agreement"),
        "KL": lambda row: number(row["teacher_kl_mean"]),
        "sparsity, %": lambda row: percent(row["sparsity_mean"]),
        "non-zero, M": lambda row: number(None if row["nonzero_mean"] is None else row["nonzero_mean"] / 1e6),
        "file, MB": lambda row: number(row["size_mb_mean"]),
        "sparse, MB": lambda row: number(row["sparse_mb_mean"]),
        "zstd, MB": lambda row: number(row["zstd_mb_mean"]),
        "device": device_cell,
        "latency, ms": lambda row: measured(row["latency_ms_mean"], row["latency_ms_sd"]),
        "backend": lambda row: row["backend"] or NOTHING,
        **speedups(rows),
        "last stage, s": lambda row: number(row["train_seconds_mean"]),
        "whole recipe, s": lambda row: number(row["total_train_seconds_mean"]),
    }
    text = {"task", "model", "variant", "recipe", "metric", "device", "backend", *FORMS}
    table = tabulate(f"Compression in {study}", cells, rows, text)
    notes = [
        "As teacher: share of test examples with the teacher's prediction; KL: divergence of the probabilities from "
        "the teacher's, nats. The teacher is that of the last stage, or else the recipe's fine-tuned model.",
        "Sparsity: zeros among the weights of the linear layers, if weights were pruned. Non-zero: elements of the "
        "file's tensors that are not zero. Sparse: the file's tensors, each stored whole or as a bit mask "
        "and its non-zero values; zstd: the file compressed at level 3. The file is executed as it is: zeros "
        "among dense weights save no time.",
        *speedup_notes(rows),
        _cost(seconds),
    ]
    return Display(table.title, table.columns, table.rows, table.numbers, notes)


def _cost(seconds: Mapping[str, float]) -> str:
    return (
        f"Training of the whole study: {number(seconds['shared'] / 60)} minutes, stages that several recipes begin "
        f"with counted once; {number(seconds['alone'] / 60)} minutes if every recipe had been trained separately."
    )


def show_conversions(study: str, rows: Sequence[_Row]) -> Display:
    """Return the table of parity gates: the largest difference over seeds, with its tolerance."""
    title = f"Conversions in {study}"
    groups: dict[tuple[Any, ...], list[_Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in _KEY), []).append(row)
    merged = [
        {**same[0], "n": len(same), "difference": max(row["difference"] for row in same)} for same in groups.values()
    ]
    note = "A conversion that exceeds its tolerance fails its run. Export: the ONNX file against the checkpoint."
    if not merged:
        return Display(title, [], [], frozenset(), ["Nothing to show yet: no run of this study is complete."])
    cells = {
        "task": lambda row: row["task"],
        "model": lambda row: row["model"],
        "variant": lambda row: row["variant"],
        "conversion": lambda row: row["stage"],
        "compared": lambda row: row["measure"],
        "runs": lambda row: str(row["n"]),
        "largest": lambda row: (
            power_of_ten(row["difference"]) if row["difference"] < 1e-3 else number(row["difference"])
        ),
        "tolerance": lambda row: (
            power_of_ten(row["tolerance"]) if row["tolerance"] < 1e-3 else number(row["tolerance"])
        ),
    }
    table = tabulate(title, cells, merged, {"task", "model", "variant", "conversion", "compared"})
    return Display(table.title, table.columns, table.rows, table.numbers, [note])
