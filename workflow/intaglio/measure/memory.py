"""Peak memory of inference: model and activations, without what the libraries occupy by being imported."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from intaglio.errors import UserError
from intaglio.measure.inputs import Point, cpu_threads, random_inputs
from intaglio.measure.models import load_checkpoint

Peaks = dict[Point, float | None]


def cpu_peaks(checkpoint: Path, points: Sequence[Point], threads: int) -> Peaks:
    """Return the peak resident memory at each point in MB, above that of a process without a model.

    It is measured in a process of its own, because a process keeps what it once had. None where the kernel cannot reset
    its high-water mark (it is Linux's /proc/self/clear_refs).

    Raises:
        UserError: that process was killed.
    """
    # Not forked: a fork inherits the parent's memory, and OpenMP does not survive it.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as process:
        try:
            return process.submit(_measure, checkpoint, list(points), threads).result()
        except BrokenProcessPool as error:
            raise UserError(
                f"{checkpoint}: the process that measures memory was killed, likely for want of memory; "
                "give the job more (resources.memory_mb) or take smaller profile.batch_sizes"
            ) from error


def _measure(checkpoint: Path, points: list[Point], threads: int) -> Peaks:
    logging.disable_progress_bar()
    peaks: Peaks = {}
    with cpu_threads(threads):
        # Once for nothing: what loading imports and the first call sets up belongs to the baseline.
        _load_and_call(checkpoint)
        if not _reset_peak():
            return dict.fromkeys(points)
        baseline = _peak()
        model, tokenizer = load_checkpoint(checkpoint)
        _touch(model)
        for point in points:
            inputs = random_inputs(tokenizer, point, "cpu")
            _reset_peak()
            _call_twice(model, inputs)
            peaks[point] = (_peak() - baseline) / 1e6
    return peaks


def _load_and_call(checkpoint: Path) -> None:
    model, tokenizer = load_checkpoint(checkpoint)
    _call_twice(model, random_inputs(tokenizer, (1, 1), "cpu"))


def _touch(model: Any) -> None:
    """Read every weight: loading maps the file, so a row of the embeddings takes memory only once it is used."""
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.sum()


def cuda_peaks(model: Any, tokenizer: Any, points: Sequence[Point]) -> Peaks:
    """Return the peak of the GPU memory that torch allocates at each point, in MB, the model's own included."""
    peaks: Peaks = {}
    for point in points:
        inputs = random_inputs(tokenizer, point, "cuda")
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        _call_twice(model, inputs)
        peaks[point] = torch.cuda.max_memory_allocated() / 1e6
    return peaks


@torch.inference_mode()
def _call_twice(model: Any, inputs: dict[str, torch.Tensor]) -> None:
    for _ in range(2):
        model(**inputs)


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
