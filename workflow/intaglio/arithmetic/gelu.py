"""Integer GELU: I-BERT's polynomial for erf (Kim et al. 2021, section 3.4 and algorithm 2), from 8 bits to 8 bits.

GELU(x) = x (1 + erf(x / sqrt 2)) / 2 with erf(x) = sgn(x) [a (min(|x|, -b) + b)^2 + 1], a = -0.2888, b = -1.769.

A function of 8 bits is a table of 256 entries. The polynomial, on a fixed grid of 1/256, computes the entries. The
input has a zero point, since the polynomial is zero below b sqrt 2 = -2.502.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from intaglio.arithmetic.integers import HIGH, LOW, Integers, largest, scale_of
from intaglio.arithmetic.pieces import fill_rows, like, look_up

A, B = -0.2888, -1.769
GRID = 2.0**-8
GRID_BOUND = largest(16)
# In units of the grid: -b sqrt 2, and 1 in squared units divided by -a (erf takes x / sqrt 2).
Q_B = round(-B * sqrt(2) / GRID)
Q_ONE = round(-2 / A / GRID**2)
# 1 + erf has 20 bits. The lowest bits are dropped, so that its product with the input fits 31 bits.
SHIFT = 5
OUTPUT_SCALE = GRID * 2**SHIFT / (2 * Q_ONE)
# Below this input the polynomial is zero (with a small margin).
LOWEST = 2.51
CODES = 256


def gelu_integers(h: Tensor) -> Tensor:
    """Return GELU of 16-bit integers on `GRID` as integers of 31 bits at `OUTPUT_SCALE`, rounded to float32."""
    squared = h.abs().clamp_(max=Q_B).sub_(Q_B).square_()
    one_plus_erf = squared.neg_().add_(Q_ONE).mul_(h.sign()).add_(Q_ONE)
    result: Tensor = one_plus_erf.mul_(2.0**-SHIFT).floor_().mul_(h)
    return result


@dataclass(frozen=True)
class GeluTable:
    """GELU of 8 bits.

    Attributes:
        input_scale: of `code - zero_point`, no dimension.
        zero_point: an integer in [0, 254], no dimension.
        entries: float32 integers [256], the result for every code.
        slopes: float32 [256], GELU's derivative for every code; zero at both ends, where the input may be clipped, and
            wherever the result is at a bound.
        scale: of the results, no dimension.
    """

    input_scale: Tensor
    zero_point: Tensor
    entries: Tensor
    slopes: Tensor
    scale: Tensor


def gelu_table(range_: Tensor) -> GeluTable:
    """Return the table for results of magnitude at most `range_` (no dimension)."""
    scale = scale_of(range_, 8)
    input_scale = (range_ + LOWEST) / (CODES - 1)
    zero_point = (LOWEST / input_scale).ceil().clamp(max=CODES - 2)
    codes = torch.arange(CODES, device=range_.device, dtype=torch.float32)
    h = ((codes - zero_point) * (input_scale / GRID)).round_().clamp_(-GRID_BOUND, GRID_BOUND)
    entries = (gelu_integers(h) * (OUTPUT_SCALE / scale)).round_().clamp_(LOW, HIGH)
    slopes = torch.ops.aten.gelu_backward(torch.ones_like(h), h * GRID)
    ends = (codes == 0) | (codes == CODES - 1) | (entries == LOW) | (entries == HIGH)
    return GeluTable(input_scale, zero_point, entries, slopes.masked_fill_(ends, 0), scale)


class _Gelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, multiplier: Tensor, table: GeluTable, inplace: bool) -> Tensor:
        needed = ctx.needs_input_grad[0]
        result, slope = like(x, inplace and needed), like(x) if needed else None
        slopes = table.slopes * (table.input_scale / table.scale)

        def of_rows(result: Tensor, slope: Tensor | None, x: Tensor) -> None:
            # accumulators become codes as in `rescale`
            codes = torch.mul(x, multiplier, out=result).round_().add_(table.zero_point).clamp_(0, CODES - 1).int()
            look_up(table.entries, codes, result)
            if slope is not None:
                look_up(slopes, codes, slope).mul_(multiplier)

        fill_rows(of_rows, result, slope, x)
        if result is x:
            ctx.mark_dirty(x)
        ctx.save_for_backward(slope)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (slope,) = ctx.saved_tensors
        return grad * slope, None, None, None


def gelu(x: Integers, table: GeluTable, inplace: bool = False) -> Integers:
    """Return GELU of accumulators as 8-bit integers.

    The scale of `x` may be one per channel. The gradient is GELU's own, zero where input or result are at a bound. With
    `inplace`, the result may overwrite `x` while gradients are recorded.
    """
    values: Tensor = _Gelu.apply(x.values, x.scale / table.input_scale, table, inplace)  # type: ignore[no-untyped-call]
    return Integers(values, table.scale)
