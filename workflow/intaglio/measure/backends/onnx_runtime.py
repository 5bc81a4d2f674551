"""ONNX Runtime on the CPU, which executes the exported file."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from intaglio.measure.backends.base import Arrays, Backend, Operators, Tensors
from intaglio.onnx.session import MODEL, open_session

if TYPE_CHECKING:
    from intaglio.checkpoint import Checkpoint

# Parts of the names of operators that multiply matrices: MatMul, MatMulIntegerToFloat, QGemm, QAttention, ...
_PRODUCTS = ("MatMul", "Gemm", "Attention")
# Kernels are named if they take at least this share of all products' time.
_NAMED = 0.1


class OnnxRuntime(Backend):
    """An exported graph in ONNX Runtime, also of 8 bits."""

    devices = ("cpu",)
    engine = "onnxruntime"

    def open(self, checkpoint: Checkpoint, export: Path, device: str, threads: int) -> Any:
        """See `Backend`."""
        from intaglio.onnx.runtime import OnnxModel

        return OnnxModel(open_session(export / MODEL, threads))

    def open_resident(self, path: Path, export: Path, threads: int) -> Callable[[Arrays], Any]:
        """See `Backend`; it imports no torch."""
        session = open_session(export / MODEL, threads)
        names = [given.name for given in session.get_inputs()]
        return lambda inputs: session.run(["logits"], {name: inputs[name] for name in names})

    def operators(self, model: Any, inputs: Tensors, warmup: int, passes: int) -> Operators:
        """See `Backend`; operators are named by their types."""
        import onnxruntime

        # Only a new session can be profiled; it has the options and the graph (a path or bytes) of the timed one.
        graph = model.session._model_path or model.session._model_bytes
        options = model.session.get_session_options()
        with tempfile.TemporaryDirectory() as folder:
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / "operators")
            session = onnxruntime.InferenceSession(graph, options, providers=model.session.get_providers())
            profiled = type(model)(session)
            for _ in range(warmup + passes):
                profiled(**inputs)
            events: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_text())
        return recorded_operators(events, passes)

    def kernel(self, model: Any, operators: Mapping[str, float]) -> str:
        """See `Backend`; the operators that take at least a tenth of all products' time, the most expensive first."""
        products = {name: time for name, time in operators.items() if any(part in name for part in _PRODUCTS)}
        total = sum(products.values())
        costliest = sorted(products, key=lambda name: -products[name])
        return ", ".join(name for name in costliest if products[name] >= _NAMED * total)


def recorded_operators(events: list[dict[str, Any]], passes: int) -> Operators:
    """Return calls and self time (ms) by operator type, in the last runs that ONNX Runtime's profiler recorded.

    Args:
        events: content of its file: `ts` and `dur` in microseconds, and a `model_run` around the nodes of each run.
        passes: number of runs, counted from the end.
    """
    runs = sorted(event["ts"] for event in events if event.get("name") == "model_run")
    start = runs[-passes]
    nodes = [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]
    calls: dict[str, int] = defaultdict(int)
    times: dict[str, float] = defaultdict(float)
    around: list[tuple[float, str]] = []
    # The time of a branch's or a loop's nodes is included in that of its own node. Parents start first.
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
