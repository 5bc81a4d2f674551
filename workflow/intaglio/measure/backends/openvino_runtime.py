"""OpenVINO on the CPU, which executes the exported file."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from intaglio.measure.backends.base import Arrays, Backend, Operators, Tensors
from intaglio.onnx.session import MODEL
from intaglio.openvino.session import IR, UnsupportedModelError, compiled_model, missing_openvino

if TYPE_CHECKING:
    from intaglio.checkpoint import Checkpoint

# OpenVINO's name of a precision.
_HINTS = {"float32": "f32", "bfloat16": "bf16"}
# How the types of nodes that multiply by weights begin.
_LINEAR = "FullyConnected"


class OpenVino(Backend):
    """An exported graph in OpenVINO."""

    devices = ("cpu",)
    engine = "openvino"

    def missing(self, device: str) -> str | None:
        """See `Backend`."""
        return missing_openvino() or super().missing(device)

    def refusal(self, checkpoint: Checkpoint) -> str | None:
        """See `Backend`."""
        if checkpoint.integers:
            return "OpenVINO has no integer arithmetic for it"
        return super().refusal(checkpoint)

    def failure(self, error: Exception) -> str | None:
        """See `Backend`."""
        return str(error) if isinstance(error, UnsupportedModelError) else None

    def open(self, checkpoint: Checkpoint, export: Path, device: str, threads: int) -> Any:
        """See `Backend`."""
        from intaglio.openvino.runtime import OpenVinoModel

        file = _file(export)
        return OpenVinoModel(file, compiled_model(file, threads, _HINTS[self.precision]))

    def open_resident(self, path: Path, export: Path, threads: int) -> Callable[[Arrays], Any]:
        """See `Backend`; it imports no torch."""
        compiled = compiled_model(_file(export), threads, _HINTS[self.precision])
        request = compiled.create_infer_request()
        names = [given.any_name for given in compiled.inputs]
        return lambda inputs: request.infer({name: inputs[name] for name in names}, share_inputs=True)

    def operators(self, model: Any, inputs: Tensors, warmup: int, passes: int) -> Operators:
        """See `Backend`; operators are named by their types."""
        threads = model.compiled.get_property("INFERENCE_NUM_THREADS")
        # Counters slow a model down, so only a new one has them.
        counted = type(model)(model.file, compiled_model(model.file, threads, _HINTS[self.precision], counters=True))
        calls: Counter[str] = Counter()
        times: dict[str, float] = defaultdict(float)
        for number in range(warmup + passes):
            counted(**inputs)
            # Counters are those of the last call.
            for node in counted.request.profiling_info if number >= warmup else ():
                calls[node.node_type] += 1
                times[node.node_type] += node.real_time.total_seconds() * 1000
        return {name: (calls[name], times[name]) for name in calls}

    def kernel(self, model: Any, operators: Mapping[str, float]) -> str:
        """See `Backend`; OpenVINO's names of the kernels of linear layers, that of most layers first."""
        kernels: Counter[str] = Counter()
        # The graph as it ran in the last call: kernels are chosen by shape.
        for node in model.compiled.get_runtime_model().get_ops():
            facts = node.get_rt_info()
            if facts["layerType"].astype(str).startswith(_LINEAR):
                kernels[facts["primitiveType"].astype(str)] += 1
        return ", ".join(name for name, _ in kernels.most_common())


def _file(export: Path) -> Path:
    """Return the file of an [export] that OpenVINO opens."""
    return export / IR if (export / IR).is_file() else export / MODEL
