"""Integer softmax: I-BERT's exponential (Kim et al. 2021, section 3.5 and algorithm 3) on a grid of ln 2 / 256.

exp(x) for x <= 0 is 2^-z exp(p) with z = floor(-x / ln 2), p = x + z ln 2 in (-ln 2, 0], and
exp(p) = 0.3585 (p + 1.353)^2 + 0.344. On this grid z is a shift by 8 and p the low 8 bits, so nothing is calibrated.
"""

from __future__ import annotations

from math import log
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from intaglio.arithmetic.integers import EXACT, Integers

A, B, C = 0.3585, 1.353, 0.344
STEPS = 256
INPUT_SCALE = log(2) / STEPS
Q_B = round(B / INPUT_SCALE)
Q_C = round(C / (A * INPUT_SCALE**2))
# The polynomial has 19 bits; 15 remain, so that a row of 512 sums to less than 2^24.
SHIFT = 4
# So far below the largest score, and beyond, an exponential is zero.
FARTHEST = 16 * STEPS - 1
# So many exponentials sum to less than 2^24, which float32 does exactly.
LONGEST = 2**24 // ((Q_B**2 + Q_C) >> SHIFT)
OUTPUT_LEVELS = 255
RECIPROCAL_BITS = 30


def exp_integers(distance: Tensor) -> Tensor:
    """Return exp(-distance * INPUT_SCALE) as integers of 15 bits, in units of `A * INPUT_SCALE**2 * 2**SHIFT`.

    Args:
        distance: float32 integers in [0, FARTHEST].
    """
    z = (distance * (1 / STEPS)).floor_()
    low = (z * STEPS).sub_(distance)
    polynomial = low.add_(Q_B).square_().add_(Q_C)
    return polynomial.mul_(torch.exp2(z.neg_().sub_(SHIFT))).floor_()


def softmax_integers(scores: Tensor, multiplier: Tensor, masked: Tensor | None) -> Tensor:
    """Return softmax over the last dimension as unsigned 8-bit integers at the scale 1/255.

    Args:
        scores: float32 integers, [..., n], accumulators of q x k.
        multiplier: brings them to `INPUT_SCALE`, no dimension.
        masked: bool, broadcastable to `scores`: positions that do not count (padding).
    """
    if masked is not None:
        scores = scores.masked_fill(masked, -EXACT)
    # The difference is exact up to 2^24, and rounded to float32 beyond, as `rescale` would round it.
    distance = (scores.amax(-1, keepdim=True) - scores).mul_(multiplier).round_().clamp_(max=FARTHEST)
    e = exp_integers(distance)
    if masked is not None:
        e = e.masked_fill_(masked, 0)
    # One division a row: floor(255 * 2^30 / sum), of at most 24 bits since the largest exponential alone is > 2^14.
    width = torch.float32 if e.shape[-1] <= LONGEST else torch.float64
    total = e.sum(-1, keepdim=True, dtype=width).clamp_min_(1).double()
    reciprocal = (OUTPUT_LEVELS * 2.0**RECIPROCAL_BITS / total).floor_().float().mul_(2.0**-RECIPROCAL_BITS)
    return e.mul_(reciprocal).round_().clamp_(max=OUTPUT_LEVELS)


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, multiplier: Tensor, masked: Tensor | None) -> Tensor:
        p = softmax_integers(scores, multiplier, masked)
        ctx.save_for_backward(p.to(torch.uint8), multiplier)
        return p

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        integers, multiplier = ctx.saved_tensors
        p = integers * (1 / OUTPUT_LEVELS)
        slope = torch.ops.aten._softmax_backward_data(grad, p, -1, torch.float32)
        return slope.mul_(multiplier * (INPUT_SCALE * OUTPUT_LEVELS)), None, None


def softmax(scores: Integers, factor: float, masked: Tensor | None) -> Integers:
    """Return softmax of `scores * factor` over the last dimension, 8 bits unsigned, scale 1/255.

    The gradient is softmax's own at the quantized probabilities.
    """
    multiplier = scores.scale * (factor / INPUT_SCALE)
    scale = torch.full_like(scores.scale, 1 / OUTPUT_LEVELS)
    if torch.is_grad_enabled() and scores.values.requires_grad:
        return Integers(_Softmax.apply(scores.values, multiplier, masked), scale)  # type: ignore[no-untyped-call]
    return Integers(softmax_integers(scores.values, multiplier, masked), scale)
