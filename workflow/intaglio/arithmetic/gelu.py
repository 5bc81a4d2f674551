"""Integer GELU: I-BERT's polynomial for erf (Kim et al. 2021, section 3.4 and algorithm 2), on 16-bit input.

GELU(x) = x (1 + erf(x / sqrt 2)) / 2 with erf(x) = sgn(x) [a (min(|x|, -b) + b)^2 + 1], a = -0.2888, b = -1.769.

The input stands on a fixed grid of 1/256, so every constant below is an integer known beforehand, and 16 bits reach
from -128 to 128: there is nothing to calibrate.
"""

from __future__ import annotations

from math import sqrt
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from intaglio.arithmetic.integers import Integers, largest, rescale

A, B = -0.2888, -1.769
INPUT_SCALE = 2.0**-8
INPUT_BITS = 16
# The argument of erf is x / sqrt 2; in units of the input, b is this far out and 1 is that many squares of the unit.
Q_B = round(-B * sqrt(2) / INPUT_SCALE)
Q_ONE = round(-2 / A / INPUT_SCALE**2)
# 1 + erf has 20 bits: these low ones go, so that its product with the input stays within 31.
SHIFT = 5
OUTPUT_SCALE = INPUT_SCALE * 2**SHIFT / (2 * Q_ONE)
# With an output scale up to here, what the 16 bits of the input clip is clipped in the output too, gradient included.
LARGEST_SCALE = 1.0


def gelu_integers(h: Tensor) -> Tensor:
    """Return GELU of 16-bit integers at `INPUT_SCALE` as integers of 31 bits at `OUTPUT_SCALE`.

    The last product is rounded to float32, as `rescale` would round it.
    """
    squared = h.abs().clamp_(max=Q_B).sub_(Q_B).square_()
    one_plus_erf = squared.neg_().add_(Q_ONE).mul_(h.sign()).add_(Q_ONE)
    result: Tensor = one_plus_erf.mul_(2.0**-SHIFT).floor_().mul_(h)
    return result


def _forward(x: Tensor, x_scale: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    bound = largest(INPUT_BITS)
    h = (x * (x_scale / INPUT_SCALE)).round_().clamp_(-bound, bound)
    rounded = gelu_integers(h).mul_(OUTPUT_SCALE / scale).round_()
    clipped = rounded.clamp(-largest(8), largest(8))
    return clipped, rounded, h


class _Gelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, x_scale: Tensor, scale: Tensor) -> Tensor:
        clipped, rounded, h = _forward(x, x_scale, scale)
        ctx.save_for_backward(h.to(torch.int16), clipped == rounded, x_scale, scale)
        return clipped

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        h, inside, x_scale, scale = ctx.saved_tensors
        # What the polynomial approximates has a derivative with a kernel of its own, one pass over memory.
        slope = torch.ops.aten.gelu_backward(grad * inside, h * INPUT_SCALE)
        return slope.mul_(x_scale / scale), None, None


def gelu(x: Integers, scale: Tensor) -> Integers:
    """Return GELU of accumulators as 8-bit integers at `scale`.

    Args:
        x: accumulators, any shape; their scale may be one for each channel.
        scale: of the result, no dimension; beyond `LARGEST_SCALE` (nothing reaches so far) that is taken.

    The gradient is GELU's own, zero where the result was clipped.
    """
    scale = scale.clamp_max(LARGEST_SCALE)
    if torch.is_grad_enabled() and x.values.requires_grad:
        return Integers(_Gelu.apply(x.values, x.scale, scale), scale)  # type: ignore[no-untyped-call]
    return Integers(_forward(x.values, x.scale, scale)[0], scale)


def gelu_real(x: Integers) -> Tensor:
    """Return real values of the integer GELU before it is brought to 8 bits: what calibration looks at."""
    h = rescale(x.values, x.scale / INPUT_SCALE, INPUT_BITS)
    values: Tensor = gelu_integers(h) * OUTPUT_SCALE
    return values
