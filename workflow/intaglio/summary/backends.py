"""One row per variant, device and backend: latency, speed-ups and memory over seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from intaglio.hardware import of_one_machine
from intaglio.measure.timing.ratios import Speedup
from intaglio.statistics.speedups import speedup_over_seeds
from intaglio.summary.runs import Record
from intaglio.summary.variants import BASELINE, mean_sd

Row = dict[str, Any]
OPERATORS_SHOWN = 3
DEVICES = ("cpu", "cuda")
_PLACE = ("variant", "device", "backend")
_OF_RUN = ("study", "task", "model", "variant", "seed", "size_mb")


def backend_rows(records: Sequence[Record]) -> list[Row]:
    """Return the rows of backends.parquet of one task and model, in the order of the plan, then of devices."""
    group = [record for record in records if record.row["status"] == "ok"]
    timed, others = of_one_machine(
        [{**{name: record.row.get(name) for name in _OF_RUN}, **row} for record in group for row in record.timed]
    )
    cells = _by_place(timed)
    operators: dict[tuple[str, ...], dict[str, float]] = {}
    for record in group:
        for (device, backend), times in record.operators.items():
            sums = operators.setdefault((record.row["variant"], device, backend), {})
            for operator, milliseconds in times.items():
                sums[operator] = sums.get(operator, 0.0) + milliseconds
    elsewhere = _by_place(others)
    rows = [
        {
            **_row(cell),
            "left_out": len(elsewhere.get(place, [])),
            "operators": most_time(operators.get(place, {})),
        }
        for place, cell in cells.items()
    ]
    fastest: dict[tuple[str, str], Row] = {}
    for row in sorted(rows, key=lambda row: -row["latency_ms_mean"]):
        fastest[row["variant"], row["device"]] = row
    for row in rows:
        row["fastest"] = fastest[row["variant"], row["device"]] is row
        base = fastest.get((BASELINE, row["device"]))
        row |= _speedups(cells[_place(row)])
        row["size_ratio"] = _smaller(cells[_place(row)], cells[_place(base)] if base else [])
    # Devices of a variant are kept together, whatever the order in which seeds were measured.
    order = list(dict.fromkeys(record.row["variant"] for record in group))
    return sorted(rows, key=lambda row: (order.index(row["variant"]), DEVICES.index(row["device"])))


def _place(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(row[name] for name in _PLACE)


def _by_place(rows: Iterable[Row]) -> dict[tuple[str, ...], list[Row]]:
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(_place(row), []).append(row)
    return found


def _row(seeds: Sequence[Row]) -> Row:
    """Return a row from the latency rows of all seeds, each merged with its run's row."""
    first = seeds[0]
    latency, latency_sd = mean_sd(row["p50_ms"] for row in seeds)
    same = ("study", "task", "model", "variant", "backend", "device", "batch_size", "length", "threads")
    return {
        **{name: first[name] for name in same},
        "n": len(seeds),
        "latency_ms_mean": latency,
        "latency_ms_sd": latency_sd,
        "p99_ms_least": min(row["p99_ms"] for row in seeds),
        "p99_ms_most": max(row["p99_ms"] for row in seeds),
        "throughput_mean": mean_sd(row["throughput"] for row in seeds)[0],
        "busy": max(row["busy"] for row in seeds),
        "peak_memory_mb_mean": mean_sd(row["peak_memory_mb"] for row in seeds)[0],
        "size_mb_mean": mean_sd(row.get("size_mb") for row in seeds)[0],
        "max_difference": max(row["max_difference"] for row in seeds),
        **{name: _total(row[name] for row in seeds) for name in ("changed_predictions", "compared_predictions")},
        "kernel": ", ".join(dict.fromkeys(row["kernel"] for row in seeds)),
        "device_name": ", ".join(sorted({row["device_name"] for row in seeds})),
        "instructions": ", ".join(sorted({row["machine_instructions"] or "" for row in seeds})),
    }


def _speedups(seeds: Sequence[Row]) -> Row:
    """Return the speed-ups over the float baseline, which each seed was timed beside, and the baseline's forms."""
    found: Row = {}
    for end in ("", "_any"):
        known = [row for row in seeds if row[f"speedup{end}"] is not None]
        if known:
            ratios = [Speedup(*(row[f"speedup{end}{part}"] for part in ("", "_low", "_high"))) for row in known]
            value, low, high = speedup_over_seeds(ratios)
            found |= {f"speedup{end}": value, f"speedup{end}_low": low, f"speedup{end}_high": high}
            found[f"against{end}"] = ", ".join(dict.fromkeys(row[f"against{end}"] for row in known))
    return found


def _smaller(seeds: Sequence[Row], baseline: Sequence[Row]) -> float | None:
    """Return the size of `float`'s file / the size."""
    pairs = [(base.get("size_mb"), row.get("size_mb")) for base in baseline[:1] for row in seeds]
    known = [(above, below) for above, below in pairs if above and below]
    return sum(above for above, _ in known) / sum(below for _, below in known) if known else None


def most_time(times: Mapping[str, float]) -> str:
    """Return the operators with the largest shares of time, and the shares, from times by operator."""
    total = sum(times.values())
    most = sorted(times, key=lambda name: -times[name])[:OPERATORS_SHOWN]
    return ", ".join(f"{name} {times[name] / total:.0%}" for name in most)


def _total(counts: Iterable[int | None]) -> int | None:
    """Return the sum of the counts that are known; None if none is."""
    known = [count for count in counts if count is not None]
    return sum(known) if known else None
