"""How long a call takes: wall clock, after warm-up, every value kept."""

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
    """Return a row of the latency table for every point, without its peak memory and its difference.

    Args:
        opened: the model in its backend; its tokenizer says which inputs there are and which tokens.
        points: (batch size, length).
        warmup: calls before the clock starts, at each point; torch.compile compiles in the first.
        calls: calls that are timed, at each point.
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
    """Return the wall time of each call in ms, from its start until its result is there, with nothing else queued.

    `watch` measures what other processes use during the timed calls.
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
    """Return the raw times (ms) and what is derived of them, as columns of the latency table."""
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
    """Collect garbage now rather than during a timed call."""
    gc.collect()
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()
