"""Integer LayerNorm: exact sums, Newton's square root, one division a row."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt as isqrt_of
from math import sqrt
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from intaglio.arithmetic.integers import SMALLEST, Integers, largest, magnitude, rescale
from intaglio.arithmetic.sqrt import isqrt, normalize

# The normalized value stands on a grid of 2^-9 in 15 bits, gamma in 10: product and beta stay below 2^24.
NORMALIZED_SHIFT = 9
NORMALIZED_BITS = 15
GAMMA_BITS = 10
BETA_BOUND = 2**22


def _shift(y: Tensor, guard: Tensor) -> Tensor:
    """Return by how many bits a row's deviations are shifted before they are squared, [..., 1] int32.

    By as few as keep the sum of squares in 31 bits, and the guard (which shifts twice as far) in 30.
    """
    room = isqrt_of((2**31 - 1) // y.shape[-1]).bit_length() - 1
    needed = torch.frexp(magnitude(y, -1)).exponent - room
    return torch.maximum(needed, (torch.frexp(guard).exponent - 29) >> 1).clamp_min_(0)


def row_multiplier(y: Tensor, epsilon: Tensor) -> Tensor:
    """Return what brings deviations from the mean to the grid of normalized values, a number for each row.

    Args:
        y: float32 integers, [..., width]: deviations from the mean.
        epsilon: LayerNorm's epsilon, in squares of the unit of `y`; no dimension, float64.

    Returns:
        [..., 1] float32: an integer of 17 bits times a power of two.
    """
    width = y.shape[-1]
    guard = epsilon * width
    shift = _shift(y, guard)
    small = torch.exp2(-shift).mul(y).add_(0.5).floor_()
    squares = small.square_().sum(-1, keepdim=True, dtype=torch.float64)
    guard = (guard * torch.exp2(-2.0 * shift)).round_().clamp_min_(1)
    normal, half = normalize((squares + guard).clamp_max_(2.0**31 - 1).long())
    # sigma = root * 2^(shift - half) / sqrt(width)
    precision = 30 - (isqrt_of(width).bit_length())
    reciprocal = round(sqrt(width) * 2**precision) // isqrt(normal)
    return torch.ldexp(reciprocal.float(), (half - (precision - NORMALIZED_SHIFT + shift)).int())


def _forward(x: Tensor, epsilon: Tensor, gamma: Tensor, beta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    width = x.shape[-1]
    total = x.sum(-1, keepdim=True, dtype=torch.float64)
    y = x - ((total + width // 2) / width).floor_().float()
    multiplier = row_multiplier(y, epsilon)
    bound = largest(NORMALIZED_BITS)
    normalized = (y * multiplier).round_().clamp_(-bound, bound)
    return normalized.mul_(gamma).add_(beta), y, multiplier


def quantize_affine(gamma: Tensor, beta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Quantize gamma to 10 bits and beta to the scale of their product with the normalized value.

    Returns:
        Gamma's integers, beta's integers (at most 2^22), and the scale of the result, no dimension.
    """
    grid = 2.0**-NORMALIZED_SHIFT
    range_ = torch.maximum(gamma.abs().amax() / largest(GAMMA_BITS), beta.abs().amax() / (grid * BETA_BOUND))
    gamma_scale = range_.clamp_min(SMALLEST)
    scale = gamma_scale * grid
    return (gamma / gamma_scale).round(), (beta / scale).round().clamp(-BETA_BOUND, BETA_BOUND), scale


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, epsilon: Tensor) -> tuple[Tensor, Tensor]:
        gamma_integers, beta_integers, scale = quantize_affine(gamma, beta)
        z, y, multiplier = _forward(x, epsilon, gamma_integers, beta_integers)
        ctx.save_for_backward(y, multiplier, gamma_integers, beta_integers, scale)
        ctx.mark_non_differentiable(scale)
        return z, scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        y, multiplier, gamma, beta, scale = ctx.saved_tensors
        grid = 2.0**-NORMALIZED_SHIFT
        inverse_sigma = multiplier * grid
        # torch's own kernel on the integers: z = gamma / grid * (y / sigma) + beta, and y has mean zero
        grad_x, grad_gamma, grad_beta = torch.ops.aten.native_layer_norm_backward(
            grad.contiguous(),
            y,
            [y.shape[-1]],
            torch.zeros_like(inverse_sigma),
            inverse_sigma,
            gamma / grid,
            beta,
            [True, True, True],
        )
        # grad_gamma is in units of z; a real gamma of 1 is 1 / scale of them at a normalized value of 1
        return grad_x, grad_gamma / scale, grad_beta / scale, None


def layer_norm(x: Integers, gamma: Tensor, beta: Tensor, epsilon: float) -> Integers:
    """Return LayerNorm over the last dimension of integers of at most 22 bits.

    Args:
        x: integers [..., width] with one scale.
        gamma, beta: real, [width].
        epsilon: added to the variance.

    Returns:
        Integers of magnitude below 2^24 with one scale. A constant row gives beta.
    """
    in_units = epsilon / x.scale.double().square()
    if torch.is_grad_enabled() and any(t.requires_grad for t in (x.values, gamma, beta)):
        return Integers(*_LayerNorm.apply(x.values, gamma, beta, in_units))  # type: ignore[no-untyped-call]
    gamma_integers, beta_integers, scale = quantize_affine(gamma, beta)
    return Integers(_forward(x.values, in_units, gamma_integers, beta_integers)[0], scale)


def add(parts: Sequence[Integers], scale: Tensor, bits: int) -> Integers:
    """Add what may have different scales: the residual sum; each part and the sum are clipped to so many bits."""
    bound = largest(bits)
    first, *others = (rescale(part.values, part.scale / scale, bits) for part in parts)
    for other in others:
        first = (first + other).clamp(-bound, bound)
    return Integers(first, scale)
