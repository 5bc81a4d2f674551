"""Integer softmax: I-BERT's exponential (Kim et al. 2021, section 3.5 and algorithm 3) on a grid of ln 2 / 256.

exp(x) for x <= 0 is 2^-z exp(p) with z = floor(-x / ln 2), p = x + z ln 2 in (-ln 2, 0], and
exp(p) = 0.3585 (p + 1.353)^2 + 0.344. On this grid z is a shift by 8 and p the low 8 bits, so nothing is calibrated.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from intaglio.arithmetic.integers import EXACT, Integers, floor_log2
from intaglio.arithmetic.pieces import fill, fill_rows, like, look_up

A, B, C = 0.3585, 1.353, 0.344
STEPS = 256
INPUT_SCALE = log(2) / STEPS
Q_B = round(B / INPUT_SCALE)
Q_C = round(C / (A * INPUT_SCALE**2))
# The polynomial has 19 bits, of which 13 remain, so that a row of 2,819 sums to less than 2^24.
SHIFT = 6
EXPONENTIAL_BITS = 13
# At this distance from the largest score, and beyond, an exponential is zero.
FARTHEST = 16 * STEPS - 1
LONGEST = EXACT // ((Q_B**2 + Q_C) >> SHIFT)
LEVELS = 255
RECIPROCAL_SHIFT = 15
# Bits of a shortened distance, and bound of its multiplier.
DISTANCE_BITS, MULTIPLIER_BITS = 13, 11
# The score of padding: so low that its exponential is zero even at the smallest scale.
MASKED = -(2**30)
LARGEST_DOWN = 30 - DISTANCE_BITS
# Smallest step of scores in units of the grid; at smaller scales all scores count as equal.
SMALLEST_STEP = 2.0**-18


@dataclass(frozen=True)
class DistanceScale:
    """Constants that map a distance of scores to the grid: `((min(d, top * 2^down) >> down) * multiplier) >> shift`.

    All are float32 integers without dimension.
    """

    down: Tensor
    top: Tensor
    multiplier: Tensor
    shift: Tensor


def distance_scale(scale: Tensor) -> DistanceScale:
    """Return the constants for scores of this scale (the product's, times 1 / sqrt(head size)), no dimension."""
    mu = (scale / INPUT_SCALE).clamp_min(SMALLEST_STEP)
    steps = (FARTHEST + 1) / mu
    floor = floor_log2(steps)
    bits = torch.where(torch.exp2(floor) < steps, floor + 1, floor)
    down = (bits - DISTANCE_BITS).clamp(0, LARGEST_DOWN)
    mu = mu * torch.exp2(down)
    shift = (MULTIPLIER_BITS - 1 - floor_log2(mu)).clamp(0, MULTIPLIER_BITS)
    multiplier = (mu * torch.exp2(shift)).round().clamp_max(FARTHEST + 1)
    top = ((FARTHEST + 1) * torch.exp2(shift) / multiplier.clamp_min(1)).ceil()
    return DistanceScale(down, torch.minimum(top, -MASKED * torch.exp2(-down)), multiplier, shift)


def exp_integers(distance: Tensor) -> Tensor:
    """Return exp(-distance * INPUT_SCALE) as integers of 13 bits, in units of `A * INPUT_SCALE**2 * 2**SHIFT`.

    Args:
        distance: float32 integers in [0, FARTHEST].
    """
    z = (distance * (1 / STEPS)).floor_()
    low = (z * STEPS).sub_(distance)
    polynomial = low.add_(Q_B).square_().add_(Q_C)
    return polynomial.mul_(torch.exp2(z.neg_().sub_(SHIFT))).floor_()


def softmax_integers(scores: Tensor, scale: DistanceScale, masked: Tensor | None, inplace: bool = False) -> Tensor:
    """Return softmax over the last dimension as unsigned 8-bit integers at the scale 1/255.

    Args:
        scores: float32 integers, [..., n], accumulators of q x k.
        scale: maps distances of scores to the grid.
        masked: bool, broadcastable to `scores`: positions to leave out (padding).
        inplace: whether the result may overwrite the scores.
    """
    down, step = torch.exp2(-scale.down), scale.multiplier * torch.exp2(-scale.shift)
    table = exp_integers(torch.arange(FARTHEST + 1, device=scores.device, dtype=torch.float32))

    result = like(scores, inplace)

    def of_rows(result: Tensor, scores: Tensor, masked: Tensor | None) -> None:
        if masked is not None:
            scores = scores.masked_fill(masked, MASKED)
        torch.sub(scores.amax(-1, keepdim=True), scores, out=result).mul_(down).floor_().clamp_(max=scale.top)
        # the conversion to integers rounds non-negative numbers down
        distance = result.mul_(step).clamp_(max=FARTHEST).int()
        look_up(table, distance, result)
        _divide(result)

    fill(of_rows, result, scores, None if masked is None else masked.expand_as(scores))
    return result


def _divide(e: Tensor) -> None:
    """Divide exponentials by the sum of their row, in place."""
    total = e.sum(-1, keepdim=True)
    shift = (floor_log2(total) - (EXPONENTIAL_BITS - 1)).clamp_min_(0)
    normal = (total * torch.exp2(-shift)).floor_().double()
    reciprocal = ((LEVELS * 2.0**RECIPROCAL_SHIFT + (normal / 2).floor_()) / normal).floor_().float()
    e.mul_(reciprocal.mul_(torch.exp2(-RECIPROCAL_SHIFT - shift))).add_(0.5).floor_()


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, scores: Tensor, scale: DistanceScale, slope: Tensor, masked: Tensor | None, inplace: bool
    ) -> Tensor:
        p = softmax_integers(scores, scale, masked, inplace and ctx.needs_input_grad[0])
        if p is scores:
            ctx.mark_dirty(scores)
        ctx.save_for_backward(p, slope)
        return p

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        p, slope = ctx.saved_tensors

        result = like(grad)

        def of_rows(result: Tensor, grad: Tensor, p: Tensor) -> None:
            # On integers of scale 1/255 torch's kernel would give 255 times the gradient, and 255 times more in its
            # sum: so probabilities have to be real.
            torch.ops.aten._softmax_backward_data.out(grad, p * (1 / LEVELS), -1, torch.float32, grad_input=result)
            result.mul_(slope)

        fill_rows(of_rows, result, grad, p)
        return result, None, None, None, None


def softmax(scores: Integers, factor: float, masked: Tensor | None, inplace: bool = False) -> Integers:
    """Return softmax of `scores * factor` over the last dimension, 8 bits unsigned, scale 1/255.

    The gradient is softmax's own at the quantized probabilities. With `inplace`, the result may overwrite the scores
    while gradients are recorded.
    """
    step = scores.scale * factor
    arguments = (scores.values, distance_scale(step), step * LEVELS, masked, inplace)
    values: Tensor = _Softmax.apply(*arguments)  # type: ignore[no-untyped-call]
    return Integers(values, torch.full_like(scores.scale, 1 / LEVELS))
