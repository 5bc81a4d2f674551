"""Sums of values of different scales, of 22 bits: scales are chosen so that nothing has to be rounded."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from intaglio.arithmetic.integers import SMALLEST, Integers, floor_log2, hardtanh_backward, largest, rescale
from intaglio.arithmetic.linear import Term
from intaglio.arithmetic.pieces import fill, in_pieces, rows_of

BITS = 22
BOUND = largest(BITS)
# A shortened accumulator: times a multiplier of at most 1,023 it stays within 2^24.
TERM_BOUND = 2**14 - 1
LARGEST_SHIFT = 20
# What the 8-bit scale of a projection is shifted by to that of its sum.
PROJECTION_SHIFT = 13
TABLE_BOUND = largest(8)


def residual_shift(wide: Tensor, wanted: Tensor) -> Tensor:
    """Return by how many bits LayerNorm's result is shifted for a residual sum, no dimension.

    Args:
        wide: scale of LayerNorm's result.
        wanted: the scale that the sum must have at least.
    """
    ratio = wanted / wide
    floor = floor_log2(ratio)
    return torch.where(torch.exp2(floor) < ratio, floor + 1, floor).clamp(0, LARGEST_SHIFT)


class _Residual(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, wide: Tensor | None, skip: Tensor | None, values: Tensor, term: Term) -> Tensor:
        inplace = term.spent and ctx.needs_input_grad[2]
        down = torch.exp2(-term.shift)
        wide_down = None if skip is None else torch.exp2(-skip)
        slopes = term.multiplier * down

        def of_rows(values: Tensor, wide: Tensor | None, kept: Tensor | None) -> tuple[Tensor, Tensor]:
            short = (values * down).floor_()
            slope = hardtanh_backward(slopes.expand_as(short), short, -TERM_BOUND - 0.5, TERM_BOUND + 0.5)
            total = short.clamp_(-TERM_BOUND, TERM_BOUND).mul_(term.multiplier)
            if kept is not None:
                slope.mul_(kept)
                total.mul_(kept).round_()
            if wide is not None and wide_down is not None:
                total.add_((wide * wide_down).floor_())
            return total.clamp_(-BOUND, BOUND), slope

        if in_pieces(values):
            total, slope = values if inplace else torch.empty_like(values), torch.empty_like(values)
            parts = (None if x is None else x.reshape(-1, x.shape[-1]) for x in (values, wide, term.kept))
            fill([rows_of(total), rows_of(slope)], of_rows, *parts)
            if inplace:
                ctx.mark_dirty(values)
        else:
            total, slope = of_rows(values, wide, term.kept)
        ctx.save_for_backward(total, slope, wide_down)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, Tensor, None]:
        total, slope, wide_down = ctx.saved_tensors

        def of_rows(grad: Tensor, total: Tensor, slope: Tensor) -> tuple[Tensor, ...]:
            inside = hardtanh_backward(grad, total, -BOUND, BOUND)
            return (inside * slope,) if wide_down is None else (inside * slope, inside.mul_(wide_down))

        if in_pieces(grad):
            results = tuple(torch.empty_like(slope) for _ in range(1 if wide_down is None else 2))
            fill(
                [rows_of(x) for x in results], of_rows, grad.reshape(-1, grad.shape[-1]), rows_of(total), rows_of(slope)
            )
        else:
            results = of_rows(grad, total, slope)
        return None if wide_down is None else results[1], None, results[0], None


def residual(wide: Integers, skip: Tensor, term: Term) -> Integers:
    """Add a linear layer's result to what LayerNorm gave.

    Args:
        wide: LayerNorm's result, one scale.
        skip: `residual_shift` of its scale.
        term: accumulators for a sum of the scale `wide.scale * 2^skip`.

    Returns:
        Integers of 22 bits of that scale; the gradient is straight-through, zero where something was clipped.
    """
    return Integers(_Residual.apply(wide.values, skip, term.values, term), term.scale)  # type: ignore[no-untyped-call]


def alone(term: Term) -> Integers:
    """Return a linear layer's result as integers of 22 bits of one scale."""
    return Integers(_Residual.apply(None, None, term.values, term), term.scale)  # type: ignore[no-untyped-call]


def table_scales(ranges: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Return the scale of a sum of embeddings, and by which integers the rows of each table are multiplied in it.

    Args:
        ranges: largest magnitude of each table, no dimension.
    """
    together = torch.stack(ranges).sum().clamp_min(SMALLEST)
    scale = together / (BOUND + 1 - 512)
    return scale, [(range_ / (TABLE_BOUND * scale)).ceil().clamp_min(1) for range_ in ranges]


def quantize_rows(rows: Tensor, scale: Tensor) -> Tensor:
    """Return rows of an embedding table, real, [..., width], as 8-bit integers of this scale."""
    return rescale(rows, 1 / scale, -TABLE_BOUND, TABLE_BOUND)
