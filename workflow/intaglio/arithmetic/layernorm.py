"""Integer LayerNorm: exact sums, Newton's square root, one division per row."""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt as isqrt_of
from math import sqrt
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from intaglio.arithmetic.integers import SMALLEST, Integers, floor_log2, half, largest, magnitude
from intaglio.arithmetic.pieces import fill_rows, like
from intaglio.arithmetic.sqrt import isqrt, normalize, power_of_two
from intaglio.products.norm import native_norm

# Normalized values are on a grid of 2^-9 and gamma has 10 bits: their product plus beta stays below 2^24.
GRID_BITS = 9
GAMMA_BOUND = largest(10)
BETA_BOUND = 2**22
# Deviations are shortened to this many bits and a sign, so that their squares stay within 2^24.
SHORT_BITS = 12
# Number of possible shifts of deviations, which have 22 bits and a sign.
SHIFTS = 24 - SHORT_BITS
GUARD_BOUND = 2.0**40
LARGEST_SHIFT = 20


@dataclass(frozen=True)
class Affine:
    """LayerNorm's gamma and beta as integers.

    Attributes:
        gamma: float32 integers [width], at most 511.
        beta: float32 integers [width], at most 2^22, at the scale of LayerNorm's result.
        scale: of LayerNorm's result, no dimension.
        shift: from that scale to the scale of its 8 bits, no dimension.
    """

    gamma: Tensor
    beta: Tensor
    scale: Tensor
    shift: Tensor


def quantize_affine(gamma: Tensor, beta: Tensor, short_scale: Tensor | None) -> Affine:
    """Quantize gamma and beta; the scale of the result is that of its 8 bits over a power of two.

    Args:
        gamma, beta: real, [width].
        short_scale: the calibrated scale of the 8-bit result, no dimension; None if no layer takes 8 bits.
    """
    need = torch.maximum(gamma.abs().amax() / GAMMA_BOUND, beta.abs().amax() / (BETA_BOUND >> GRID_BITS))
    need = need.clamp_min(SMALLEST)
    scale = need * 2.0**-GRID_BITS
    shift = torch.zeros_like(scale)
    if short_scale is not None:
        shift = (GRID_BITS + floor_log2(short_scale / need)).clamp(1, LARGEST_SHIFT)
        scale = torch.maximum(short_scale * torch.exp2(-shift), scale)
    return Affine(
        (gamma / (scale * 2.0**GRID_BITS)).round().clamp(-GAMMA_BOUND, GAMMA_BOUND),
        (beta / scale).round().clamp(-BETA_BOUND, BETA_BOUND),
        scale,
        shift,
    )


def guards(epsilon: float, scale: Tensor, width: int) -> Tensor:
    """Return the share of epsilon in a row's sum of squares, for every shift of the deviations: float64 integers."""
    guard = epsilon * width / scale.double().square()
    shifts = torch.arange(SHIFTS, device=scale.device, dtype=torch.float64)
    return (guard * torch.exp2(-2 * shifts)).round_().clamp_(1, GUARD_BOUND)


def reciprocal_constants(width: int) -> tuple[int, int]:
    """Return (P, round(sqrt(width) * 2^P)), the latter in [2^24, 2^25]: the dividend of the one division per row."""
    precision = 25 - isqrt_of(width).bit_length()
    return precision, round(sqrt(width) * 2**precision)


def row_multiplier(squares: Tensor, width: int) -> Tensor:
    """Return the multiplier of each row that brings shortened deviations to the grid of normalized values.

    Args:
        squares: float64 integers, [..., 1]: the sum of squared deviations plus the share of epsilon (`guards`).
        width: length of a row.

    Returns:
        [..., 1] float32: an integer of 11 bits times a power of two.
    """
    normal, half_shift = normalize(squares)
    precision, dividend = reciprocal_constants(width)
    root = isqrt(normal)
    # the operands are far below 2^53, so float64's quotient rounded down is the integer quotient
    reciprocal = (root * 0.5).floor_().add_(dividend).div_(root).floor_()
    return reciprocal.mul_(power_of_two(half_shift - (precision - GRID_BITS))).float()


