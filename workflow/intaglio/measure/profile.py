"""The profile of a checkpoint: memory, latency and operators in every backend, in separate passes."""

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
# Batch size and length for the comparison of logits; shorter if the study's lengths are.
CHECKED = (4, 128)


def profile(
    checkpoint: Path, export: Path, options: Profile, output: Path, baseline: tuple[Path, Path] | None = None
) -> None:
    """Write the [profile] of a checkpoint: latency.parquet and operators.parquet.

    Args:
        checkpoint: a [checkpoint] artifact.
        export: the [export] artifact of the checkpoint, which ONNX Runtime executes.
        options: what to measure; devices that the machine lacks are left out, and torch.compile if there is no
            compiler.
        output: the artifact to write; its manifest's `disturbed` is the largest percentage of the cores that other
            processes used while something was timed, null if it is at most `DISTURBED`.
        baseline: [checkpoint] and [export] of the float model that it is compared with; None for a float model, which
            is its own baseline.

    Raises:
        UserError: an artifact is damaged, a length exceeds the model's positions, none of the requested backends is
            available, or an integer model gives other results in one of the backends.
    """
    opened = Checkpoint(checkpoint)
    opened.check_length(max(options.lengths), "profile.lengths")
    present = devices(options.devices)
    if not present:
        raise UserError(f"profile.devices: {', '.join(options.devices)} asked for, but this machine has none; add cpu")
    facts = {"machine": fingerprint(), "checkpoint": opened.about}
    about: _Row = {"path": str(checkpoint), "export": open_artifact(export, "export"), "devices": present, **facts}
    about["baseline"] = str(baseline[0]) if baseline else None
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
    """Yield the model in every available backend, to be timed immediately: nothing else computes meanwhile.

    Yields:
        The model, the difference of its logits to the reference's, and its peak memory on a CPU.
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
    """Return the largest share of the cores that others used while a row was timed; None if it is negligible."""
    busiest = max(latency, key=lambda row: float(row["busy"]))
    if busiest["busy"] <= DISTURBED:
        return None
    _log.warning(
        "other processes took %.0f %% of the cores while %s was timed: its times are not reliable",
        *(busiest["busy"], busiest["backend"]),
    )
    return float(busiest["busy"])


def _measured(model: Opened, options: Profile, peaks: Peaks | None) -> tuple[list[_Row], list[_Row]]:
    """Return the rows of the latency table, including peak memory, and of the operators table.

    `peaks` are for a CPU; on a GPU they are measured here.
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
