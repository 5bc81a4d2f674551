"""Every intermediate tensor of an integer encoder, as each engine computes it: simulation, torch, ONNX Runtime.

A stream names operations of `intaglio.execution.program` and lists what each returned, call by call, as NumPy arrays of
the simulation's shapes. Where an engine has no such tensor (ONNX Runtime's QGemm holds no accumulators) there is None.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor

from intaglio.arithmetic import linear, sums
from intaglio.arithmetic.integers import Integers, real
from intaglio.encoder import layers, model
from intaglio.encoder.layers import Gelu, Hidden, Norm, Range, Residual
from intaglio.encoder.model import Encoder, Projection, Softmax
from intaglio.execution import on_torch
from intaglio.onnx import integer_graph as integer_onnx

Array = np.ndarray[Any, Any]
Stream = dict[str, list[Any]]
Inputs = dict[str, Tensor]
# What two operations of the program return in one place, under one name.
SAME = {"softmax_real": "softmax", "norm_real": "norm", "add_real": "residual"}
RECORDED = (
    *("embed", "linear", "linear_short", "linear_gelu", "linear_term", "clip_sum", "residual", "norm", "shorten"),
    *("scores", "softmax", "context", "dequantize", "quantize", "add_real", "gelu_real", "norm_real", "softmax_real"),
)
# In the graph 8-bit integers have the zero point 128, and LayerNorm's results an offset.
SIGNED = ("linear_short", "linear_gelu", "shorten", "context", "quantize")
SHIFTED = ("norm", "clip_sum")


def array(x: Any) -> Array:
    """The numbers of a tensor, or the integers of a value."""
    values = x.values if isinstance(x, Integers) else x
    found: Array = values.detach().cpu().numpy()
    return found


class _Simulation:
    """Listens to an encoder."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.stream: Stream = defaultdict(list)
        self.names: dict[Range, str] = {}
        for layer in encoder.layers:
            attention = layer.attention
            parts = (attention.query_range, attention.key_range, attention.value_range)
            self.names |= {**dict.fromkeys(parts, "linear_short"), attention.context_range: "context"}
            if layer.gelu.output is not None:
                self.names[layer.gelu.output] = "gelu"

    def keep(self, key: str, x: Any) -> None:
        self.stream[key].append(array(x))

    def left(self, module: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Be the hook behind every module."""
        if isinstance(module, Range):
            key = self.names.get(module, "quantize")
            if key == "gelu":
                self.keep("gelu_real", inputs[0])
                key = "quantize"
            self.keep(key, output)
        elif isinstance(module, Gelu) and module.integer:
            self.keep("linear_gelu", output)
        elif isinstance(module, Softmax):
            self.keep("softmax", output)
        elif isinstance(module, Residual):
            self.keep("residual", output)
        elif isinstance(module, Norm):
            self.keep("norm", output.wide)
            if module.integer and module.output is not None:
                self.keep("shorten", output.narrow)
        elif isinstance(module, Projection) and module.integer:
            assert isinstance(output, Hidden)
            self.keep("clip_sum", output.wide)
            self.keep("shorten", output.narrow)

    def entered(self, module: Any, inputs: tuple[Any, ...]) -> None:
        """Be the hook before every module."""
        if module is self.encoder.embeddings.norm:
            self.keep("embed", inputs[0])
        elif module is self.encoder.head:
            self.keep("hidden", inputs[0])

    def passed(self, key: str, original: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that keeps what `original` returns."""

        def call(*arguments: Any) -> Any:
            result = original(*arguments)
            self.keep(key, result)
            return result

        return call

    def summed(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Return a sum that keeps its term, `clip(accumulators >> shift) * multiplier`."""

        def call(*arguments: Any) -> Any:
            term = arguments[-1]
            short = array(term.values).astype(np.int64) >> int(term.shift)
            clipped = np.clip(short, -(2**14 - 1), 2**14 - 1)
            self.stream["linear_term"].append(clipped * array(term.multiplier).astype(np.int64))
            return original(*arguments)

        return call

    def real(self, x: Any) -> Any:
        """Return real values; keep those that were integers."""
        if isinstance(x, Integers):
            self.keep("dequantize", x.real)
        return real(x)

    @contextmanager
    def listening(self) -> Iterator[None]:
        with ExitStack() as stack:
            for module in self.encoder.modules():
                stack.callback(module.register_forward_hook(self.left).remove)
                stack.callback(module.register_forward_pre_hook(self.entered).remove)
            for where, what, instead in (
                (linear, "accumulate", self.passed("linear", linear.accumulate)),
                (linear, "matmul", self.passed("matmul", linear.matmul)),
                (sums, "residual", self.summed(sums.residual)),
                (sums, "alone", self.summed(sums.alone)),
                (layers, "real", self.real),
                (model, "real", self.real),
            ):
                stack.enter_context(mock.patch.object(where, what, instead))
            yield

    def arranged(self) -> Stream:
        """The stream with query, key and value as one, as they are executed."""
        stream = dict(self.stream)
        matmul = stream.pop("matmul")
        stream["scores"], stream["products"] = matmul[::2], matmul[1::2]
        accumulators = stream["linear"]
        stream["linear"] = accumulators[: len(accumulators) % 6]
        for start in range(len(accumulators) % 6, len(accumulators), 6):
            stream["linear"] += [_together(accumulators[start : start + 3]), *accumulators[start + 3 : start + 6]]
        short = stream["linear_short"]
        stream["linear_short"] = [_together(short[start : start + 3]) for start in range(0, len(short), 3)]
        if "layernorm" in self.encoder.shape.integer:
            # what the head is given is no intermediate tensor of the program
            assert len(stream.pop("dequantize")) == 1 + sum(not layer.gelu.integer for layer in self.encoder.layers)
            stream["dequantize"] = self.stream["dequantize"][:-1]
        return {key: values for key, values in stream.items() if values}


def _together(parts: list[Array]) -> Array:
    return np.concatenate(parts, -1)


def simulated(encoder: Encoder, inputs: Inputs) -> Stream:
    """What the encoder, in evaluation mode, simulates."""
    simulation = _Simulation(encoder)
    with torch.no_grad(), simulation.listening():
        logits = encoder(**inputs).logits
    return {**simulation.arranged(), "logits": [array(logits)]}


def _recorded(base: type, keep: Callable[..., None], operations: tuple[str, ...]) -> type:
    """A kind of operations that calls `keep(self, operation, result)` after every one of them."""

    def wrapped(operation: str) -> Callable[..., Any]:
        original = getattr(base, operation)

        def call(self: Any, *arguments: Any) -> Any:
            result = original(self, *arguments)
            keep(self, SAME.get(operation, operation), result)
            return result

        return call

    return type(f"Recorded{base.__name__}", (base,), {operation: wrapped(operation) for operation in operations})


def executed(integers: on_torch.IntegerModel, inputs: Inputs) -> Stream:
    """What torch computes, its parts of a batch put together."""
    parts: dict[Any, Stream] = {}

    def keep(self: Any, operation: str, result: Tensor) -> None:
        # A copy, since what follows may compute in place.
        parts.setdefault(self, defaultdict(list))[operation].append(array(result).copy())

    kind = _recorded(on_torch.TorchOperations, keep, RECORDED)
    heads: list[Array] = []
    handle = integers.head.register_forward_pre_hook(lambda _, given: heads.append(array(given[0])))
    with mock.patch.object(on_torch, "TorchOperations", kind), torch.inference_mode():
        logits = integers(**inputs).logits
    handle.remove()
    streams = list(parts.values())
    joined = {
        key: [np.concatenate(calls) for calls in zip(*(stream[key] for stream in streams), strict=True)]
        for key in streams[0]
    }
    return {**joined, "hidden": heads, "logits": [array(logits)]}


class Graph:
    """An encoder's ONNX graph, all of whose intermediate values are outputs."""

    def __init__(self, encoder: Encoder, token_types: bool) -> None:
        self.names: dict[str, list[Any]] = defaultdict(list)
        self.offsets: dict[str, int] = {}
        inside: list[str] = []

        def keep(_: Any, operation: str, result: str) -> None:
            if operation != "dequantize" or not inside:
                self.names[operation].append(result)
                self.offsets[result] = 128 if operation in SIGNED else 2**25 if operation in SHIFTED else 0

        names = self.names
        offsets = self.offsets
        base = _recorded(
            integer_onnx.OnnxOperations, keep, tuple(operation for operation in RECORDED if operation != "linear")
        )

        class Recorded(base):  # type: ignore[misc, valid-type]
            def _accumulated(self, x8: str, constants: Any, offset: int) -> str:
                found: str = super()._accumulated(x8, constants, offset)
                names["linear"].append(found)
                offsets[found] = offset
                return found

            def _requantized(self, *arguments: Any) -> str:
                names["linear"].append(None)
                found: str = super()._requantized(*arguments)
                return found

            def softmax_real(self, *arguments: Any) -> str:
                # its dequantized scores are its own
                inside.append("softmax")
                found: str = super().softmax_real(*arguments)
                inside.clear()
                names["softmax"][-1] = found
                return found

        # LayerNorm in floating point has no offset
        self.integer_norm = "layernorm" in encoder.shape.integer
        with mock.patch.object(integer_onnx, "OnnxOperations", Recorded):
            self.model = integer_onnx.integer_onnx(encoder, token_types)
        self.names |= {"hidden": ["hidden"], "logits": ["logits"]}
        self.plain_model = onnx.ModelProto()
        self.plain_model.CopyFrom(self.model)
        self.plain = session(self.model, ["hidden"])
        wanted = [name for found in self.names.values() for name in found if name not in (None, "logits")]
        self.session = session(self.model, wanted)

    def stream(self, inputs: Inputs) -> Stream:
        """What ONNX Runtime computes, with offsets and zero points undone; the shapes are its own."""
        given = {node.name: array(inputs[node.name]) for node in self.session.get_inputs()}
        names = [output.name for output in self.session.get_outputs()]
        values = dict(zip(names, self.session.run(None, given), strict=True))
        return {
            key: [None if name is None else self._without_offset(name, values[name]) for name in found]
            for key, found in self.names.items()
        }

    def fused(self, inputs: Inputs) -> dict[str, Array]:
        """`hidden` and `logits` of the graph as it is run, with all that ONNX Runtime makes of it."""
        given = {node.name: array(inputs[node.name]) for node in self.plain.get_inputs()}
        return dict(zip(("logits", "hidden"), self.plain.run(["logits", "hidden"], given), strict=True))

    def _without_offset(self, name: str, values: Array) -> Array:
        offset = self.offsets.get(name, 0)
        return values if offset == 0 or values.dtype == np.float32 else values.astype(np.int64) - offset


def session(graph: onnx.ModelProto, outputs: list[str], optimized: bool = True) -> Any:
    """A session of the graph with further outputs, on one thread."""
    changed = onnx.ModelProto()
    changed.CopyFrom(graph)
    known = {output.name for output in changed.graph.output}
    for name in dict.fromkeys(outputs):
        if name not in known:
            changed.graph.output.append(onnx.ValueInfoProto(name=name))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(changed.SerializeToString(), options, providers=["CPUExecutionProvider"])


def differing(expected: Stream, found: Stream) -> list[str]:
    """The calls, as `operation[index]`, whose numbers are not the same to the bit; none may be missing."""
    missing = expected.keys() - found.keys() - {"products"}
    wrong = [f"{key} is missing" for key in sorted(missing)]
    for key in found:
        wanted, computed = expected[key], found[key]
        if len(wanted) != len(computed):
            wrong.append(f"{key}: {len(wanted)} calls, {len(computed)}")
            continue
        for index, (one, other) in enumerate(zip(wanted, computed, strict=True)):
            if other is not None and not np.array_equal(one, other.reshape(one.shape)):
                wrong.append(f"{key}[{index}]: {int((one != other.reshape(one.shape)).sum())} of {one.size}")
    return wrong
