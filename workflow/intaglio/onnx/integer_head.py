"""The head of an integer encoder in an ONNX graph, in floating point: see `encoder.heads` on its rounding."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from intaglio.encoder.padding import PADDING
from intaglio.execution.constants import Constants
from intaglio.onnx.graph import Graph


def add_head(graph: Graph, constants: Constants, wide: str, tokens: str, masked: str, offset: int) -> None:
    """Add the head, from the last layer's result to `hidden`, [batch, width], and `logits`.

    Args:
        graph: the graph.
        constants: of the encoder.
        wide: the last layer's result.
        tokens: the shape [batch, length].
        masked: whether a token is padding, [batch, 1, 1, length].
        offset: what it is larger by, if it is an integer.
    """
    head = constants.head
    width = constants.shape.hidden_size
    sizes = graph.add("Concat", tokens, graph.constant([width], np.int64), axis=0)
    every = graph.add("Reshape", wide, sizes)
    if constants.shape.every_token:
        _find_answers(graph, constants, every, masked, offset)
        return
    first = graph.add("Gather", every, graph.constant(0, np.int64), axis=1)
    _real(graph, constants, first, offset, "hidden")
    activation = {"tanh": "Tanh", "relu": "Relu", "gelu": "Gelu"}[head.activation.__name__]
    activated = _gemm(graph, "hidden", head.dense)
    if activation == "Gelu":  # ONNX Runtime has none of 64 bits
        activated = graph.add(activation, activated)
    else:
        activated = _narrow(graph, graph.add(activation, _wide(graph, activated)))
    _gemm(graph, activated, head.output, output="logits")


def _find_answers(graph: Graph, constants: Constants, every: str, masked: str, offset: int) -> None:
    """Add a head over every token: `hidden`, [batch, length, width], and `logits`, [batch, length, 2]."""
    output = constants.head.output
    padding = graph.add("Squeeze", masked, graph.constant([1], np.int64))
    padding = graph.add("Transpose", padding, perm=[0, 2, 1])
    real = _real(graph, constants, every, offset)
    graph.add("Where", padding, graph.constant(0.0, np.float32), real, output="hidden")
    weight, bias = (_wide(graph, _constant(graph, x)) for x in (output.weight.t(), output.bias))
    logits = _narrow(graph, graph.add("Add", graph.add("MatMul", _wide(graph, "hidden"), weight), bias))
    graph.add("Where", padding, graph.constant(PADDING, np.float32), logits, output="logits")


def _real(graph: Graph, constants: Constants, x: str, offset: int, output: str | None = None) -> str:
    """Return the last layer's result as real values."""
    from onnx import TensorProto

    if "layernorm" not in constants.shape.integer:
        return graph.add("Identity", x, output=output)
    integers = graph.add("Sub", x, graph.constant(offset, np.int32))
    real = graph.add("Cast", integers, to=TensorProto.FLOAT)
    return graph.add("Mul", real, _constant(graph, constants.scale), output=output)


def _gemm(graph: Graph, x: str, layer: torch.nn.Linear, output: str | None = None) -> str:
    weight, bias = (_wide(graph, _constant(graph, each)) for each in (layer.weight, layer.bias))
    return _narrow(graph, graph.add("Gemm", _wide(graph, x), weight, bias, transB=1), output)


def _wide(graph: Graph, x: str) -> str:
    """Return values as float64; constants are stored as float32 and made wide when the model is opened."""
    from onnx import TensorProto

    return graph.add("Cast", x, to=TensorProto.DOUBLE)


def _narrow(graph: Graph, x: str, output: str | None = None) -> str:
    from onnx import TensorProto

    return graph.add("Cast", x, to=TensorProto.FLOAT, output=output)


def _constant(graph: Graph, x: Tensor) -> str:
    return graph.constant(x.detach().cpu().numpy(), np.float32)
