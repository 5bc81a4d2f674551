"""Tables of single runs, over seeds, for the pages of tasks and variants. They are read in parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyarrow import acero, dataset

from intaglio.schemas import MACHINE

VariantKey = tuple[str, str, str]
RowList = list[dict[str, Any]]
# Columns of a variant's place.
PLACE = ("task", "model", "variant")
_POINT = (*PLACE, "device", "backend", "batch_size", "length")


@dataclass(frozen=True)
class Measurements:
    """What was measured, over seeds, by (task, model, variant).

    Attributes:
        grid: times of a call at every batch size and length: device, backend, batch_size, length, and p50_ms, p99_ms
            (ms) and throughput (examples per second), means over the runs of the machine that timed most of them.
        operators: device, backend, operator, and its mean share of the time, 0 to 1, largest first.
        sizes: component, dtype, and mean bytes and count.
        noise: of integer models: layer, operation, and the mean signal to noise of what it computes, dB.
        energy: stage, backend, batch_size, length, device_name, meter, and mean joules, seconds and idle_watts.
        machines: the distinct machines that timed, with the columns of `MACHINE`, their threads and the largest
            percentage of the cores that others used (busy).
    """

    grid: Mapping[VariantKey, RowList]
    operators: Mapping[VariantKey, RowList]
    sizes: Mapping[VariantKey, RowList]
    noise: Mapping[VariantKey, RowList]
    energy: Mapping[VariantKey, RowList]
    machines: RowList


def read_measurements(folder: Path) -> Measurements:
    """Read them from an artifact [summary]."""
    latency = folder / "latency.parquet"
    timed = [("p50_ms", "mean"), ("p99_ms", "mean"), ("throughput", "mean"), ("p50_ms", "count")]
    points = _grouped(latency, [*_POINT, "machine_id"], timed)
    most: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in points:
        point = tuple(row[name] for name in _POINT)
        if point not in most or row["p50_ms_count"] > most[point]["p50_ms_count"]:
            most[point] = row
    operators = _grouped(folder / "operators.parquet", [*PLACE, "device", "backend", "operator"], [("share", "mean")])
    sizes = _grouped(folder / "sizes.parquet", [*PLACE, "component", "dtype"], [("bytes", "mean"), ("count", "mean")])
    noise = _grouped(folder / "noise.parquet", [*PLACE, "layer", "operation"], [("snr_db", "mean")])
    of_energy = [*PLACE, "stage", "backend", "batch_size", "length", "device_name", "meter"]
    spent = [(name, "mean") for name in ("joules", "seconds", "idle_watts")]
    machine = [column.name for column in MACHINE]
    return Measurements(
        grid=by_place(list(most.values())),
        operators=by_place(sorted(operators, key=lambda row: -row["share_mean"])),
        sizes=by_place(sizes),
        noise=by_place(noise),
        energy=by_place(_grouped(folder / "energy.parquet", of_energy, spent)),
        machines=_grouped(latency, [*machine, "threads"], [("busy", "max")]),
    )


def key_of(row: Mapping[str, Any]) -> VariantKey:
    """Return the task, model and variant of a row."""
    return row["task"], row["model"], row["variant"]


def by_place(rows: Sequence[Mapping[str, Any]]) -> dict[VariantKey, RowList]:
    """Return rows by their task, model and variant."""
    found: dict[VariantKey, RowList] = {}
    for row in rows:
        found.setdefault(key_of(row), []).append(dict(row))
    return found


def _grouped(path: Path, keys: Sequence[str], values: Sequence[tuple[str, str]]) -> RowList:
    """Return one row for each group, with the aggregates as columns such as `share_mean`."""
    sums = [(column, f"hash_{of}", None, f"{column}_{of}") for column, of in values]
    columns = list(dict.fromkeys([*keys, *(column for column, _ in values)]))
    steps = (
        acero.Declaration("scan", acero.ScanNodeOptions(dataset.dataset(path), columns=columns)),
        acero.Declaration("aggregate", acero.AggregateNodeOptions(sums, list(keys))),
    )
    # With one thread, sums have one order.
    rows: RowList = acero.Declaration.from_sequence(steps).to_table(use_threads=False).to_pylist()
    return rows
