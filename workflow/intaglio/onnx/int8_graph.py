"""Post-training quantization of a float graph to 8-bit weights, in the operators that are fastest in ONNX Runtime.

Weights are symmetric, uint8 with zero point 128: zeros stay zeros, and products with uint8 activations are exact on
every CPU (`intaglio.onnx.signed`). ONNX Runtime's own quantizers are not used: `quantize_dynamic` leaves fused
attention, a quarter of all products, in floating point, and the graph of `quantize_static` runs as blockwise products
in floating point, slower than the float graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from intaglio.onnx.graph import MICROSOFT
from intaglio.onnx.linear import LinearNode, as_linear, replace_nodes, stored_tensors

if TYPE_CHECKING:
    import onnx

Method = Literal["dynamic", "static", "weights"]
_Array = NDArray[Any]
# Bound of a weight's integers; 0 is stored as ZERO_POINT.
LARGEST, ZERO_POINT = 127, 128
# Number of steps in an activation's range.
RANGE_STEPS = 255


@dataclass(frozen=True)
class ActivationRange:
    """The values that an activation is clipped to; includes 0."""

    low: float
    high: float

    @property
    def scale(self) -> np.float32:
        """Step between its 8-bit integers."""
        return np.float32((self.high - self.low) / RANGE_STEPS) or np.float32(1)

    @property
    def zero_point(self) -> np.uint8:
        """The integer that represents 0."""
        return np.uint8(np.rint(-self.low / self.scale))


def quantized_weight(weight: _Array, per_channel: bool) -> tuple[_Array, _Array]:
    """Quantize a weight to 8 bits.

    Args:
        weight: float32 [in, out].
        per_channel: whether each output channel has its own scale.

    Returns:
        uint8 [in, out], the integers plus 128; the float32 scales [out], or one scale [].
    """
    largest = np.abs(weight).max(axis=0 if per_channel else None)
    # For zeros alone, any scale will do.
    scale = np.where(largest > 0, largest / LARGEST, 1).astype(np.float32)
    integers = np.rint(weight / scale).clip(-LARGEST, LARGEST)
    return np.ascontiguousarray(integers + ZERO_POINT).astype(np.uint8), scale


def quantize_graph(
    model: onnx.ModelProto, method: Method, per_channel: bool, ranges: Mapping[str, ActivationRange]
) -> int:
    """Quantize the linear layers and the embeddings of a float graph to 8 bits, in place.

    Args:
        model: a graph whose attention is separate from its products (`linear.separate_attention`).
        method: `dynamic`, `static` or `weights`, as in the study's options.
        per_channel: whether each output channel of a linear weight has its own scale; embeddings always have one scale.
        ranges: for `static`: the range of every linear layer's input, by the name of the input.

    Returns:
        Number of linear layers that were quantized.
    """
    stored = stored_tensors(model)
    writer = _Writer(model, method, per_channel, ranges)
    layers = 0
    for node in list(model.graph.node):
        layer = as_linear(node, stored)
        if layer is not None:
            writer.linear(layer)
            layers += 1
        elif _is_embedding(node, stored):
            writer.embedding(node, stored[node.input[0]])
        else:
            writer.nodes.append(node)
    replace_nodes(model, writer.nodes)
    return layers


def _is_embedding(node: onnx.NodeProto, stored: Mapping[str, onnx.TensorProto]) -> bool:
    from onnx import TensorProto

    table = stored.get(node.input[0]) if node.op_type == "Gather" else None
    return table is not None and table.data_type == TensorProto.FLOAT and len(table.dims) == 2


class _Writer:
    """Writes nodes and constants of the quantized graph."""

    def __init__(
        self, model: onnx.ModelProto, method: Method, per_channel: bool, ranges: Mapping[str, ActivationRange]
    ) -> None:
        self.model, self.method, self.per_channel, self.ranges = model, method, per_channel, ranges
        self.nodes: list[onnx.NodeProto] = []
        self.made: set[str] = set()

    def constant(self, name: str, values: Any) -> str:
        from onnx import numpy_helper

        if name not in self.made:
            self.made.add(name)
            self.model.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def add(self, kind: str, inputs: list[str], output: str, domain: str = "", **attributes: Any) -> None:
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, [output], domain=domain, **attributes))

    def weight(self, name: str, weight: _Array, per_channel: bool) -> list[str]:
        """Store a weight; return the names of its integers, scales and zero points."""
        integers, scale = quantized_weight(weight, per_channel)
        values = {"int8": integers, "scale": scale, "zero": np.full(scale.shape, ZERO_POINT, np.uint8)}
        return [self.constant(f"{name}.{part}", value) for part, value in values.items()]

    def linear(self, layer: LinearNode) -> None:
        """Write a linear layer."""
        integers, scale, zero = self.weight(layer.name, layer.weight, self.per_channel)
        bias = [layer.bias] if layer.bias else []
        if self.method == "dynamic":
            inputs = [layer.source, integers, scale, zero, *bias]
            self.add("DynamicQuantizeMatMul", inputs, layer.output, MICROSOFT)
        elif self.method == "static":
            quantized, step, middle = self.activation(layer.source)
            inputs = [quantized, integers, step, scale, middle, zero, *bias]
            self.add("MatMulIntegerToFloat", inputs, layer.output, MICROSOFT)
        else:
            # Once per layer: nodes of the same weight may need it at different times.
            restored = f"{layer.output}.weight"
            self.add("DequantizeLinear", [integers, scale, zero], restored, axis=1)
            self.add("Gemm" if bias else "MatMul", [layer.source, restored, *bias], layer.output)

    def activation(self, name: str) -> tuple[str, str, str]:
        """Quantize an activation by its range; return the names of its integers, scale and zero point."""
        known = self.ranges[name]
        quantized = f"{name}.quantized"
        step = self.constant(f"{name}.scale", known.scale)
        middle = self.constant(f"{name}.zero", known.zero_point)
        if quantized not in self.made:
            self.made.add(quantized)
            self.add("QuantizeLinear", [name, step, middle], quantized)
        return quantized, step, middle

    def embedding(self, node: onnx.NodeProto, table: onnx.TensorProto) -> None:
        """Write a lookup in an 8-bit table."""
        from onnx import numpy_helper

        integers, scale, zero = self.weight(f"{table.name}.table", numpy_helper.to_array(table), False)
        rows = f"{node.output[0]}.int8"
        self.add("Gather", [integers, node.input[1]], rows)
        self.add("DequantizeLinear", [rows, scale, zero], node.output[0])
