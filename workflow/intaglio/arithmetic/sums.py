"""Sums of 22 bits of values with different scales, chosen so that the sum needs no rounding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from intaglio.arithmetic.integers import SMALLEST, Integers, clipped_range, floor_log2, largest, pass_inside, rescale
from intaglio.arithmetic.linear import Term
from intaglio.arithmetic.pieces import fill_rows, like

BITS = 22
BOUND = largest(BITS)
# Bound of a shortened accumulator: times a multiplier of at most 1,023 it stays within 2^24.
TERM_BOUND = 2**14 - 1
LARGEST_SHIFT = 20
# Shift from the 8-bit scale of a projection to the scale of its sum.
PROJECTION_SHIFT = 13


def residual_shift(wide: Tensor, wanted: Tensor) -> Tensor:
    """Return the number of bits by which LayerNorm's result is shifted for a residual sum, no dimension.

    Args:
        wide: scale of LayerNorm's result.
        wanted: lower bound of the sum's scale.
    """
    ratio = wanted / wide
    floor = floor_log2(ratio)
    return torch.where(torch.exp2(floor) < ratio, floor + 1, floor).clamp(0, LARGEST_SHIFT)


class _Residual(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, wide: Tensor | None, skip: Tensor | None, values: Tensor, term: Term) -> Tensor:
        down = torch.exp2(-term.shift)
        wide_down = None if skip is None else torch.exp2(-skip)
        slopes = term.multiplier * down

        def of_rows(
            total: Tensor, slope: Tensor | None, values: Tensor, wide: Tensor | None, kept: Tensor | None
        ) -> None:
            torch.mul(values, down, out=total).floor_()
            if slope is not None:
                # values beyond the bound are clipped, those at the bound are not
                pass_inside(slopes.expand_as(total), total, -TERM_BOUND - 0.5, TERM_BOUND + 0.5, slope)
            total.clamp_(-TERM_BOUND, TERM_BOUND).mul_(term.multiplier)
            if kept is not None:
                total.mul_(kept).round_()
                if slope is not None:
                    slope.mul_(kept)
            if wide is not None and wide_down is not None:
                total.add_((wide * wide_down).floor_())
            total.clamp_(-BOUND, BOUND)

        needed = ctx.needs_input_grad[2]
        total, slope = like(values, needed and term.spent), like(values) if needed else None
        fill_rows(of_rows, total, slope, values, wide, term.kept)
        if total is values:
            ctx.mark_dirty(values)
        ctx.save_for_backward(total, slope, wide_down)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, Tensor | None, None]:
        total, slope, wide_down = ctx.saved_tensors
        grad_wide, grad_term = like(grad), None if slope is None else like(grad)

        def of_rows(inside: Tensor, product: Tensor | None, grad: Tensor, total: Tensor, slope: Tensor | None) -> None:
            pass_inside(grad, total, -BOUND, BOUND, inside)
            if product is not None and slope is not None:
                torch.mul(inside, slope, out=product)
            if wide_down is not None:
                inside.mul_(wide_down)

        fill_rows(of_rows, grad_wide, grad_term, grad, total, slope)
        return grad_wide if ctx.needs_input_grad[0] else None, None, grad_term, None


def residual(wide: Integers, skip: Tensor, term: Term) -> Integers:
    """Add a linear layer's result to the result of a LayerNorm.

    Args:
        wide: LayerNorm's result, one scale.
        skip: `residual_shift` of its scale.
        term: accumulators for a sum of the scale `wide.scale * 2^skip`.

    Returns:
        Integers of 22 bits at that scale; the gradient is straight-through, zero where a value was clipped.
    """
    return Integers(_Residual.apply(wide.values, skip, term.values, term), term.scale)  # type: ignore[no-untyped-call]


def alone(term: Term) -> Integers:
    """Return a linear layer's result as integers of 22 bits with one scale."""
    return Integers(_Residual.apply(None, None, term.values, term), term.scale)  # type: ignore[no-untyped-call]


def table_scales(ranges: list[Tensor], bits: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
    """Return the scale of a sum of embeddings, and the largest integer multiplier of each table's rows in it.

    Args:
        ranges: largest magnitude of each table, no dimension.
        bits: of each table, 8 or 4.
    """
    together = torch.stack(ranges).sum().clamp_min(SMALLEST)
    scale = together / (BOUND + 1 - 512)
    return scale, [(r / (largest(b) * scale)).ceil().clamp_min(1) for r, b in zip(ranges, bits, strict=True)]


def row_multipliers(rows: Tensor, scale: Tensor, multiplier: Tensor, bits: int) -> Tensor:
    """Return the integer multipliers of rows of an embedding table in a sum, no dimension or [..., 1].

    Rows of 8 bits have the table's. Those of 4 bits have one each, so that small ones keep their precision.

    Args:
        rows: real, [..., width].
        scale: of the sum, no dimension.
        multiplier: the table's, no dimension.
        bits: of the rows, 8 or 4.
    """
    if bits == 8:
        return multiplier
    needed = (clipped_range(rows.detach(), -1, bits) / (largest(bits) * scale)).ceil()
    return torch.minimum(needed.clamp_min(1), multiplier)


def quantize_rows(rows: Tensor, scale: Tensor, bits: int = 8) -> Tensor:
    """Quantize rows of an embedding table, real, [..., width], to integers of `bits` bits.

    Args:
        rows: real, [..., width].
        scale: of the integers, no dimension; or [..., 1] of 4 bits.
        bits: 8 or 4.
    """
    bound = largest(bits)
    if bits == 8:
        return rescale(rows, 1 / scale, -bound, bound)
    # Clipped before they are rounded: so the gradient is zero where they are clipped, and not at all that become 7.
    inside = (rows * (1 / scale)).clamp(-bound, bound)
    return rescale(inside, inside.new_ones(()), -bound - 1, bound + 1)
