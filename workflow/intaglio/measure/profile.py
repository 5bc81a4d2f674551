"""The profile of a checkpoint: memory, latency, operators and energy in every backend, in separate passes."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from intaglio.checkpoint import Checkpoint
from intaglio.errors import UserError
from intaglio.machine import fingerprint
from intaglio.measure.agreement import agreeing
from intaglio.measure.backends import backend
from intaglio.measure.changed import changed_predictions
from intaglio.measure.disturbance import DISTURBED
from intaglio.measure.energy import energy_rows
from intaglio.measure.inputs import cpu_threads, grid
from intaglio.measure.memory import cpu_memory, cuda_peaks
from intaglio.measure.operators import operator_rows
from intaglio.measure.places import Opened, Place, devices, places_of, remedy
from intaglio.measure.resident import Peaks
from intaglio.measure.timing.baseline import fastest_forms, open_forms
from intaglio.measure.timing.latency import latency_rows
from intaglio.schemas import BASELINES, ENERGY, LATENCY, OPERATORS, write_table
from intaglio.store import new_artifact, open_artifact
from intaglio.study.profile import Profile

_Row = dict[str, Any]
_log = logging.getLogger(__name__)
# Batch size and length for the comparison of logits; shorter if the study's lengths are.
CHECKED = (4, 128)


def profile(
    checkpoint: Path,
    export: Path,
    options: Profile,
    output: Path,
    baseline: tuple[Path, Path] | None = None,
    texts: tuple[Path, int] | None = None,
) -> None:
    """Write the [profile] of a checkpoint: latency.parquet, baselines.parquet and operators.parquet.

    Where the machine counts energy, it holds energy.parquet, too.

    All backends of the model and the fastest forms of its float baseline are timed in turns, in this process.

    Args:
        checkpoint: a [checkpoint] artifact.
        export: the [export] artifact of the checkpoint, which ONNX Runtime executes.
        options: what to measure; devices that the machine lacks are left out, and torch.compile if there is no
            compiler.
        output: the artifact to write; its manifest's `disturbed` is the largest percentage of the cores that other
            processes used while something was timed, null if it is at most `DISTURBED`.
        baseline: [checkpoint] and [export] of the float model that it is compared with; None for a float model, which
            is its own baseline.
        texts: [tokens] or [data] of the task, and the number of tokens at which its texts are truncated: where a float
            model runs in bf16, its predictions on them are compared with those in float32; None leaves that out.

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
    with cpu_threads(options.threads) as threads, ExitStack() as held:
        models, floats = _open(opened, export, baseline, options, present, threads, held)
        changed = changed_predictions([one.model for one in models], opened, export, *texts, threads) if texts else {}
        latency: list[_Row] = []
        baselines: list[_Row] = []
        for device in dict.fromkeys(one.model.place.device for one in models):
            rows, beside = _timed([one for one in models if one.model.place.device == device], floats, options)
            latency += rows
            baselines += beside
        del floats
        operators = [row for one in models for row in one.operators(options)]
        every = [one.model for one in models] if options.energy else []
        energy = energy_rows(every, options.headline, options.warmup)
    by_place = {one.model.place: one for one in models}
    for row in latency:
        place = Place(row["backend"], row["device"])
        row["kernel"] = by_place[place].kernel
        row["changed_predictions"], row["compared_predictions"] = changed.get(place, (None, None))
    about["disturbed"] = _disturbed(latency)
    about["differences"] = {f"{place.backend} on {place.device}": one.difference for place, one in by_place.items()}
    with new_artifact(output, "profile", about) as folder:
        write_table(folder / "latency.parquet", latency, LATENCY, facts)
        write_table(folder / "baselines.parquet", baselines, BASELINES, facts)
        write_table(folder / "operators.parquet", operators, OPERATORS, facts)
        if energy:
            write_table(folder / "energy.parquet", energy, ENERGY, facts)


