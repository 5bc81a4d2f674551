"""Sums of values of different scales, of 22 bits: scales are chosen so that nothing has to be rounded."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from intaglio.arithmetic.integers import SMALLEST, Integers, floor_log2, largest, rescale
from intaglio.arithmetic.linear import Term

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
    def forward(
        ctx: Any, wide: Tensor | None, skip: Tensor | None, term: Tensor, multiplier: Tensor, shift: Tensor, kept: Any
    ) -> Tensor:
        down = torch.exp2(-shift)
        short = (term * down).floor_()
        clipped = short.clamp(-TERM_BOUND, TERM_BOUND)
        inside = clipped == short
        total = clipped.mul_(multiplier)
        if kept is not None:
            total.mul_(kept).round_()
        if wide is not None and skip is not None:
            total.add_((wide * torch.exp2(-skip)).floor_())
        total.clamp_(-BOUND, BOUND)
        ctx.save_for_backward(total, inside, skip, multiplier * down, kept)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, Tensor, None, None, None]:
        total, inside, skip, slope, kept = ctx.saved_tensors
        grad = torch.ops.aten.hardtanh_backward(grad, total, -BOUND, BOUND)
        grad_wide = None if skip is None else grad * torch.exp2(-skip)
        grad_term = (grad * inside).mul_(slope)
        return grad_wide, None, grad_term if kept is None else grad_term.mul_(kept), None, None, None


def residual(wide: Integers, skip: Tensor, term: Term) -> Integers:
    """Add a linear layer's result to what LayerNorm gave.

    Args:
        wide: LayerNorm's result, one scale.
        skip: `residual_shift` of its scale.
        term: accumulators for a sum of the scale `wide.scale * 2^skip`.

    Returns:
        Integers of 22 bits of that scale; the gradient is straight-through, zero where something was clipped.
    """
    arguments = (wide.values, skip, term.values, term.multiplier, term.shift, term.kept)
    return Integers(_Residual.apply(*arguments), term.scale)  # type: ignore[no-untyped-call]


def alone(term: Term) -> Integers:
    """Return a linear layer's result as integers of 22 bits of one scale."""
    arguments = (None, None, term.values, term.multiplier, term.shift, term.kept)
    return Integers(_Residual.apply(*arguments), term.scale)  # type: ignore[no-untyped-call]


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
