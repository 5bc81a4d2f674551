"""The profile of a checkpoint: memory, latency and operators in every backend, each in a pass of its own."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from intaglio.checkpoint import Checkpoint
from intaglio.errors import UserError
from intaglio.machine import fingerprint
from intaglio.measure.agreement import agreeing
from intaglio.measure.backends import backend
from intaglio.measure.disturbance import DISTURBED
from intaglio.measure.inputs import cpu_threads, grid
from intaglio.measure.latency import latency_rows
from intaglio.measure.memory import cpu_memory, cuda_peaks
from intaglio.measure.operators import operator_rows
from intaglio.measure.places import Opened, Place, devices, places_of, remedy
from intaglio.measure.resident import Peaks
from intaglio.schemas import LATENCY, OPERATORS, write_table
from intaglio.store import new_artifact, open_artifact
from intaglio.study.schema import Profile

_Row = dict[str, Any]
_log = logging.getLogger(__name__)
# Batch size and length at which logits are compared; shorter where the study is.
CHECKED = (4, 128)


def profile(checkpoint: Path, export: Path, options: Profile, output: Path) -> None:
    """Write the [profile] of a checkpoint: latency.parquet and operators.parquet.

    Args:
        checkpoint: a [checkpoint] artifact.
        export: the [export] artifact made of it: what ONNX Runtime executes.
        options: what is measured; a device that the machine does not have is left out, and so is torch.compile where
            nothing can compile.
        output: where the artifact shall stand; its manifest's `disturbed` is the largest percentage of the cores that
            other processes took while something was timed, null where that is at most `DISTURBED`.

    Raises:
        UserError: an artifact is damaged, a length is beyond the model's positions, nothing that was asked for is
            there, or an integer model computes something else in one of the backends.
    """
    opened = Checkpoint(checkpoint)
    opened.check_length(max(options.lengths), "profile.lengths")
    present = devices(options.devices)
    if not present:
        raise UserError(f"profile.devices: {', '.join(options.devices)} asked for, but this machine has none; add cpu")
    facts = {"machine": fingerprint(), "checkpoint": opened.about}
    about: _Row = {"path": str(checkpoint), "export": open_artifact(export, "export"), "devices": present, **facts}
    latency: list[_Row] = []
    operators: list[_Row] = []
    agreed: dict[Place, float] = {}
    with cpu_threads(options.threads) as threads:
        for model, difference, peaks in _models(opened, export, options, present, threads):
            rows, table = _measured(model, options, peaks)
            latency += [{**row, "max_difference": difference} for row in rows]
            operators += table
            agreed[model.place] = difference
            del model
    about["disturbed"] = _disturbed(latency)
    about["differences"] = {f"{place.backend} on {place.device}": value for place, value in agreed.items()}
    with new_artifact(output, "profile", about) as folder:
        write_table(folder / "latency.parquet", latency, LATENCY, facts)
        write_table(folder / "operators.parquet", operators, OPERATORS, facts)


def _models(
    checkpoint: Checkpoint, export: Path, options: Profile, present: list[str], threads: int
) -> Iterator[tuple[Opened, float, Peaks | None]]:
    """Yield the model in every backend that is there, to be timed at once: nothing else computes meanwhile.

    Yields:
        The model, how far its logits are from the reference's, and its peak memory where that is a CPU's.
    """
    wanted = places_of(checkpoint, options.backends, present)
    on_cpu = [place.backend for place in wanted if place.device == "cpu"]
    points = grid(options.batch_sizes, options.lengths)
    compared = (CHECKED[0], min(CHECKED[1], max(options.lengths)))
    found = False
    with cpu_memory(on_cpu, checkpoint.path, export, checkpoint.tokenizer, points, threads) as memory:
        for model, difference in agreeing(wanted, checkpoint, export, compared, threads):
            memory.wait()
            found = True
            yield model, difference, memory.peaks(model.place.backend) if model.place.device == "cpu" else None
            del model
    if not found:
        asked = f"{', '.join(options.backends)} on {', '.join(present)}"
        raise UserError(
            f"profile.backends: {asked} asked for, of which nothing is there; {remedy(checkpoint, options.backends)}"
        )


def _disturbed(latency: list[_Row]) -> float | None:
    """Return the largest share of the cores that others took while a row was timed; None where it does not matter."""
    busiest = max(latency, key=lambda row: float(row["busy"]))
    if busiest["busy"] <= DISTURBED:
        return None
    _log.warning(
        "other processes took %.0f %% of the cores while %s was timed: its times are not to be trusted",
        *(busiest["busy"], busiest["backend"]),
    )
    return float(busiest["busy"])


def _measured(model: Opened, options: Profile, peaks: Peaks | None) -> tuple[list[_Row], list[_Row]]:
    """Return the rows of the latency table, peak memory included, and of the operators' table.

    `peaks` are those of a CPU; on a GPU they are measured here.
    """
    points = grid(options.batch_sizes, options.lengths)
    peaks = cuda_peaks(model, points) if peaks is None else peaks
    rows = latency_rows(model, points, options.warmup, options.calls)
    for row in rows:
        row["peak_memory_mb"] = peaks[row["batch_size"], row["length"]]
    operators = operator_rows(model, options.headline, options.warmup)
    times = {row["operator"]: row["self_time_ms"] for row in operators}
    kernel = backend(model.place.backend).kernel(model.model, times)
    return [{**row, "kernel": kernel} for row in rows], operators
