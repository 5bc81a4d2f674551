"""The integer encoder as an ONNX graph, in standard operators and ONNX Runtime's QGemm for products with 8-bit results.

From the embeddings to the input of the classification head every tensor is an integer, unless the variant keeps an
operation in floating point. ONNX cannot shift signed integers: an offset makes them non-negative, and a division shifts
them. Products are of uint8 with uint8 (zero points 128), which every CPU computes exactly (`intaglio.onnx.signed`).
"""

from __future__ import annotations

from math import gcd
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from intaglio.arithmetic import softmax, sums
from intaglio.encoder.config import EncoderConfig
from intaglio.encoder.model import Encoder
from intaglio.execution.constants import (
    EmbeddingConstants,
    GeluConstants,
    LinearConstants,
    NormConstants,
    SoftmaxConstants,
    constants_of,
)
from intaglio.execution.program import run
from intaglio.onnx.graph import MICROSOFT, Graph
from intaglio.onnx.integer_head import add_head
from intaglio.onnx.integer_rows import exponential_table, norm_rows, softmax_rows

if TYPE_CHECKING:
    import onnx

_ZERO = 128
# Added to LayerNorm's results, and to accumulators before a shift, so that they are not negative. It is a multiple of
# every divisor.
OFFSET = 2**25
# Degree of parallelism of lookups: the number of copies of a table, and of parts of a tensor.
PARTS = 16


def _array(x: Tensor) -> NDArray[Any]:
    return x.detach().cpu().numpy()


