"""Energy of inference, in a pass of its own: calls in a row while a counter of the machine runs."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

import torch

from intaglio.machine import device_name
from intaglio.measure.inputs import Point
from intaglio.measure.places import Opened
from intaglio.measure.timing.latency import call_of
from intaglio.meters import Meter, MissingMeterError, Reading, idle_watts, meters

_Row = dict[str, Any]
_log = logging.getLogger(__name__)
# Seconds of calls in a row, which make the steps of a counter (see `meters.REST`) small.
SECONDS = 3.0
# Seconds after which the threads of earlier calls have ceased to spin.
_SETTLED = 0.2


def energy_rows(models: Sequence[Opened], point: Point, warmup: int) -> list[_Row]:
    """Return rows of the table of energy, one for each model and meter; none where the machine has no meter.

    Args:
        models: a model in its backends, on all devices.
        point: batch size and length of the calls.
        warmup: number of calls before.
    """
    rows: list[_Row] = []
    for device in dict.fromkeys(model.place.device for model in models):
        found, reasons = meters(device)
        for reason in reasons:
            _log.info("energy on %s: %s", device, reason)
        if not found:
            continue
        try:
            time.sleep(_SETTLED)
            idle = idle_watts(found)
            for model in models:
                if model.place.device == device:
                    rows += _measured(model, point, warmup, found, idle)
        except MissingMeterError as error:
            _log.warning("energy on %s: %s", device, error)
    return rows


@torch.inference_mode()
def _measured(opened: Opened, point: Point, warmup: int, found: Sequence[Meter], idle: Sequence[float]) -> list[_Row]:
    name, device = opened.place
    call, calls = call_of(opened, point), 0
    for _ in range(warmup):
        call()
    _wait(device)
    reading, end = Reading(found), time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        call()
        _wait(device)
        calls += 1
    spent = reading.spent()
    place = {"backend": name, "device": device, "device_name": device_name(device)}
    point_of = {"batch_size": point[0], "length": point[1], "calls": calls, "seconds": spent.seconds / calls}
    return [
        {**place, **point_of, "meter": meter.name, "joules": joules / calls, "idle_watts": watts}
        for meter, joules, watts in zip(found, spent.joules, idle, strict=True)
    ]


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
