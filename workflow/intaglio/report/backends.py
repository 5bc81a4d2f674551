"""The table of backends: latency, memory and kernels of every variant in every backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from intaglio.hardware import DEVICE_NAMES
from intaglio.report.display import FORMS, Display, device_cell, speedup_notes, speedups, tabulate
from intaglio.report.formatting import NOTHING, measured, number, power_of_ten, times


def show_backends(study: str, rows: Sequence[Mapping[str, Any]]) -> Display:
    """Return the table of backends, or a sentence if nothing was timed."""
    title = f"Backends of {study}"
    if not rows:
        return Display(title, [], [], frozenset(), ["Nothing to show yet: no run of this study is complete."])
    cells = {
        "task": lambda row: row["task"],
        "model": lambda row: row["model"],
        "variant": lambda row: row["variant"],
        "device": device_cell,
        "backend": lambda row: row["backend"],
        "seeds": lambda row: str(row["n"]),
        "latency, ms": lambda row: measured(row["latency_ms_mean"], row["latency_ms_sd"]),
        **speedups(rows),
        "others, %": lambda row: number(row["busy"] or None),
        "examples/s": lambda row: number(row["throughput_mean"]),
        "peak memory, MB": lambda row: number(row["peak_memory_mb_mean"]),
        "file, MB": lambda row: number(row["size_mb_mean"]),
        "smaller": lambda row: times(row["size_ratio"]),
        "products": lambda row: row["kernel"] or NOTHING,
        "operators": lambda row: row["operators"] or NOTHING,
        "difference of logits": lambda row: power_of_ten(row["max_difference"]),
        "changed predictions": _changed,
    }
    table = tabulate(
        title, cells, rows, {"task", "model", "variant", "device", "backend", "products", "operators", *FORMS}
    )
    first = rows[0]
    notes = [
        f"An inference call of batch {first['batch_size']} by {first['length']} tokens. Latency: of the median call, "
        "mean ± standard deviation over seeds.",
        *speedup_notes(rows),
        "Others: the largest share of the cores that other processes used meanwhile.",
        "File: the exported model. Peak memory: model and activations, resident on a CPU, allocated on a GPU.",
        "Products: the kernels that multiply weights. Operators: those with the largest shares of time in the "
        "backend's own profiler.",
        "Difference of logits: the largest on a padded batch, to torch on the CPU. Integers are equal in all backends; "
        "operations in floating point differ by rounding. int8 is compared with itself.",
        "Changed predictions: those on the test sets that differ in bf16 from float32, of how many.",
        *(f"{DEVICE_NAMES[device]}: {names}." for device, names in _names(rows)),
    ]
    return Display(table.title, table.columns, table.rows, table.numbers, notes)


def _changed(row: Mapping[str, Any]) -> str:
    if row["compared_predictions"] is None:
        return NOTHING
    return f"{row['changed_predictions']} of {row['compared_predictions']}"


def _names(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return device and model names of it, with the threads of a CPU."""
    named = []
    for device in dict.fromkeys(row["device"] for row in rows):
        mine = [row for row in rows if row["device"] == device]
        names = "; ".join(sorted({row["device_name"] for row in mine}))
        threads = ", ".join(str(count) for count in sorted({row["threads"] for row in mine}))
        instructions = "; ".join(sorted({row["instructions"] for row in mine}))
        on_cpu = f"{names}, {threads} threads, instruction sets {instructions or 'not known'}"
        named.append((device, on_cpu if device == "cpu" else names))
    return named
