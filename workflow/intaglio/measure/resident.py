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

import numpy as np
from numpy.typing import NDArray

Point = tuple[int, int]
# Inputs of the model by name, int64 [batch, length].
Arrays = dict[str, NDArray[np.int64]]
Peaks = dict[Point, float | None]
Call = Callable[[Arrays], Any]
COMPILED, ONNXRUNTIME = "torch.compile", "onnxruntime"


def resident_peaks(
    backend: str, checkpoint: Path, export: Path, first: Arrays, points: Mapping[Point, Arrays], threads: int
) -> Peaks:
    """Return the peak resident memory at each point in MB, above that of this process without a model.

    Args:
        backend: what computes.
        checkpoint: a [checkpoint] artifact.
        export: the [export] artifact made of it.
        first: inputs of the calls that come before all measurements.
        points: inputs of each point, measured in this order.
        threads: CPU threads.

    Returns:
        Peaks by point; None where the kernel cannot reset its high-water mark.
    """
    # Others may compute at the same time: threads that wait for work shall not take the cores from them. It must be
    # set before torch is imported.
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    # Once for nothing: what loading imports and the first call sets up belongs to the baseline.
    _twice(_open(backend, checkpoint, export, threads), first)
    _forget(backend)
    if not reset_peak():
        return dict.fromkeys(points)
    baseline = peak()
    call = _open(backend, checkpoint, export, threads)
    peaks: Peaks = {}
    for point, inputs in points.items():
        # The first calls compile, or find out which memory the graph needs.
        _twice(call, inputs)
        reset_peak()
        _twice(call, inputs)
        peaks[point] = (peak() - baseline) / 1e6
    return peaks


def _twice(call: Call, inputs: Arrays) -> None:
    for _ in range(2):
        call(inputs)


def _open(backend: str, checkpoint: Path, export: Path, threads: int) -> Call:
    """Return a model, with all its weights in memory, as a function of arrays."""
    return _on_onnxruntime(export, threads) if backend == ONNXRUNTIME else _on_torch(backend, checkpoint, threads)


def _on_onnxruntime(export: Path, threads: int) -> Call:
    from intaglio.onnx.session import MODEL, open_session

    session = open_session(export / MODEL, threads)
    names = [given.name for given in session.get_inputs()]
    return lambda inputs: session.run(["logits"], {name: inputs[name] for name in names})


def _on_torch(backend: str, checkpoint: Path, threads: int) -> Call:
    import torch

    from intaglio.measure.backends import Compiled, torch_module

    torch.set_num_threads(threads)
    module = torch_module(checkpoint)
    # Loading maps the file, so a row of the embeddings takes memory only once it is used.
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.sum()
    model = Compiled(module) if backend == COMPILED else module

    def call(inputs: Arrays) -> None:
        with torch.inference_mode():
            model(**{name: torch.from_numpy(array) for name, array in inputs.items()})

    return call


def _forget(backend: str) -> None:
    """Let go of what outlives a model."""
    if backend == COMPILED:
        import torch

        torch.compiler.reset()
    gc.collect()


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