class OnnxOperations:
    """The operations as nodes. Values are names; 8-bit integers are uint8 with zero point 128, rows [tokens, width]."""

    def __init__(self, graph: Graph, shape: EncoderConfig, token_types: bool) -> None:
        self.graph = graph
        self.head_width = shape.head_width
        self.weight_bits = shape.weight_bits
        self.token_types = token_types
        zero = self.graph.constant(0, np.int64)
        absent = graph.add("Equal", "attention_mask", zero)
        self.masked = graph.add("Unsqueeze", absent, self._shape(1, 2))
        self.tokens = graph.add("Shape", "input_ids")

    def _int(self, value: int) -> str:
        return self.graph.constant(value, np.int32)

    def _float(self, value: float) -> str:
        return self.graph.constant(value, np.float32)

    def _shape(self, *sizes: int) -> str:
        return self.graph.constant(sizes, np.int64) if len(sizes) > 1 else self.graph.constant(list(sizes), np.int64)

    def _clip(self, x: str, low: int, high: int) -> str:
        return self.graph.add("Clip", x, self._int(low), self._int(high))

    def _cast(self, x: str, kind: str) -> str:
        from onnx import TensorProto

        return self.graph.add("Cast", x, to=TensorProto.DataType.Value(kind))

    def token_indices(self, constants: EmbeddingConstants) -> list[str | None]:
        """See `Operations`; None means type 0 for all tokens."""
        graph = self.graph
        if constants.positions_from_padding:
            padding = graph.constant(constants.padding_index, np.int64)
            token = self._cast(graph.add("Not", graph.add("Equal", "input_ids", padding)), "INT64")
            counted = graph.add("Mul", graph.add("CumSum", token, graph.constant(1, np.int64)), token)
            positions = graph.add("Add", counted, padding)
        else:
            length = graph.add("Gather", self.tokens, graph.constant(1, np.int64))
            zero, one = (graph.constant(value, np.int64) for value in (0, 1))
            positions = graph.add("Unsqueeze", graph.add("Range", zero, length, one), self._shape(0))
        types = "token_type_ids" if self.token_types else None
        return ["input_ids", positions, types][: len(constants.tables)]

    def embed(self, constants: EmbeddingConstants, indices: list[str | None]) -> str:
        """See `Operations`."""
        total = ""
        for table, index, multiplier in zip(constants.tables, indices, constants.multipliers, strict=True):
            if index is None:
                rows = self.graph.constant(_array(table[0].int() * multiplier), np.int32)
            elif isinstance(multiplier, Tensor):
                found = self.graph.add("Gather", self._unpacked(_array(table)), index)
                of_rows = self.graph.constant(_array(multiplier.unsqueeze(1)), np.int32)
                rows = self.graph.add("Mul", self._cast(found, "INT32"), self.graph.add("Gather", of_rows, index))
            else:
                found = self.graph.add("Gather", self.graph.constant(_array(table), np.int8), index)
                rows = self.graph.add("Mul", self._cast(found, "INT32"), self._int(multiplier))
            total = self.graph.add("Add", total, rows) if total else rows
        return self.graph.add("Reshape", total, self._shape(-1, constants.tables[0].shape[1]))

    def _unpacked(self, values: NDArray[Any]) -> str:
        """Return int8 integers that are stored in 4 bits; ONNX Runtime unpacks them once, when it opens the file."""
        from onnx import TensorProto, helper

        return self._cast(self.graph.constant(values, helper.tensor_dtype_to_np_dtype(TensorProto.INT4)), "INT8")

    def _weight(self, constants: LinearConstants) -> tuple[str, NDArray[Any]]:
        """Return a weight [in, out] and its zero points [out].

        With 4 bits, products of two neighbours with uint8 are below 2^12: no instruction set saturates, and so they
        can be signed.
        """
        columns = len(constants.bias)
        if self.weight_bits == 4:
            return self._unpacked(_array(constants.weight.t())), np.zeros(columns, np.int8)
        weight = self.graph.constant(_array(constants.weight.t().int() + _ZERO), np.uint8)
        return weight, np.full(columns, _ZERO, np.uint8)

    def _zero(self, zero: int = _ZERO) -> str:
        return self.graph.constant(zero, np.uint8)

    def _accumulated(self, x8: str, constants: LinearConstants, offset: int) -> str:
        weight, zeros = self._weight(constants)
        zero = self.graph.constant(zeros[0], zeros.dtype)
        products = self.graph.add("MatMulInteger", x8, weight, self._zero(), zero)
        return self.graph.add("Add", products, self.graph.constant(_array(constants.bias + offset), np.int32))

    def linear(self, x8: str, constants: LinearConstants) -> str:
        """See `Operations`."""
        return self._accumulated(x8, constants, 0)

    def _requantized(self, x8: str, constants: LinearConstants, multiplier: Tensor, zero: int) -> str:
        bias = self.graph.constant(_array(constants.bias), np.int32)
        scales = self.graph.constant(_array(multiplier), np.float32)
        one = self._float(1.0)
        weight, zeros = self._weight(constants)
        of_columns = self.graph.constant(zeros, zeros.dtype)
        inputs = (x8, one, self._zero(), weight, scales, of_columns, bias, one, self._zero(zero))
        return self.graph.add("QGemm", *inputs, domain=MICROSOFT)

    def linear_short(self, x8: str, constants: LinearConstants, multiplier: Tensor) -> str:
        """See `Operations`."""
        return self._requantized(x8, constants, multiplier, _ZERO)

    def split(self, x8: str) -> tuple[str, str, str]:
        """See `Operations`."""
        query, key, value = self.graph.add_several("Split", x8, outputs=3, axis=1, num_outputs=3)
        return query, key, value

    def lookup(self, index: str, table: NDArray[Any], width: int, back: str) -> str:
        """Look up uint8 or int32 indices, whose last dimension is `width`; the result is reshaped to `back`."""
        parts = gcd(width, PARTS)
        # GatherElements on a few long rows takes a third of Gather's time.
        split = self.graph.add("Reshape", self._cast(index, "INT32"), self._shape(parts, -1))
        rows = self.graph.constant(np.tile(table, (parts, 1)), table.dtype)
        return self.graph.add("Reshape", self.graph.add("GatherElements", rows, split, axis=1), back)

    def linear_gelu(self, x8: str, constants: LinearConstants, gelu: GeluConstants) -> str:
        """See `Operations`."""
        assert gelu.multiplier is not None and gelu.table is not None
        codes = self._requantized(x8, constants, gelu.multiplier, gelu.zero_point)
        width = len(constants.weight)
        return self.lookup(codes, _array(gelu.table.int() + _ZERO).astype(np.uint8), width, self._shape(-1, width))

    def linear_term(self, x8: str, constants: LinearConstants) -> str:
        """See `Operations`."""
        assert constants.multiplier is not None
        products = self._accumulated(x8, constants, OFFSET)
        shifted = self.graph.add("Div", products, self._int(2**constants.shift))
        short = self.graph.add("Sub", shifted, self._int(OFFSET >> constants.shift))
        clipped = self._clip(short, -sums.TERM_BOUND, sums.TERM_BOUND)
        return self.graph.add("Mul", clipped, self.graph.constant(_array(constants.multiplier), np.int32))

    def clip_sum(self, term: str) -> str:
        """See `Operations`."""
        return self.graph.add("Add", self._clip(term, -sums.BOUND, sums.BOUND), self._int(OFFSET))

    def residual(self, wide: str, skip: int, term: str) -> str:
        """See `Operations`."""
        shifted = self.graph.add("Div", wide, self._int(2**skip))
        total = self.graph.add("Add", self.graph.add("Sub", shifted, self._int(OFFSET >> skip)), term)
        return self._clip(total, -sums.BOUND, sums.BOUND)

    def norm(self, x: str, constants: NormConstants) -> str:
        """See `Operations`."""
        normalized = norm_rows(self.graph, x, constants)
        scaled = self.graph.add("Mul", normalized, self.graph.constant(_array(constants.gamma), np.int32))
        return self.graph.add("Add", scaled, self.graph.constant(_array(constants.beta + OFFSET), np.int32))

    def shorten(self, x: str, shift: int) -> str:
        """See `Operations`."""
        rounded = self.graph.add("Add", x, self._int(2 ** (shift - 1)))
        low = (OFFSET >> shift) - _ZERO
        clipped = self._clip(self.graph.add("Div", rounded, self._int(2**shift)), low, low + 255)
        return self._cast(self.graph.add("Sub", clipped, self._int(low)), "UINT8")

    def _heads(self, x8: str, order: list[int]) -> str:
        sizes = self.graph.add("Concat", self.tokens, self._shape(-1, self.head_width), axis=0)
        return self.graph.add("Transpose", self.graph.add("Reshape", x8, sizes), perm=order)

    def scores(self, query: str, key: str) -> str:
        """See `Operations`."""
        queries, keys = self._heads(query, [0, 2, 1, 3]), self._heads(key, [0, 2, 3, 1])
        return self.graph.add("MatMulInteger", queries, keys, self._zero(), self._zero())

    def softmax(self, scores: str, constants: SoftmaxConstants) -> str:
        """See `Operations`."""
        graph = self.graph
        present = graph.add("Where", self.masked, self._int(softmax.MASKED), scores)
        top = graph.add("ReduceMax", present, self._shape(-1), keepdims=1)
        short = graph.add("Div", graph.add("Sub", top, present), self._int(2**constants.down))
        scaled = graph.add("Mul", graph.add("Min", short, self._int(constants.top)), self._int(constants.multiplier))
        distance = graph.add("Div", scaled, self._int(2**constants.shift))
        near = graph.add("Min", distance, self._int(softmax.FARTHEST))
        e = self.lookup(near, exponential_table(), constants.heads, graph.add("Shape", scores))
        return self._cast(softmax_rows(graph, e), "UINT8")

    def context(self, probabilities: str, value: str, multiplier: Tensor) -> str:
        """See `Operations`."""
        one, scale = self._float(1.0), self._float(float(multiplier))
        values = self._heads(value, [0, 2, 1, 3])
        inputs = (probabilities, one, self._zero(0), values, scale, self._zero(), one, self._zero())
        short = self.graph.add("QLinearMatMul", *inputs)
        merged = self.graph.add("Transpose", short, perm=[0, 2, 1, 3])
        flat = self.graph.add("Concat", self._shape(-1), self._width(value), axis=0)
        return self.graph.add("Reshape", merged, flat)

    def _width(self, x: str) -> str:
        return self.graph.add("Shape", x, start=1)

    def dequantize(self, x: str, scale: Tensor) -> str:
        """See `Operations`."""
        return self.graph.add("Mul", self._cast(x, "FLOAT"), self.graph.constant(_array(scale), np.float32))

    def quantize(self, x: str, inverse: Tensor) -> str:
        """See `Operations`."""
        scaled = self.graph.add("Mul", x, self.graph.constant(_array(inverse), np.float32))
        clipped = self.graph.add("Clip", self.graph.add("Round", scaled), self._float(-_ZERO), self._float(_ZERO - 1))
        return self._cast(self.graph.add("Add", clipped, self._float(_ZERO)), "UINT8")

    def add_real(self, x: str, y: str) -> str:
        """See `Operations`."""
        return self.graph.add("Add", x, y)

    def gelu_real(self, x: str) -> str:
        """See `Operations`."""
        return self.graph.add("Gelu", x)

    def norm_real(self, x: str, constants: NormConstants) -> str:
        """See `Operations`."""
        gamma, beta = (self.graph.constant(_array(x), np.float32) for x in (constants.gamma, constants.beta))
        return self.graph.add("LayerNormalization", x, gamma, beta, axis=-1, epsilon=constants.epsilon)

    def softmax_real(self, scores: str, constants: SoftmaxConstants) -> str:
        """See `Operations`."""
        assert constants.scale is not None
        real = self.graph.add("Mul", self.dequantize(scores, constants.scale), self._float(constants.factor))
        present = self.graph.add("Where", self.masked, self._float(-np.inf), real)
        levels = self.graph.add("Mul", self.graph.add("Softmax", present, axis=-1), self._float(softmax.LEVELS))
        return self._cast(self.graph.add("Round", levels), "UINT8")


def integer_onnx(encoder: Encoder, token_types: bool) -> onnx.ModelProto:
    """Convert a calibrated integer encoder to an ONNX graph.

    Args:
        encoder: of any variant with integer operations.
        token_types: whether the graph has an input token_type_ids; without it, all tokens are of type 0.

    Returns:
        A graph from input_ids, attention_mask(, token_type_ids), int64 [batch, length], to logits, float32
        [batch, labels]. The input of the head, float32 [batch, width], is a value named `hidden`. With a head for
        every token, both are [batch, length, ...].
    """
    constants = constants_of(encoder)
    graph = Graph()
    operations = OnnxOperations(graph, constants.shape, token_types)
    wide = run(operations, constants)
    add_head(graph, constants, wide, operations.tokens, operations.masked, OFFSET)
    inputs = ["input_ids", "attention_mask"] + ["token_type_ids"] * token_types
    return graph.model(inputs, {"logits": constants.shape.labels}, of_tokens=constants.shape.every_token)
