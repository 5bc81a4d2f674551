"""Rows of runs and variants joined with their times: one row per device on which they were timed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_Row = Mapping[str, Any]
# Columns of a speed-up over the fastest float32 form, then over the fastest form of any precision.
SPEEDUPS = tuple(
    f"{name}{end}{part}"
    for end in ("", "_any")
    for name, part in (("speedup", ""), ("speedup", "_low"), ("speedup", "_high"), ("against", ""))
)
_VARIANT = ("task", "model", "variant")
_PLACE = ("device", "device_name", "backend", "batch_size", "length")
_OF_VARIANT = (*_PLACE, "latency_ms_mean", "latency_ms_sd", *SPEEDUPS, "timed", "left_out")
_OF_RUN = (*_PLACE, "mean_ms", "std_ms", "p99_ms")


def on_devices(variants: Sequence[_Row], backends: Sequence[_Row]) -> list[dict[str, Any]]:
    """Return rows of variants.parquet, each with columns of its fastest backend on every device.

    A variant that was not timed has one row, in which these columns are null. The column `timed` is the number of timed
    runs; see `schemas.BACKENDS` for the others.
    """
    fastest = [{**row, "timed": row["n"]} for row in backends if row["fastest"]]
    return _joined(variants, fastest, _VARIANT, _OF_VARIANT)


def runs_on_devices(runs: Sequence[_Row], times: Sequence[_Row]) -> list[dict[str, Any]]:
    """Return rows of runs.parquet, each with its times of `times_of_runs` on every device."""
    return _joined(runs, times, (*_VARIANT, "seed"), _OF_RUN)


def times_of_runs(timed: Iterable[_Row], backends: Sequence[_Row]) -> list[dict[str, Any]]:
    """Return the rows of latency.parquet that are in the variant's fastest backend on the row's device.

    Args:
        timed: rows of one point, with the keys of their runs.
        backends: rows of backends.parquet.
    """
    place = (*_VARIANT, "device", "backend")
    fastest = {tuple(row[name] for name in place) for row in backends if row["fastest"]}
    return [dict(row) for row in timed if tuple(row[name] for name in place) in fastest]


def _joined(
    rows: Sequence[_Row], times: Sequence[_Row], key: Sequence[str], columns: Sequence[str]
) -> list[dict[str, Any]]:
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in times:
        found.setdefault(tuple(row[name] for name in key), []).append({name: row[name] for name in columns})
    untimed = [dict.fromkeys(columns)]
    return [{**row, **beside} for row in rows for beside in found.get(tuple(row[name] for name in key), untimed)]
