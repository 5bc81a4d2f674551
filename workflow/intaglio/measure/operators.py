"""Time by operator, from the profiler of a model's backend."""

from __future__ import annotations

from typing import Any

import torch

from intaglio.measure.backends import backend
from intaglio.measure.inputs import Point, random_inputs
from intaglio.measure.places import Opened

PASSES = 3
_Row = dict[str, Any]


@torch.inference_mode()
def operator_rows(opened: Opened, point: Point, warmup: int) -> list[_Row]:
    """Return the operators of `PASSES` calls, the most expensive first.

    Profiling slows every operator by some microseconds, so only the shares are meaningful, not the total. On a CPU,
    time is that of the operators; on a GPU, that of the kernels that they launch.

    Args:
        opened: the model in its backend.
        point: (batch size, length).
        warmup: number of calls before profiling.
    """
    inputs = random_inputs(opened.tokenizer, point, opened.place.device)
    operators = backend(opened.place.backend).operators(opened.model, inputs, warmup, PASSES)
    total = sum(time for _, time in operators.values())
    return [
        {
            **opened.place._asdict(),
            "operator": name,
            "calls": calls,
            "self_time_ms": time,
            "share": time / total,
        }
        for name, (calls, time) in sorted(operators.items(), key=lambda entry: -entry[1][1])
        if time > 0
    ]