@dataclass
class _Model:
    """A model in a backend, which agrees with the others.

    Attributes:
        model: the open model.
        difference: of its logits to the reference's.
        peaks: its peak memory at every point, MB.
        kernel: what multiplies its weights; empty before `operators`.
    """

    model: Opened
    difference: float
    peaks: Peaks
    kernel: str = ""

    def operators(self, options: Profile) -> list[_Row]:
        """Return the rows of the operators table."""
        rows = operator_rows(self.model, options.headline, options.warmup)
        times = {row["operator"]: row["self_time_ms"] for row in rows}
        self.kernel = backend(self.model.place.backend).kernel(self.model.model, times)
        return rows


def _open(
    checkpoint: Checkpoint,
    export: Path,
    baseline: tuple[Path, Path] | None,
    options: Profile,
    present: list[str],
    threads: int,
    held: ExitStack,
) -> tuple[list[_Model], list[Opened] | None]:
    """Open the model in every available backend, and the float baseline; compare results and measure memory.

    Nothing else computes when it returns. `held` keeps all open.

    Returns:
        The models, and the forms of the baseline: none if the model is its own, None if there is none.
    """
    wanted = places_of(checkpoint, options.backends, present)
    on_cpu = [place.backend for place in wanted if place.device == "cpu"]
    points = grid(options.batch_sizes, options.lengths)
    compared = (CHECKED[0], min(CHECKED[1], max(options.lengths)))
    with cpu_memory(on_cpu, checkpoint.path, export, checkpoint.tokenizer, points, threads) as memory:
        found = list(agreeing(wanted, checkpoint, export, compared, threads, held))
        if not found:
            asked = f"{', '.join(options.backends)} on {', '.join(present)}"
            lacks = remedy(checkpoint, options.backends)
            raise UserError(f"profile.backends: {asked} asked for, of which nothing is there; {lacks}")
        floats = _forms(checkpoint, baseline, options, {model.place.device for model, _ in found}, threads, held)
        memory.wait()
        models = [
            _Model(
                model,
                difference,
                memory.peaks(model.place.backend) if model.place.device == "cpu" else cuda_peaks(model, points),
            )
            for model, difference in found
        ]
    return models, floats


def _forms(
    checkpoint: Checkpoint,
    baseline: tuple[Path, Path] | None,
    options: Profile,
    on: set[str],
    threads: int,
    held: ExitStack,
) -> list[Opened] | None:
    """Return the open forms of the float baseline on these devices; see `_open`."""
    if baseline is not None:
        return open_forms(*baseline, options.backends, sorted(on), options.headline, threads, held)
    if not checkpoint.is_quantized:
        return []
    _log.warning("%s: no float model was given to compare with; no speed-ups", checkpoint)
    return None


def _timed(models: list[_Model], floats: list[Opened] | None, options: Profile) -> tuple[list[_Row], list[_Row]]:
    """Return the rows of latency, without the kernel, and of baselines, for a model's backends on one device."""
    opened = [one.model for one in models]
    beside = floats and [form for form in floats if form.place.device == opened[0].place.device]
    beside = beside and fastest_forms(beside, options.headline, options.warmup)
    points = grid(options.batch_sizes, options.lengths)
    rows, baselines = latency_rows(opened, beside, points, options.warmup, options.calls)
    by_backend = {one.model.place.backend: one for one in models}
    for row in rows:
        of_it = by_backend[row["backend"]]
        row["peak_memory_mb"] = of_it.peaks[row["batch_size"], row["length"]]
        row["max_difference"] = of_it.difference
    return rows, baselines


def _disturbed(latency: list[_Row]) -> float | None:
    """Return the largest share of the cores that others used while a row was timed; None if it is negligible."""
    busiest = max(latency, key=lambda row: float(row["busy"]))
    if busiest["busy"] <= DISTURBED:
        return None
    _log.warning("other processes took %.0f %% of the cores during timing: times are not reliable", busiest["busy"])
    return float(busiest["busy"])
