"""Integer LayerNorm: exact sums, Newton's square root, one division a row."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt as isqrt_of
from math import sqrt
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from intaglio.arithmetic.integers import Integers, largest, rescale
from intaglio.arithmetic.sqrt import isqrt, normalize

# The normalized value stands on a grid of 2^-9 in 15 bits, gamma in 10: product and beta stay below 2^24.
NORMALIZED_SHIFT = 9
NORMALIZED_BITS = 15
GAMMA_BITS = 10
BETA_BOUND = 2**22


def _variance_shift(bits: int, width: int) -> tuple[int, int]:
    """Return how far deviations are shifted before they are squared, and the bound that keeps the sum in 31 bits."""
    bound = isqrt_of((2**31 - 1) // width)
    return max(0, (largest(bits) // bound).bit_length()), bound


def row_multiplier(y: Tensor, bits: int, epsilon: Tensor) -> Tensor:
    """Return what brings deviations from the mean to the grid of normalized values, a number for each row.

    Args:
        y: float32 integers, [..., width]: deviations from the mean.
        bits: width of the integers they were taken from.
        epsilon: LayerNorm's epsilon, in squares of the unit of `y`; no dimension, float64.

    Returns:
        [..., 1] float32: an integer of 17 bits times a power of two.
    """
    width = y.shape[-1]
    shift, bound = _variance_shift(bits, width)
    small = (y + 2.0 ** (shift - 1)).mul_(2.0**-shift).floor_() if shift else y
    small = small.clamp(-bound, bound)
    squares = small.square_().sum(-1, keepdim=True, dtype=torch.float64)
    guard = (epsilon * width * 4.0**-shift).round().clamp(1, 2**20)
    normal, half = normalize((squares + guard).clamp_max_(2.0**31 - 1).long())
    # sigma = root * 2^(shift - half) / sqrt(width)
    precision = 30 - (isqrt_of(width).bit_length())
    reciprocal = round(sqrt(width) * 2**precision) // isqrt(normal)
    return torch.ldexp(reciprocal.float(), (half - (precision - NORMALIZED_SHIFT + shift)).int())


def _forward(x: Tensor, bits: int, epsilon: Tensor, gamma: Tensor, beta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    width = x.shape[-1]
    total = x.sum(-1, keepdim=True, dtype=torch.float64)
    y = x - ((total + width // 2) / width).floor_().float()
    multiplier = row_multiplier(y, bits, epsilon)
    bound = largest(NORMALIZED_BITS)
    normalized = (y * multiplier).round_().clamp_(-bound, bound)
    return normalized.mul_(gamma).add_(beta), y, multiplier


def quantize_affine(gamma: Tensor, beta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Quantize gamma to 10 bits and beta to the scale of their product with the normalized value.

    Returns:
        Gamma's integers, beta's integers (23 bits), and the scale of the result, no dimension.
    """
    grid = 2.0**-NORMALIZED_SHIFT
    range_ = torch.maximum(gamma.abs().amax() / largest(GAMMA_BITS), beta.abs().amax() / (grid * BETA_BOUND))
    gamma_scale = range_.clamp_min(1e-10)
    scale = gamma_scale * grid
    return (gamma / gamma_scale).round(), (beta / scale).round().clamp(-BETA_BOUND, BETA_BOUND), scale


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, bits: int, epsilon: Tensor) -> tuple[Tensor, Tensor]:
        gamma_integers, beta_integers, scale = quantize_affine(gamma, beta)
        z, y, multiplier = _forward(x, bits, epsilon, gamma_integers, beta_integers)
        ctx.save_for_backward(y, multiplier, gamma_integers, beta_integers, scale)
        ctx.mark_non_differentiable(scale)
        return z, scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
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
        return grad_x, grad_gamma / scale, grad_beta / scale, None, None


def layer_norm(x: Integers, bits: int, gamma: Tensor, beta: Tensor, epsilon: float) -> Integers:
    """Return LayerNorm over the last dimension of integers of so many bits (at most 22).

    Args:
        x: integers [..., width] with one scale.
        bits: their width.
        gamma, beta: real, [width].
        epsilon: added to the variance.

    Returns:
        Integers of 24 bits with one scale. A constant row gives beta.
    """
    in_units = epsilon / x.scale.double().square()
    if torch.is_grad_enabled() and (x.values.requires_grad or gamma.requires_grad):
        return Integers(*_LayerNorm.apply(x.values, gamma, beta, bits, in_units))  # type: ignore[no-untyped-call]
    gamma_integers, beta_integers, scale = quantize_affine(gamma, beta)
    return Integers(_forward(x.values, bits, in_units, gamma_integers, beta_integers)[0], scale)


def add(parts: Sequence[Integers], scale: Tensor, bits: int) -> Integers:
    """Add what may have different scales: the residual sum; each part and the sum are clipped to so many bits."""
    bound = largest(bits)
    first, *others = (rescale(part.values, part.scale / scale, bits) for part in parts)
    for other in others:
        first = (first + other).clamp(-bound, bound)
    return Integers(first, scale)
