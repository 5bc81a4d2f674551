"""Where the time goes: a table of operators, from torch.profiler or from ONNX Runtime's own."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch.autograd.profiler import profile

from intaglio.measure.backends import Opened, Place
from intaglio.measure.inputs import Point, random_inputs
from intaglio.onnx.runtime import OnnxModel

PASSES = 3
Row = dict[str, Any]


@torch.inference_mode()
def operator_rows(opened: Opened, point: Point, warmup: int) -> list[Row]:
    """Return the operators of `PASSES` calls, the costliest first.

    Profiling slows every operator by some microseconds: the shares are to be read, not the total. On a CPU it is the
    time of the operators themselves, on a GPU that of the kernels that they launched.

    Args:
        opened: the model in its backend.
        point: (batch size, length).
        warmup: calls before.
    """
    inputs = random_inputs(opened.tokenizer, point, opened.place.device)
    if isinstance(opened.model, OnnxModel):
        events = _onnx_events(opened.model, inputs, warmup)
        return _rows(opened.place, onnx_operators(events))
    for _ in range(warmup):
        opened.model(**inputs)
    return _rows(opened.place, _torch_operators(opened.model, inputs, opened.place.device))


def _rows(place: Place, operators: dict[str, tuple[int, float]]) -> list[Row]:
    """Return rows from calls and self time (ms) by operator."""
    total = sum(time for _, time in operators.values())
    return [
        {
            **place._asdict(),
            "operator": name,
            "calls": calls,
            "self_time_ms": time,
            "share": time / total,
        }
        for name, (calls, time) in sorted(operators.items(), key=lambda entry: -entry[1][1])
        if time > 0
    ]


def _torch_operators(model: Any, inputs: dict[str, torch.Tensor], device: str) -> dict[str, tuple[int, float]]:
    # What torch.profiler is made of, without its schedules and exports, for which it imports the whole compiler.
    with profile(use_device="cuda" if device == "cuda" else None, use_kineto=True) as profiler:
        for _ in range(PASSES):
            model(**inputs)
        if device == "cuda":
            torch.cuda.synchronize()
    # On a GPU the kernels are listed too, beside the operators that launched them: counted once, with these.
    events = [event for event in profiler.key_averages() if event.device_type.name == "CPU"]
    return {event.key: (event.count, _self_time_ms(event, device)) for event in events}


def _self_time_ms(event: Any, device: str) -> float:
    microseconds = event.self_device_time_total if device == "cuda" else event.self_cpu_time_total
    return float(microseconds) / 1000


def _onnx_events(model: OnnxModel, inputs: dict[str, torch.Tensor], warmup: int) -> list[Row]:
    """Return what ONNX Runtime records of `warmup` and then `PASSES` calls, in a session like the model's."""
    import onnxruntime

    # Only a new session can be profiled: with the options of the one that was timed, and the graph that it was given,
    # a path or bytes.
    graph = model.session._model_path or model.session._model_bytes
    options = model.session.get_session_options()
    with tempfile.TemporaryDirectory() as folder:
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "operators")
        session = onnxruntime.InferenceSession(graph, options, providers=model.session.get_providers())
        profiled = OnnxModel(session)
        for _ in range(warmup + PASSES):
            profiled(**inputs)
        events: list[Row] = json.loads(Path(session.end_profiling()).read_text())
    return events


def onnx_operators(events: list[Row], passes: int = PASSES) -> dict[str, tuple[int, float]]:
    """Return calls and self time (ms) by operator type, in the last runs that ONNX Runtime's profiler recorded.

    Args:
        events: content of its file: `ts` and `dur` in microseconds, a `model_run` around the nodes of each run.
        passes: how many runs, counted from the end.
    """
    runs = sorted(event["ts"] for event in events if event.get("name") == "model_run")
    start = runs[-passes]
    nodes = [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]
    calls: dict[str, int] = defaultdict(int)
    times: dict[str, float] = defaultdict(float)
    around: list[tuple[float, str]] = []
    # The nodes of a branch or a loop lie within the time of the node that has it. A parent starts first.
    for event in sorted(nodes, key=lambda event: (event["ts"], -event["dur"])):
        if event["ts"] < start:
            continue
        name, milliseconds = event["args"]["op_name"], event["dur"] / 1000
        while around and around[-1][0] <= event["ts"]:
            around.pop()
        if around and event["ts"] + event["dur"] <= around[-1][0]:
            times[around[-1][1]] -= milliseconds
        calls[name] += 1
        times[name] += milliseconds
        around.append((event["ts"] + event["dur"], name))
    return {name: (calls[name], times[name]) for name in calls}
