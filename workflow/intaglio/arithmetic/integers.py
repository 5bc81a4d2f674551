"""Integers with a scale, and how real values and products become such."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# A float32 holds every integer up to here, and nothing in the specification is larger.
EXACT = 2**24
# No scale and no range is smaller.
SMALLEST = 1e-10
# Activations have 8 bits.
LOW, HIGH = -128, 127


def largest(bits: int) -> int:
    """Return the largest magnitude of a symmetric signed integer of so many bits: 127 for 8."""
    return int(2 ** (bits - 1) - 1)


@dataclass(frozen=True)
class Integers:
    """Integers and the real value of one of them.

    Attributes:
        values: float32, any shape, integral.
        scale: float32, on the same device: no dimension, or one for the last dimension of `values`.
    """

    values: Tensor
    scale: Tensor

    @property
    def real(self) -> Tensor:
        """Real values, float32, same shape."""
        return self.values * self.scale


def real(x: Tensor | Integers) -> Tensor:
    """Return real values of what may be integers."""
    return x.real if isinstance(x, Integers) else x


def magnitude(x: Tensor, dim: int) -> Tensor:
    """Return the largest magnitude along a dimension, which stays with size 1."""
    # A tenth of the time of vector_norm, and no tensor of the size of x.
    return torch.maximum(x.amax(dim, keepdim=True), -x.amin(dim, keepdim=True))


def scale_of(range_: Tensor, bits: int) -> Tensor:
    """Return the scale at which the largest integer of so many bits stands for `range_` (largest magnitude)."""
    return range_.clamp_min(SMALLEST) / largest(bits)


def floor_log2(x: Tensor) -> Tensor:
    """Return floor(log2(x)) of positive numbers, exactly, as float32."""
    return torch.frexp(x).exponent.float() - 1


def half(shift: Tensor) -> Tensor:
    """Return what rounds a shift to the right: 2^(shift - 1), or 0 where nothing is shifted."""
    return torch.where(shift > 0, torch.exp2(shift - 1), 0.0)


class _Rescale(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, multiplier: Tensor, low: int, high: int) -> Tensor:
        result = (x * multiplier).round_().clamp_(low, high)
        ctx.save_for_backward(result, multiplier)
        ctx.bounds = low, high
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        result, multiplier = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(grad, result, *ctx.bounds).mul_(multiplier), None, None, None


def rescale(x: Tensor, multiplier: Tensor, low: int = LOW, high: int = HIGH) -> Tensor:
    """Requantize: round `x * multiplier` to integers and clip them.

    With integers `x` this is dyadic requantization (Jacob et al. 2018; I-BERT, section 3.1): a float32 multiplier is a
    24-bit integer times a power of two. The product is rounded to float32, that to the nearest integer, ties to even.

    The gradient is straight-through: the multiplier, or zero where the result is at a bound.

    Args:
        x: float32, any shape: integers to requantize, or real values to quantize.
        multiplier: float32, without dimension or one for the last dimension of `x`.
        low, high: bounds of the result.
    """
    if torch.is_grad_enabled() and x.requires_grad:
        result: Tensor = _Rescale.apply(x, multiplier, low, high)  # type: ignore[no-untyped-call]
        return result
    return (x * multiplier).round_().clamp_(low, high)


def requantize(x: Tensor | Integers, scale: Tensor) -> Integers:
    """Bring accumulators, or real values, to 8 bits of another scale."""
    if isinstance(x, Integers):
        return Integers(rescale(x.values, x.scale / scale), scale)
    return Integers(rescale(x, 1 / scale), scale)


class _Shorten(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, shift: Tensor) -> Tensor:
        multiplier = torch.exp2(-shift)
        result = (x * multiplier).add_(half(shift) * multiplier).floor_().clamp_(LOW, HIGH)
        ctx.save_for_backward(result, multiplier)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        result, multiplier = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(grad, result, LOW, HIGH).mul_(multiplier), None


def shorten(x: Integers, shift: Tensor) -> Integers:
    """Shift integers to the right, to the nearest (halves up), and clip them to 8 bits.

    Args:
        x: integers with one scale.
        shift: by how many bits, no dimension, float32.

    The gradient is straight-through, zero where the result is at a bound.
    """
    values: Tensor = _Shorten.apply(x.values, shift)  # type: ignore[no-untyped-call]
    return Integers(values, x.scale * torch.exp2(shift))


def dropout(x: Tensor | Integers, probability: float, training: bool) -> Tensor | Integers:
    """Drop values; what remains stays an integer, since the scale takes the factor 1 / (1 - probability)."""
    if not training or probability == 0:
        return x
    if not isinstance(x, Integers):
        return torch.nn.functional.dropout(x, probability)
    kept = torch.empty_like(x.values).bernoulli_(1 - probability)
    return Integers(x.values * kept, x.scale / (1 - probability))
