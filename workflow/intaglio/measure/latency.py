"""Latency: wall-clock time of a call after warm-up, with all values kept."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch

from intaglio.machine import device_name, fingerprint
from intaglio.measure.disturbance import Watch
from intaglio.measure.inputs import Point, random_inputs
from intaglio.measure.places import Opened
from intaglio.schemas import machine_columns


def latency_rows(opened: Opened, points: Sequence[Point], warmup: int, calls: int) -> list[dict[str, Any]]:
    """Return a row of the latency table for every point, without peak memory and difference.

    Args:
        opened: the model in its backend, with its tokenizer, which defines the inputs.
        points: (batch size, length).
        warmup: number of calls before timing, per point; torch.compile compiles in the first.
        calls: number of timed calls, per point.
    """
    backend, device = opened.place
    where = {
        "backend": backend,
        "device": device,
        "device_name": device_name(device),
        "threads": torch.get_num_threads(),
        **machine_columns(fingerprint()),
    }
    rows = []
    watch = Watch()
    for batch_size, length in points:
        inputs = random_inputs(opened.tokenizer, (batch_size, length), device)
        times = time_calls(partial(opened.model, **inputs), device, warmup, calls, watch)
        rows.append({**where, "batch_size": batch_size, "length": length, **summary(times, batch_size)})
    return [{**row, "busy": share} for row, share in zip(rows, watch.shares(), strict=True)]


@torch.inference_mode()
def time_calls(call: Callable[[], Any], device: str, warmup: int, calls: int, watch: Watch) -> list[float]:
    """Return the wall-clock time of each call in ms, from its start until its result is available.

    `watch` measures the use of the cores by other processes during the timed calls.
    """
    wait: Callable[[], Any] = torch.cuda.synchronize if device == "cuda" else lambda: None
    for _ in range(warmup):
        call()
    times = []
    with _no_garbage_collection(), watch.timing():
        for _ in range(calls):
            wait()
            start = time.perf_counter_ns()
            call()
            wait()
            times.append((time.perf_counter_ns() - start) / 1e6)
    return times


def summary(times: Sequence[float], batch_size: int) -> dict[str, Any]:
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


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Collect garbage before, and not during, timed calls."""
    gc.collect()
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()
