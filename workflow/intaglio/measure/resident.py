"""Measurement of a process's own memory, for one model in one backend on the CPU."""

from __future__ import annotations

import ctypes
import gc
import os
import threading
from collections.abc import Callable, Mapping
from multiprocessing import connection, parent_process
from pathlib import Path
from typing import Any

from intaglio.measure.backends import backend
from intaglio.measure.backends.base import Arrays

# Peak memory in MB by batch size and length; None if the kernel cannot reset its high-water mark.
Peaks = dict[tuple[int, int], float | None]


def end_with_parent() -> None:
    """End this process when the one that started it ends, however: one that is killed cannot tell."""

    def watch() -> None:
        parent = parent_process()
        if parent is not None:
            connection.wait([parent.sentinel])
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def resident_peaks(
    name: str,
    checkpoint: Path,
    export: Path,
    first: Arrays,
    points: Mapping[tuple[int, int], Arrays],
    threads: int,
) -> Peaks:
    """Return the peak resident memory at each point in MB, above that of this process without the model.

    Args:
        name: name of the backend.
        checkpoint: a [checkpoint] artifact.
        export: the [export] artifact of the checkpoint.
        first: inputs of the calls before all measurements.
        points: inputs of each point, measured in this order.
        threads: number of CPU threads.

    Returns:
        Peaks by point.
    """
    # A first round, so that imports by loading and set-up by the first call belong to the baseline.
    executes = backend(name)
    _twice(executes.open_resident(checkpoint, export, threads), first)
    executes.forget()
    if not reset_peak():
        return dict.fromkeys(points)
    baseline = peak()
    call = executes.open_resident(checkpoint, export, threads)
    peaks: Peaks = {}
    for point, inputs in points.items():
        # The first calls compile, or determine the memory that the graph needs.
        _twice(call, inputs)
        reset_peak()
        _twice(call, inputs)
        peaks[point] = (peak() - baseline) / 1e6
    return peaks


def _twice(call: Callable[[Arrays], Any], inputs: Arrays) -> None:
    for _ in range(2):
        call(inputs)


def reset_peak() -> bool:
    """Return freed memory to the system and reset the peak; False if the kernel cannot."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peak() -> int:
    """Return the highest resident memory since the last reset, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status: no VmHWM")
