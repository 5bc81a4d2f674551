"""Peak memory of inference: model and activations, without what the libraries occupy by being imported."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import torch
from transformers.utils import logging

from intaglio.errors import UserError
from intaglio.measure.backends import Opened, Place, opened
from intaglio.measure.inputs import Point, cpu_threads, random_inputs

Peaks = dict[Point, float | None]


def cpu_peaks(backend: str, checkpoint: Path, export: Path, points: Sequence[Point], threads: int) -> Peaks:
    """Return the peak resident memory at each point in MB, above that of a process without a model.

    It is measured in a process of its own, because a process keeps what it once had. None where the kernel cannot reset
    its high-water mark (it is Linux's /proc/self/clear_refs). What compiling takes, or reading a graph, does not count.

    Raises:
        UserError: that process was killed.
    """
    # Not forked: a fork inherits the parent's memory, and OpenMP does not survive it.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as process:
        try:
            return process.submit(_measure, backend, checkpoint, export, list(points), threads).result()
        except BrokenProcessPool as error:
            raise UserError(
                f"{checkpoint}: the process that measures memory was killed, likely for want of memory; "
                "give the job more (resources.memory_mb) or take smaller profile.batch_sizes"
            ) from error


def _measure(backend: str, checkpoint: Path, export: Path, points: list[Point], threads: int) -> Peaks:
    logging.disable_progress_bar()
    peaks: Peaks = {}
    place = Place(backend, "cpu")
    with cpu_threads(threads) as threads:
        # Once for nothing: what loading imports and the first call sets up belongs to the baseline.
        with opened(place, checkpoint, export, threads) as model:
            _call_twice(model, (1, 1))
            del model
        if not _reset_peak():
            return dict.fromkeys(points)
        baseline = _peak()
        with opened(place, checkpoint, export, threads) as model:
            _touch(model)
            for point in points:
                # The first calls compile, or find out which memory the graph needs.
                _call_twice(model, point)
                _reset_peak()
                _call_twice(model, point)
                peaks[point] = (_peak() - baseline) / 1e6
    return peaks


def _touch(model: Opened) -> None:
    """Read every weight: loading maps the file, so a row of the embeddings takes memory only once it is used."""
    if model.module is not None:
        for tensor in (*model.module.parameters(), *model.module.buffers()):
            tensor.sum()


def cuda_peaks(model: Opened, points: Sequence[Point]) -> Peaks:
    """Return the peak of the GPU memory that torch allocates at each point, in MB, the model's own included."""
    peaks: Peaks = {}
    for point in points:
        _call_twice(model, point)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        _call_twice(model, point)
        peaks[point] = torch.cuda.max_memory_allocated() / 1e6
    return peaks


@torch.inference_mode()
def _call_twice(model: Opened, point: Point) -> None:
    inputs = random_inputs(model.tokenizer, point, model.place.device)
    for _ in range(2):
        model.model(**inputs)


def _reset_peak() -> bool:
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


def _peak() -> int:
    """Return the highest resident memory since the last reset, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status: no VmHWM")
