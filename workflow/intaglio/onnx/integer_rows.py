"""Arithmetic on one number per row, for integer LayerNorm and softmax, as nodes of a graph.

Rows are few, so 64-bit integers and comparisons with powers of two cost little.
"""

from __future__ import annotations

from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from intaglio.arithmetic import layernorm, softmax, sums
from intaglio.arithmetic.sqrt import HIGH_BITS, ITERATIONS
from intaglio.execution.constants import NormConstants
from intaglio.onnx.graph import Graph

# Squares of deviations are at most 2^24: the sum of this many is below 2^31.
SQUARES = 64
# Lower bound of -(u * r), and a multiple of every divisor.
OFFSET = 2**24
GUARDED_BITS = 42


def exponential_table() -> NDArray[Any]:
    """Return the integer exponentials of all distances, int32 [4096]."""
    distance = np.arange(softmax.FARTHEST + 1)
    polynomial = (softmax.Q_B - (distance & (softmax.STEPS - 1))) ** 2 + softmax.Q_C
    return (polynomial >> (softmax.SHIFT + (distance >> 8))).astype(np.int32)


class RowArithmetic:
    """Integer arithmetic on int64 numbers, one per row."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def number(self, value: Any) -> str:
        """Return a constant."""
        return self.graph.constant(value, np.int64)

    def do(self, kind: str, x: str, y: str | int) -> str:
        """Apply an arithmetic operator; Div takes non-negative numbers."""
        return self.graph.add(kind, x, self.number(y) if isinstance(y, int) else y)

    def wide(self, x: str) -> str:
        """Cast int32 to int64."""
        from onnx import TensorProto

        return self.graph.add("Cast", x, to=TensorProto.INT64)

    def narrow(self, x: str) -> str:
        """Cast int64 to int32."""
        from onnx import TensorProto

        return self.graph.add("Cast", x, to=TensorProto.INT32)

    def count(self, x: str, first: int, last: int) -> str:
        """Return how many of 2^first ... 2^last are at most x [..., 1]: bits(x) - first, clipped to their number."""
        reached = self.graph.add("GreaterOrEqual", x, self.number([2**bit for bit in range(first, last + 1)]))
        return self.graph.add("ReduceSum", self.wide(reached), self.number([-1]), keepdims=1)

    def power(self, exponent: str) -> str:
        """Return 2^exponent, for exponents in [0, 62]."""
        return self.graph.add("Gather", self.number([2**bit for bit in range(63)]), exponent)


def _root(rows: RowArithmetic, squares: str) -> tuple[str, str]:
    """Return floor(sqrt(v * 2^(2 half))) of 15 bits by Newton's iteration, and half."""
    bits = rows.count(squares, 0, GUARDED_BITS - 1)
    half = rows.do("Sub", rows.do("Div", rows.do("Sub", rows.number(HIGH_BITS + 64), bits), 2), 32)
    double = rows.do("Mul", half, 2)
    up, down = rows.do("Max", double, 0), rows.do("Max", rows.do("Mul", double, -1), 0)
    normal = rows.do("Div", rows.do("Mul", squares, rows.power(up)), rows.power(down))
    x = rows.number(2 ** (HIGH_BITS // 2))
    for _ in range(ITERATIONS):
        x = rows.do("Div", rows.do("Add", x, rows.do("Div", normal, x)), 2)
    above = rows.graph.add("Greater", rows.do("Mul", x, x), normal)
    return rows.do("Sub", x, rows.wide(above)), half


def norm_rows(graph: Graph, x: str, constants: NormConstants) -> str:
    """Add nodes from a sum, int32 [tokens, width], to normalized values on LayerNorm's grid, int32."""
    assert constants.guards is not None
    rows = RowArithmetic(graph)
    width = len(constants.gamma)
    shift_bits = layernorm.SHORT_BITS
    total = rows.wide(graph.add("ReduceSum", x, rows.number([-1]), keepdims=1))
    positive = rows.do("Add", total, width * (sums.BOUND + 1) + width // 2)
    mean = rows.do("Sub", rows.do("Div", positive, width), sums.BOUND + 1)
    y = graph.add("Sub", x, rows.narrow(mean))
    top = rows.wide(graph.add("ReduceMax", graph.add("Abs", y), rows.number([-1]), keepdims=1))
    shift = rows.count(top, shift_bits, shift_bits + layernorm.SHIFTS - 1)
    step = rows.power(shift)
    # half a step, plus 2^13 steps that make all values positive
    added = rows.do("Add", rows.do("Div", step, 2), rows.do("Mul", step, 2 ** (shift_bits + 1)))
    shifted = graph.add("Div", graph.add("Add", y, rows.narrow(added)), rows.narrow(step))
    short = graph.add("Sub", shifted, graph.constant(2 ** (shift_bits + 1), np.int32))
    part = gcd(width, SQUARES)
    parted = graph.add("Reshape", short, rows.number([-1, width // part, part]))
    partial = rows.wide(graph.add("ReduceSumSquare", parted, rows.number([-1]), keepdims=0))
    squares = graph.add("ReduceSum", partial, rows.number([-1]), keepdims=1)
    guard = graph.add("Gather", rows.number(constants.guards.cpu().numpy()), shift)
    root, half = _root(rows, rows.do("Add", squares, guard))
    precision, dividend = layernorm.reciprocal_constants(width)
    reciprocal = rows.do("Div", rows.do("Add", rows.do("Div", root, 2), dividend), root)
    down = rows.do("Sub", rows.number(precision - layernorm.GRID_BITS), half)
    up = rows.do("Max", rows.do("Mul", down, -1), 0)
    step = rows.power(rows.do("Max", down, 0))
    multiplied = graph.add("Mul", short, rows.narrow(rows.do("Mul", reciprocal, rows.power(up))))
    added = rows.narrow(rows.do("Add", rows.do("Div", step, 2), OFFSET))
    shifted = graph.add("Div", graph.add("Add", multiplied, added), rows.narrow(step))
    return graph.add("Sub", shifted, rows.narrow(rows.do("Div", rows.number(OFFSET), step)))


def softmax_rows(graph: Graph, e: str) -> str:
    """Add nodes from exponentials, int32 [..., n], to probabilities in 1/255, int32."""
    rows = RowArithmetic(graph)
    total = rows.wide(graph.add("ReduceSum", e, rows.number([-1]), keepdims=1))
    bits = softmax.EXPONENTIAL_BITS
    step = rows.power(rows.count(total, bits, 23))
    normal = rows.do("Div", total, step)
    dividend = rows.do("Add", rows.do("Div", normal, 2), softmax.LEVELS << softmax.RECIPROCAL_SHIFT)
    reciprocal = rows.do("Div", dividend, normal)
    step = rows.do("Mul", step, 2**softmax.RECIPROCAL_SHIFT)
    half = rows.narrow(rows.do("Div", step, 2))
    rounded = graph.add("Add", graph.add("Mul", e, rows.narrow(reciprocal)), half)
    return graph.add("Div", rounded, rows.narrow(step))
