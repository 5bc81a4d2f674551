"""The profile of a checkpoint: memory, sizes, latency and operators, each in a pass of its own."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import torch

from intaglio.errors import UserError
from intaglio.machine import fingerprint
from intaglio.measure.inputs import Point, cpu_threads, grid
from intaglio.measure.latency import latency_rows
from intaglio.measure.memory import cpu_peaks, cuda_peaks
from intaglio.measure.models import check_length, devices, load_checkpoint
from intaglio.measure.operators import operator_rows
from intaglio.measure.sizes import size_rows
from intaglio.schemas import LATENCY, OPERATORS, SIZES, write_table
from intaglio.store import new_artifact, open_artifact
from intaglio.study.schema import Profile

Row = dict[str, Any]
log = logging.getLogger(__name__)
# Percent of all cores that others may take while we measure.
BUSY = 20.0


def profile(checkpoint: Path, options: Profile, output: Path) -> None:
    """Write the [profile] of a checkpoint: latency.parquet, sizes.parquet and operators.parquet.

    Args:
        checkpoint: a [checkpoint] artifact.
        options: what is measured; a device that the machine does not have is left out.
        output: where the artifact shall stand.

    Raises:
        UserError: the checkpoint is damaged, a length is beyond its positions, or none of the devices is there.
    """
    check_length(checkpoint, max(options.lengths), "profile.lengths")
    present = devices(list(options.devices))
    if not present:
        raise UserError(f"profile.devices: {', '.join(options.devices)} asked for, but this machine has none; add cpu")
    _warn_if_busy()
    facts = {"machine": fingerprint(), "checkpoint": open_artifact(checkpoint, "checkpoint")}
    latency: list[Row] = []
    operators: list[Row] = []
    with cpu_threads(options.threads):
        for device in present:
            rows, table = _on_device(checkpoint, options, device)
            latency += rows
            operators += table
    sizes = size_rows(checkpoint, load_checkpoint(checkpoint)[0])
    about = {"path": str(checkpoint), "devices": present, **facts}
    with new_artifact(output, "profile", about) as folder:
        write_table(folder / "latency.parquet", latency, LATENCY, facts)
        write_table(folder / "sizes.parquet", sizes, SIZES, facts)
        write_table(folder / "operators.parquet", operators, OPERATORS, facts)


def _warn_if_busy() -> None:
    """Say so when others compute on this machine: with fewer cores than threads, a latency can be tenfold."""
    busy = psutil.cpu_percent(interval=0.5)
    if busy > BUSY:
        log.warning("other processes take %.0f %% of this machine: these latencies are not to be trusted", busy)


def _on_device(checkpoint: Path, options: Profile, device: str) -> tuple[list[Row], list[Row]]:
    """Return the rows of the latency table, peak memory included, and of the operators' table."""
    points: list[Point] = grid(options.batch_sizes, options.lengths)
    # Before this process loads the model: it would only take memory from the one that measures memory.
    peaks = cpu_peaks(checkpoint, points, options.threads) if device == "cpu" else {}
    model, tokenizer = load_checkpoint(checkpoint, device)
    if device == "cuda":
        peaks = cuda_peaks(model, tokenizer, points)
    rows = latency_rows(model, tokenizer, device, points, options.warmup, options.calls)
    for row in rows:
        row["peak_memory_mb"] = peaks[row["batch_size"], row["length"]]
    operators = operator_rows(model, tokenizer, device, options.headline, options.warmup)
    del model
    if device == "cuda":
        torch.cuda.empty_cache()
    return rows, operators
