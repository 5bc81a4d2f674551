"""The float baseline that a model is timed beside: the fastest forms of its fine-tuned model."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from intaglio.checkpoint import Checkpoint
from intaglio.measure.agreement import agreeing
from intaglio.measure.backends import backend
from intaglio.measure.disturbance import Watch
from intaglio.measure.inputs import Point
from intaglio.measure.places import Opened, Place
from intaglio.measure.timing.latency import call_of
from intaglio.measure.timing.rounds import in_rounds

# Calls of each form that choose those to be timed.
SCREENED = 5
# A few calls do not tell forms apart that differ by less: all within this factor of the fastest are timed.
NEAR = 1.1


def open_forms(
    baseline: Path,
    export: Path,
    backends: Sequence[str],
    devices: Sequence[str],
    point: Point,
    threads: int,
    held: ExitStack,
) -> list[Opened]:
    """Open a float model in each of these backends that is there and runs it.

    Args:
        baseline: a [checkpoint] in floating point.
        export: the [export] artifact of it.
        backends: names in profile.backends.
        devices: cpu, cuda.
        point: batch size and length of the first call.
        threads: number of CPU threads.
        held: keeps the forms open.
    """
    checkpoint = Checkpoint(baseline)
    found = [Place(name, device) for device in devices for name in backends if device in backend(name).devices]
    running = [
        place
        for place in found
        if backend(place.backend).missing(place.device) is None and backend(place.backend).refusal(checkpoint) is None
    ]
    return [model for model, _ in agreeing(running, checkpoint, export, point, threads, held)]


def fastest_forms(forms: Sequence[Opened], point: Point, warmup: int) -> list[Opened]:
    """Return the forms, all on one device, that are the fastest at a point: in float32, and in any precision.

    Forms that a few calls do not tell from the fastest are among them.
    """
    if len(forms) < 2:
        return list(forms)
    ready = [call_of(opened, point) for opened in forms]
    times = in_rounds(ready, forms[0].place.device, warmup, SCREENED, Watch())
    medians = {opened.place.backend: float(np.median(of_it)) for opened, of_it in zip(forms, times, strict=True)}
    kept: set[str] = set()
    in_float32 = {name for name in medians if backend(name).precision == "float32"}
    for names in (in_float32, set(medians)):
        best = min((medians[name] for name in names), default=0.0)
        kept |= {name for name in names if medians[name] <= NEAR * best}
    return [opened for opened in forms if opened.place.backend in kept]
