"""One row a variant and backend: what executing it there takes, over seeds, beside `float` in its fastest backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from intaglio.summary.hardware import comparable
from intaglio.summary.runs import Record
from intaglio.summary.variants import BASELINE, mean_sd

Row = dict[str, Any]
KERNELS = 3
# The column of runs.parquet with the time in the fastest backend, by device; null on hardware that does not count.
_FASTEST = {"cpu": "latency_ms_mean", "cuda": "cuda_latency_ms_mean"}


def backend_rows(records: Sequence[Record]) -> list[Row]:
    """Return the rows of backends.parquet: tasks, models and variants in the plan's order, backends as measured."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        if record.row["status"] == "ok":
            groups.setdefault((record.row["task"], record.row["model"]), []).append(record)
    return [row for group in groups.values() for row in _rows_of_group(group)]


def _rows_of_group(group: Sequence[Record]) -> list[Row]:
    """Return the rows of one task and model."""
    facts = comparable([record.row for record in group])
    floats = {run["seed"]: run for run in facts if run["variant"] == BASELINE}
    cells: dict[tuple[str, str, str], list[tuple[Row, Row]]] = {}
    operators: dict[tuple[str, str, str], list[Row]] = {}
    for record, run in zip(group, facts, strict=True):
        for timed in record.timed:
            if run.get(_FASTEST[timed["device"]]) is not None:
                cells.setdefault((run["variant"], timed["device"], timed["backend"]), []).append((run, timed))
        for row in record.tables["operators"].to_pylist():
            operators.setdefault((run["variant"], row["device"], row["backend"]), []).append(row)
    # Devices of a variant stand together, whatever the order in which seeds were measured.
    order = list(dict.fromkeys(run["variant"] for run in facts))
    return [
        {**_row(cells[key], floats), "kernels": kernels(operators.get(key, []))}
        for key in sorted(cells, key=lambda key: (order.index(key[0]), list(_FASTEST).index(key[1])))
    ]


def _row(runs: Sequence[tuple[Row, Row]], floats: Mapping[int, Row]) -> Row:
    """Return a row from (row of runs.parquet, row of the latency table) of every seed."""
    first, timed = runs[0]
    fastest = _FASTEST[timed["device"]]
    latency, latency_sd = mean_sd(row["mean_ms"] for _, row in runs)
    beside = [(run, row, floats[run["seed"]]) for run, row in runs if run["seed"] in floats]
    return {
        **{name: first[name] for name in ("study", "task", "model", "variant")},
        "backend": timed["backend"],
        "device": timed["device"],
        "n": len(runs),
        "latency_batch_size": timed["batch_size"],
        "latency_length": timed["length"],
        "latency_ms_mean": latency,
        "latency_ms_sd": latency_sd,
        "speedup": _ratio([(base.get(fastest), row["mean_ms"]) for _, row, base in beside]),
        "throughput_mean": mean_sd(row["throughput"] for _, row in runs)[0],
        "peak_memory_mb_mean": mean_sd(row["peak_memory_mb"] for _, row in runs)[0],
        "size_mb_mean": mean_sd(run.get("size_mb") for run, _ in runs)[0],
        "size_ratio": _ratio([(base.get("size_mb"), run.get("size_mb")) for run, _, base in beside]),
        "max_difference": max(row["max_difference"] for _, row in runs),
        "kernel": ", ".join(dict.fromkeys(row["kernel"] for _, row in runs)),
        "device_name": ", ".join(sorted({row["device_name"] for _, row in runs})),
        "instructions": ", ".join(sorted({row["machine_instructions"] or "" for _, row in runs})),
        "threads": timed["threads"],
    }


def kernels(operators: Sequence[Row]) -> str:
    """Return the operators that took most of the time, with their shares: rows of the operators' table, any seeds."""
    times: dict[str, float] = {}
    for row in operators:
        times[row["operator"]] = times.get(row["operator"], 0.0) + row["self_time_ms"]
    total = sum(times.values())
    most = sorted(times, key=lambda name: -times[name])[:KERNELS]
    return ", ".join(f"{name} {times[name] / total:.0%}" for name in most)


def _ratio(pairs: Sequence[tuple[float | None, float | None]]) -> float | None:
    """Return the ratio of the sums of what both have."""
    known = [(above, below) for above, below in pairs if above and below]
    return sum(above for above, _ in known) / sum(below for _, below in known) if known else None
