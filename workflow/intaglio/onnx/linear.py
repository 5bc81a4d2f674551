"""The linear layers of a float graph: found, separated from fused attention, and stored once if shared."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from intaglio.onnx.graph import MICROSOFT

if TYPE_CHECKING:
    import onnx

_Array = NDArray[Any]
# Operators whose second input is a factor.
_PRODUCTS = ("MatMul", "Gemm", "FusedMatMul", "Attention")
# Operators that leave a stored weight a stored weight.
_PASSED = ("Cast", "Identity", "Reshape", "Squeeze", "Transpose")


@dataclass(frozen=True)
class LinearNode:
    """A node that multiplies by a stored weight.

    Attributes:
        source: name of its input, [..., in].
        name: of the weight; the same for nodes with equal weights.
        weight: float32 [in, out].
        bias: name of the bias, if there is one.
        output: name of its output, [..., out].
    """

    source: str
    name: str
    weight: _Array
    bias: str | None
    output: str


def stored_tensors(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Return the initializers of a graph by name."""
    return {tensor.name: tensor for tensor in model.graph.initializer}


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Return the attributes of a node by name."""
    from onnx import helper

    return {given.name: helper.get_attribute_value(given) for given in node.attribute}


def as_linear(node: onnx.NodeProto, stored: dict[str, onnx.TensorProto]) -> LinearNode | None:
    """Return a node as a linear layer; None if it is not one."""
    from onnx import TensorProto, numpy_helper

    if node.op_type not in ("MatMul", "Gemm") or node.input[1] not in stored:
        return None
    tensor = stored[node.input[1]]
    given = attributes(node)
    plain = given.get("alpha", 1.0) == given.get("beta", 1.0) == 1.0 and not given.get("transA", 0)
    if not plain or len(tensor.dims) != 2 or tensor.data_type != TensorProto.FLOAT:
        return None
    weight, name = numpy_helper.to_array(tensor), tensor.name
    if given.get("transB", 0):
        # A stored tensor may be used both transposed and as it is.
        weight, name = weight.T, f"{name}.transposed"
    bias = node.input[2] if len(node.input) > 2 and node.input[2] else None
    return LinearNode(node.input[0], name, weight, bias, node.output[0])


def linear_inputs(model: onnx.ModelProto) -> list[str]:
    """Return the names of the inputs of a graph's linear layers, without repetition."""
    stored = stored_tensors(model)
    found = (as_linear(node, stored) for node in model.graph.node)
    return list(dict.fromkeys(layer.source for layer in found if layer is not None))


def floating_products(model: onnx.ModelProto) -> list[str]:
    """Return the names of the results of products with a stored matrix in floating point, of any precision."""
    from onnx import TensorProto

    floating = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
    matrices = {t.name for t in model.graph.initializer if len(t.dims) == 2 and t.data_type in floating}
    found = []
    for node in model.graph.node:
        if node.op_type in _PASSED and node.input[0] in matrices:
            matrices.add(node.output[0])
        elif node.op_type in _PRODUCTS and node.input[1] in matrices:
            found.append(node.output[0])
    return found


def share_weights(model: onnx.ModelProto) -> None:
    """Store equal tensors once, in place: constant folding copies the weights that layers share."""
    first: dict[tuple[Any, ...], str] = {}
    shared = {}
    for tensor in model.graph.initializer:
        content = hashlib.sha256(tensor.raw_data or tensor.SerializeToString()).digest()
        shared[tensor.name] = first.setdefault((tensor.data_type, *tensor.dims, content), tensor.name)
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = shared.get(name, name)
    replace_nodes(model, list(model.graph.node))


def separate_attention(model: onnx.ModelProto) -> None:
    """Replace every fused Attention by one product with its three weights side by side and an attention node, in place.

    ONNX Runtime's Attention has no 8-bit form for masks as torch's exporter writes them.
    """
    from onnx import helper

    stored = stored_tensors(model)
    makers = {output: node for node in model.graph.node for output in node.output}
    nodes = []
    for node in model.graph.node:
        weights = _attention_weights(node, stored, makers)
        if weights is None:
            nodes.append(node)
            continue
        name = node.output[0]
        _store(model, f"{name}.weight", np.concatenate(weights, axis=1))
        _store(model, f"{name}.sizes", np.array([weight.shape[1] for weight in weights]))
        parts = [f"{name}.{part}" for part in ("query", "key", "value")]
        given = attributes(node)
        kept = {name: given[name] for name in ("num_heads", "scale", "mask_filter_value") if name in given}
        inputs = [*parts, node.input[2], "", *node.input[5:6]]
        nodes += [
            helper.make_node("MatMul", [node.input[0], f"{name}.weight"], [f"{name}.parts"]),
            helper.make_node("Split", [f"{name}.parts", f"{name}.sizes"], parts, axis=-1),
            helper.make_node("MultiHeadAttention", inputs, [name], domain=MICROSOFT, **kept),
        ]
    replace_nodes(model, nodes)


def _attention_weights(
    node: onnx.NodeProto, stored: dict[str, onnx.TensorProto], makers: dict[str, onnx.NodeProto]
) -> list[_Array] | None:
    """Return the weights [in, out] of query, key and value; None if the node is not a separable attention."""
    from onnx import numpy_helper

    given = attributes(node)
    # Only additive masks, and no keys of earlier calls.
    if node.op_type != "Attention" or any(node.input[3:5]) or len(node.output) > 1 or given.get("unidirectional", 0):
        return None
    maker = makers.get(node.input[1])
    names = list(maker.input) if maker is not None and maker.op_type == "Concat" else [node.input[1]]
    if any(name not in stored for name in names):
        return None
    joined = np.concatenate([numpy_helper.to_array(stored[name]) for name in names], axis=1)
    sizes = given.get("qkv_hidden_sizes") or [joined.shape[1] // 3] * 3
    return np.split(joined, np.cumsum(sizes)[:2], axis=1)


def _store(model: onnx.ModelProto, name: str, values: _Array) -> None:
    from onnx import numpy_helper

    model.graph.initializer.append(numpy_helper.from_array(values, name))


def replace_nodes(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> None:
    """Set the nodes of a graph, in place, and remove initializers that are no longer used."""
    wanted = {output.name for output in model.graph.output}
    kept = []
    for node in reversed(nodes):
        if wanted & set(node.output):
            wanted |= set(node.input)
            kept.append(node)
    tensors = [tensor for tensor in model.graph.initializer if tensor.name in wanted]
    for field, content in ((model.graph.node, reversed(kept)), (model.graph.initializer, tensors)):
        content = list(content)
        del field[:]
        field.extend(content)
    # Recorded shapes may belong to removed values; ONNX Runtime infers them again.
    del model.graph.value_info[:]
