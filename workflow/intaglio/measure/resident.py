"""What a process measures of its own memory: that of one model in one backend on the CPU.

Nothing here imports torch: a process that runs a graph in ONNX Runtime needs none.
"""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from intaglio.measure.backends import backend
from intaglio.measure.backends.base import Arrays

# Peak memory in MB by batch size and length; None where the kernel cannot reset its high-water mark.
Peaks = dict[tuple[int, int], float | None]


def resident_peaks(
    name: str,
    checkpoint: Path,
    export: Path,
    first: Arrays,
    points: Mapping[tuple[int, int], Arrays],
    threads: int,
) -> Peaks:
    """Return the peak resident memory at each point in MB, above that of this process without a model.

    Args:
        name: of the backend.
        checkpoint: a [checkpoint] artifact.
        export: the [export] artifact made of it.
        first: inputs of the calls that come before all measurements.
        points: inputs of each point, measured in this order.
        threads: CPU threads.

    Returns:
        Peaks by point.
    """
    # Others may compute at the same time: threads that wait for work shall not take the cores from them. It must be
    # set before torch is imported.
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    # Once for nothing: what loading imports and the first call sets up belongs to the baseline.
    executes = backend(name)
    _twice(executes.open_resident(checkpoint, export, threads), first)
    executes.forget()
    if not reset_peak():
        return dict.fromkeys(points)
    baseline = peak()
    call = executes.open_resident(checkpoint, export, threads)
    peaks: Peaks = {}
    for point, inputs in points.items():
        # The first calls compile, or find out which memory the graph needs.
        _twice(call, inputs)
        reset_peak()
        _twice(call, inputs)
        peaks[point] = (peak() - baseline) / 1e6
    return peaks


def _twice(call: Callable[[Arrays], Any], inputs: Arrays) -> None:
    for _ in range(2):
        call(inputs)


def reset_peak() -> bool:
    """Give freed memory back to the system and forget the peak so far; False where the kernel cannot."""
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
