"""Latency: wall-clock time of a call after warm-up, beside that of the float baseline, with all values kept."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from intaglio.machine import device_name, fingerprint
from intaglio.measure.backends import backend
from intaglio.measure.disturbance import Watch
from intaglio.measure.inputs import Point, random_inputs
from intaglio.measure.places import Opened
from intaglio.measure.timing.ratios import speedup
from intaglio.measure.timing.rounds import Call, in_rounds
from intaglio.schemas import machine_columns

_Row = dict[str, Any]


def latency_rows(
    models: Sequence[Opened], beside: Sequence[Opened] | None, points: Sequence[Point], warmup: int, calls: int
) -> tuple[list[_Row], list[_Row]]:
    """Return rows of the tables of latency and of baselines, for every model and every point.

    Args:
        models: a model in its backends, all on the same device.
        beside: its float baseline in the forms to compare with, on that device; empty if `models` are the baseline
            themselves, None without a baseline.
        points: (batch size, length).
        warmup: number of calls before timing, per point; torch.compile compiles in the first.
        calls: number of timed calls, per point.

    Returns:
        Rows of latency without peak memory, difference and kernel, by model and then point, and rows of baselines.
    """
    together = [*models, *(beside or ())]
    watch = Watch()
    rows: list[list[_Row]] = [[] for _ in models]
    floats: list[_Row] = []
    for number, point in enumerate(points):
        ready = [call_of(opened, point) for opened in together]
        times = in_rounds(ready, models[0].place.device, warmup, calls, watch, seed=number)
        measured = [_measured(opened, point, of_it) for opened, of_it in zip(together, times, strict=True)]
        mine = measured[: len(models)]
        others = mine if beside == [] else measured[len(models) :]
        for of_model, row in zip(rows, mine, strict=True):
            of_model.append({**row, **_compared(row["calls"], others)})
        if beside:
            floats += [_baseline(row) for row in others]
    shares = watch.shares()
    here = machine_columns(fingerprint())
    latency = [{**row, **here, "busy": share} for of_model in rows for row, share in zip(of_model, shares, strict=True)]
    return [{name: value for name, value in row.items() if name != "precision"} for row in latency], floats


def call_of(opened: Opened, point: Point) -> Call:
    """Return a call of a model with inputs of its own."""
    return partial(opened.model, **random_inputs(opened.tokenizer, point, opened.place.device))


def _measured(opened: Opened, point: Point, times: Sequence[float]) -> _Row:
    name, device = opened.place
    return {
        "backend": name,
        "device": device,
        "device_name": device_name(device),
        "precision": backend(name).precision,
        "threads": torch.get_num_threads(),
        "batch_size": point[0],
        "length": point[1],
        **summary(times, point[0]),
    }


def _baseline(row: _Row) -> _Row:
    return {name: row[name] for name in ("backend", "device", "precision", "batch_size", "length", "calls", "p50_ms")}


def _compared(calls: Sequence[float], floats: Sequence[_Row]) -> _Row:
    """Return speed-ups over the fastest float32 form and over the fastest of any precision, with these forms' names."""
    found: _Row = {}
    for end, forms in (("", [row for row in floats if row["precision"] == "float32"]), ("_any", floats)):
        if forms:
            fastest = min(forms, key=lambda row: float(row["p50_ms"]))
            ratio = speedup(fastest["calls"], calls)
            found |= {f"speedup{end}": ratio.value, f"against{end}": fastest["backend"]}
            found |= {f"speedup{end}_low": ratio.low, f"speedup{end}_high": ratio.high}
    return found


def summary(times: Sequence[float], batch_size: int) -> _Row:
    """Return the raw times (ms) and their statistics, as columns of the latency table."""
    mean = float(np.mean(times))
    p50, p90, p99 = (float(value) for value in np.percentile(times, [50, 90, 99]))
    return {
        "calls": list(times),
        "mean_ms": mean,
        "std_ms": float(np.std(times, ddof=1)),
        "p50_ms": p50,
        "p90_ms": p90,
        "p99_ms": p99,
        "throughput": batch_size / mean * 1000,
    }
