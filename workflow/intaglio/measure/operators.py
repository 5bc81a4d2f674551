"""Where the time goes: a table of operators from torch.profiler."""

from __future__ import annotations

from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from intaglio.measure.inputs import Point, random_inputs

PASSES = 3


@torch.inference_mode()
def operator_rows(model: Any, tokenizer: Any, device: str, point: Point, warmup: int) -> list[dict[str, Any]]:
    """Return the operators of `PASSES` calls on a device, the costliest first.

    Profiling slows every operator by some microseconds: the shares are to be read, not the total.

    Args:
        model: in evaluation mode, on the device.
        tokenizer: the model's.
        device: cpu (time of the operators themselves) or cuda (time of the kernels that they launched).
        point: (batch size, length).
        warmup: calls before.
    """
    inputs = random_inputs(tokenizer, point, device)
    for _ in range(warmup):
        model(**inputs)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    with profile(activities=activities) as profiler:
        for _ in range(PASSES):
            model(**inputs)
        if device == "cuda":
            torch.cuda.synchronize()
    # On a GPU the kernels are listed too, beside the operators that launched them: counted once, with these.
    events = [event for event in profiler.key_averages() if event.device_type.name == "CPU"]
    times = {event.key: _self_time_ms(event, device) for event in events}
    total = sum(times.values())
    rows = [
        {
            "device": device,
            "operator": event.key,
            "calls": event.count,
            "self_time_ms": times[event.key],
            "share": times[event.key] / total,
        }
        for event in events
        if times[event.key] > 0
    ]
    return sorted(rows, key=lambda row: -row["self_time_ms"])


def _self_time_ms(event: Any, device: str) -> float:
    microseconds = event.self_device_time_total if device == "cuda" else event.self_cpu_time_total
    return float(microseconds) / 1000
