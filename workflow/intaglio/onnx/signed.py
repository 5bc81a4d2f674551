"""Conversion of weights to the form that the CPU multiplies fastest, with the same results.

Exported integer models hold weights as uint8 with zero point 128: ONNX Runtime's uint8 x uint8 products are exact on
every CPU. Its uint8 x int8 products are much faster on CPUs with VNNI or AMX, and exact there. Without these
instructions they sum pairs of products in 16 bits, which saturate, so that results are silently wrong.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

CPUINFO = Path("/proc/cpuinfo")
# Flags of instructions that multiply bytes and accumulate in 32 bits.
_DOT_PRODUCTS = {"avx512_vnni", "avx_vnni", "amx_int8"}
# By operator: positions of its second factor and of that factor's zero point among its inputs.
PRODUCTS = {
    "MatMulInteger": (1, 3),
    "QLinearMatMul": (3, 5),
    "QGemm": (3, 5),
    "DynamicQuantizeMatMul": (1, 3),
    "MatMulIntegerToFloat": (1, 5),
}
# Rows, depth and columns of the check, for matrix-vector kernels and for tiled kernels.
_CHECKED = ((1, 96, 48), (5, 67, 33), (64, 256, 64))


@cache
def signed_is_exact() -> bool:
    """Return whether uint8 x int8 products are fast and exact here, by the CPU's flags and a check of the kernels."""
    return has_dot_products() and not saturates()


def has_dot_products() -> bool:
    """Return whether Linux lists CPU instructions that multiply bytes and accumulate in 32 bits."""
    found = re.search(r"^flags\s*:(.*)$", CPUINFO.read_text(), re.MULTILINE) if CPUINFO.is_file() else None
    return found is not None and bool(_DOT_PRODUCTS & set(found[1].split()))


def saturates() -> bool:
    """Return whether ONNX Runtime's uint8 x int8 product of extreme values is wrong on this CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    for rows, depth, columns in _CHECKED:
        left = np.full((rows, depth), 255, dtype=np.uint8)
        for largest in (127, -128):
            right = np.full((depth, columns), largest, dtype=np.int8)
            session = onnxruntime.InferenceSession(_product(right), options, providers=["CPUExecutionProvider"])
            (result,) = session.run(None, {"left": left})
            if not np.array_equal(result, left.astype(np.int64) @ right.astype(np.int64)):
                return True
    return False


def _product(right: np.ndarray[Any, np.dtype[np.int8]]) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    node = helper.make_node("MatMulInteger", ["left", "right"], ["result"])
    left = helper.make_tensor_value_info("left", TensorProto.UINT8, [None, right.shape[0]])
    result = helper.make_tensor_value_info("result", TensorProto.INT32, [None, right.shape[1]])
    graph = helper.make_graph([node], "check", [left], [result], [numpy_helper.from_array(right, "right")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    content: bytes = model.SerializeToString()
    return content


def with_signed_weights(model: onnx.ModelProto) -> int:
    """Replace weights of uint8 with zero point 128 by int8 with zero point 0, in place; their values stay the same.

    A weight is a stored tensor whose only use is as the second factor of integer products.

    Returns:
        Number of weights that were changed.
    """
    from onnx import numpy_helper

    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    products = [(node, *PRODUCTS[node.op_type]) for node in model.graph.node if node.op_type in PRODUCTS]
    uses = Counter(name for node in model.graph.node for name in node.input)
    factors = Counter(node.input[factor] for node, factor, zero in products if _is_unsigned(node, factor, zero, stored))
    weights = {name for name, count in factors.items() if count == uses[name]}
    for name in weights:
        values = numpy_helper.to_array(stored[name])
        stored[name].CopyFrom(numpy_helper.from_array((values ^ 128).view(np.int8), name))
    for node, factor, zero in products:
        if node.input[factor] in weights:
            node.input[zero] = _signed_zero(node.input[zero], stored, model.graph)
    return len(weights)


def _is_unsigned(node: onnx.NodeProto, factor: int, zero: int, stored: dict[str, onnx.TensorProto]) -> bool:
    """Return whether the second factor of a product is stored as uint8 with zero point 128."""
    from onnx import TensorProto, numpy_helper

    tensors = [stored.get(node.input[place]) for place in (factor, zero) if place < len(node.input)]
    found = [tensor for tensor in tensors if tensor is not None and tensor.data_type == TensorProto.UINT8]
    return len(found) == 2 and bool((numpy_helper.to_array(found[1]) == 128).all())


def _signed_zero(name: str, stored: dict[str, onnx.TensorProto], graph: onnx.GraphProto) -> str:
    """Return the name of an int8 zero point of zeros, with the shape of the zero point `name`."""
    from onnx import numpy_helper

    signed = f"{name}.signed"
    if signed not in stored:
        graph.initializer.append(numpy_helper.from_array(np.zeros(tuple(stored[name].dims), np.int8), signed))
        stored[signed] = graph.initializer[-1]
    return signed
