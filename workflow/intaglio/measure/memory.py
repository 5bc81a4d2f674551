"""Peak memory of inference: model and activations, without the memory of imported libraries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from intaglio.errors import UserError
from intaglio.measure.backends.base import Arrays
from intaglio.measure.inputs import Point, random_inputs
from intaglio.measure.places import Opened
from intaglio.measure.resident import Peaks, end_with_parent, resident_peaks
from intaglio.measure.server import start


class Measuring:
    """Processes that measure memory, one per backend."""

    def __init__(self, checkpoint: Path, running: dict[str, Future[Peaks]]) -> None:
        self._checkpoint = checkpoint
        self._running = running

    def wait(self) -> None:
        """Wait until all processes have finished."""
        wait(self._running.values())

    def peaks(self, backend: str) -> Peaks:
        """Wait for a backend's process; return its peak at each point, in MB.

        Raises:
            UserError: the process was killed.
        """
        try:
            return self._running[backend].result()
        except BrokenProcessPool as error:
            raise UserError(
                f"{self._checkpoint}: the process that measures memory was killed, probably for lack of memory; "
                "give the job more (resources.memory_mb) or take smaller profile.batch_sizes"
            ) from error


@contextmanager
def cpu_memory(
    backends: Sequence[str], checkpoint: Path, export: Path, tokenizer: Any, points: Sequence[Point], threads: int
) -> Iterator[Measuring]:
    """Within this context, measure the peak resident memory at each point, above that of a process without model.

    Each backend has its own process, because a process keeps memory that it has used. They are forked from a process
    that has imported torch and has no model, so nothing is imported twice. Peaks are None if the kernel cannot reset
    its high-water mark (Linux's /proc/self/clear_refs). Memory for compiling, or for reading a graph, does not count.
    """
    inputs = {point: _arrays(tokenizer, point) for point in points}
    first = _arrays(tokenizer, (1, 1))
    context = start()
    with ExitStack() as processes:
        running = {}
        for name in backends:
            pool = processes.enter_context(ProcessPoolExecutor(1, context, end_with_parent))
            running[name] = pool.submit(resident_peaks, name, checkpoint, export, first, inputs, threads)
        yield Measuring(checkpoint, running)


def _arrays(tokenizer: Any, point: Point) -> Arrays:
    return {name: tensor.numpy() for name, tensor in random_inputs(tokenizer, point, "cpu").items()}


def cuda_peaks(model: Opened, points: Sequence[Point]) -> Peaks:
    """Return the peak GPU memory that torch allocates at each point, in MB, including the model and no other one."""
    peaks: Peaks = {}
    others = torch.cuda.memory_allocated() - model.gpu_bytes
    for point in points:
        _call_twice(model, point)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        _call_twice(model, point)
        peaks[point] = (torch.cuda.max_memory_allocated() - others) / 1e6
    return peaks


@torch.inference_mode()
def _call_twice(model: Opened, point: Point) -> None:
    inputs = random_inputs(model.tokenizer, point, model.place.device)
    for _ in range(2):
        model.model(**inputs)