def _shorten(short: Tensor, shift: Tensor, squares: Tensor, x: Tensor) -> None:
    """Write the shortened deviations of rows from their mean, their shifts and the float64 sums of their squares."""
    width = x.shape[-1]
    total = x.sum(-1, keepdim=True, dtype=torch.float64)
    torch.sub(x, (total + width // 2).div_(width).floor_().float(), out=short)
    torch.clamp_min(floor_log2(magnitude(short, -1)) - (SHORT_BITS - 1), 0, out=shift)
    down = torch.exp2(-shift)
    short.mul_(down).add_(half(shift) * down).floor_()
    torch.sum(short.square(), -1, keepdim=True, dtype=torch.float64, out=squares)


def _forward(x: Tensor, guard: Tensor, affine: Affine) -> tuple[Tensor, ...]:
    """Return the results, the shortened deviations, their multipliers and the powers of two of the shortening."""
    return native_norm(x, affine.gamma, affine.beta, guard) or _on_torch(x, guard, affine)


def _on_torch(x: Tensor, guard: Tensor, affine: Affine) -> tuple[Tensor, ...]:
    short, shift, z = like(x), x.new_empty((*x.shape[:-1], 1)), like(x)
    squares = torch.empty_like(shift, dtype=torch.float64)
    fill_rows(_shorten, short, shift, squares, x)
    # A row with NaN, of a training that has diverged, has no shift; its result is NaN, too.
    multiplier = row_multiplier(squares + guard[shift.long().clamp_(max=SHIFTS - 1)], x.shape[-1])

    def normalize(z: Tensor, short: Tensor, multiplier: Tensor) -> None:
        torch.mul(short, multiplier, out=z).add_(0.5).floor_().mul_(affine.gamma).add_(affine.beta)

    fill_rows(normalize, z, short, multiplier)
    return z, short, multiplier, torch.exp2(-shift)


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, _gamma: Tensor, _beta: Tensor, guard: Tensor, affine: Affine) -> Tensor:
        # gamma and beta are arguments for their gradients only; their integers are in `affine`
        z, short, multiplier, down = _forward(x, guard, affine)
        ctx.save_for_backward(short, multiplier, down, affine.gamma, affine.beta, affine.scale)
        return z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        short, multiplier, down, gamma, beta, scale = ctx.saved_tensors
        grid = 2.0**-GRID_BITS
        inverse_sigma = multiplier * grid
        # torch's own kernel on integers: z = gamma / grid * (short / sigma) + beta, where short has nearly zero mean
        grad_x, grad_gamma, grad_beta = torch.ops.aten.native_layer_norm_backward(
            grad.contiguous(),
            short,
            [short.shape[-1]],
            torch.zeros_like(inverse_sigma),
            inverse_sigma,
            gamma / grid,
            beta,
            [True, True, True],
        )
        # grad_gamma is in units of z: a real gamma of 1 is 1 / scale of them at a normalized value of 1
        return grad_x.mul_(down), grad_gamma / scale, grad_beta / scale, None, None


def layer_norm(
    x: Integers, gamma: Tensor, beta: Tensor, epsilon: float, short_scale: Tensor | None
) -> tuple[Integers, Tensor]:
    """Return LayerNorm over the last dimension of integers of at most 22 bits.

    Args:
        x: integers [..., width] with one scale.
        gamma, beta: real, [width].
        epsilon: added to the variance.
        short_scale: the calibrated scale of the 8-bit result; None if no layer takes 8 bits.

    Returns:
        Integers of magnitude below 2^24 with one scale (a constant row gives beta), and the shift from them to 8 bits.
    """
    affine = quantize_affine(gamma.detach(), beta.detach(), short_scale)
    guard = guards(epsilon, x.scale, x.values.shape[-1])
    z: Tensor = _LayerNorm.apply(x.values, gamma, beta, guard, affine)  # type: ignore[no-untyped-call]
    return Integers(z, affine.scale), affine.shift
