"""Integers with a scale, and how real values become such."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# A float32 holds every integer up to here.
EXACT = 2**24
# No scale and no range is smaller.
SMALLEST = 1e-10


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


def _rescale(x: Tensor, multiplier: Tensor, bound: int) -> tuple[Tensor, Tensor]:
    rounded = (x * multiplier).round_()
    clipped = rounded.clamp(-bound, bound)
    return clipped, rounded


class _Rescale(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, multiplier: Tensor, bound: int) -> Tensor:
        clipped, rounded = _rescale(x, multiplier, bound)
        ctx.save_for_backward(clipped == rounded, multiplier)
        return clipped

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        inside, multiplier = ctx.saved_tensors
        return (grad * inside).mul_(multiplier), None, None


def rescale(x: Tensor, multiplier: Tensor, bits: int) -> Tensor:
    """Round `x * multiplier` to integers of so many bits; the one rounding rule of the specification.

    With integers `x` this is dyadic requantization (Jacob et al. 2018; I-BERT, section 3.1): a float32 multiplier is a
    24-bit integer times a power of two. The accumulator is rounded to float32, the product is rounded to float32,
    and that is rounded to the nearest integer, ties to even, then clipped.

    The gradient is straight-through: the multiplier where the result was not clipped, zero where it was.

    Args:
        x: float32, any shape: integers to requantize, or real values to quantize.
        multiplier: float32, without dimension or one for the last dimension of `x`.
        bits: width of the result, signed and symmetric.
    """
    if torch.is_grad_enabled() and x.requires_grad:
        result: Tensor = _Rescale.apply(x, multiplier, largest(bits))  # type: ignore[no-untyped-call]
        return result
    return _rescale(x, multiplier, largest(bits))[0]


def requantize(x: Tensor | Integers, scale: Tensor, bits: int) -> Integers:
    """Bring integers, or real values, to another scale and width."""
    if isinstance(x, Integers):
        return Integers(rescale(x.values, x.scale / scale, bits), scale)
    return Integers(rescale(x, 1 / scale, bits), scale)


def dropout(x: Tensor | Integers, probability: float, training: bool) -> Tensor | Integers:
    """Drop values; what remains stays an integer, since the scale takes the factor 1 / (1 - probability)."""
    if not training or probability == 0:
        return x
    if not isinstance(x, Integers):
        return torch.nn.functional.dropout(x, probability)
    kept = torch.empty_like(x.values).bernoulli_(1 - probability)
    return Integers(x.values * kept, x.scale / (1 - probability))
