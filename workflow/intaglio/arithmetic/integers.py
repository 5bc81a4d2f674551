"""Integers with a scale; quantization of real values and requantization of accumulators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from intaglio.arithmetic.pieces import fill_rows, like

# float32 holds every integer up to this. No integer of the specification is larger.
EXACT = 2**24
# Lower bound of scales and ranges.
SMALLEST = 1e-10
# Share of the largest magnitude beyond which weights and embeddings of 4 bits are clipped.
CLIP = 0.8
# Activations have 8 bits.
LOW, HIGH = -128, 127


def largest(bits: int) -> int:
    """Return the largest magnitude of a symmetric signed integer of `bits` bits: 127 for 8."""
    return int(2 ** (bits - 1) - 1)


@dataclass(frozen=True)
class Integers:
    """Integers and their scale.

    Attributes:
        values: float32, any shape, integral.
        scale: float32, on the same device: the real value of one, without dimension or one per entry of the last
            dimension of `values`.
    """

    values: Tensor
    scale: Tensor

    @property
    def real(self) -> Tensor:
        """Real values, float32, same shape."""
        return self.values * self.scale


def real(x: Tensor | Integers) -> Tensor:
    """Return real values: those of integers, or the tensor itself."""
    return x.real if isinstance(x, Integers) else x


def magnitude(x: Tensor, dim: int) -> Tensor:
    """Return the largest magnitude along a dimension, which is kept with size 1."""
    # Takes a tenth of the time of vector_norm, and no temporary tensor of the size of x.
    return torch.maximum(x.amax(dim, keepdim=True), -x.amin(dim, keepdim=True))


def clipped_range(x: Tensor, dim: int, bits: int) -> Tensor:
    """Return the largest magnitude that integers of these bits have to represent along a dimension, kept with size 1.

    With 8 bits this is the largest there is. With 4 bits a smaller one leaves less error in all others.
    """
    return magnitude(x, dim) if bits == 8 else magnitude(x, dim) * CLIP


def scale_of(range_: Tensor, bits: int) -> Tensor:
    """Return the scale at which the largest integer of `bits` bits represents `range_` (a largest magnitude)."""
    return range_.clamp_min(SMALLEST) / largest(bits)


def floor_log2(x: Tensor) -> Tensor:
    """Return floor(log2(x)) of positive numbers, exactly, as float32."""
    # float32's own exponent; frexp is several times as slow
    return ((x.view(torch.int32) >> 23) - 127).float()


def half(shift: Tensor) -> Tensor:
    """Return the offset that makes a shift to the right round: 2^(shift - 1), or 0 for no shift."""
    return torch.where(shift > 0, torch.exp2(shift - 1), 0.0)


def pass_inside(grad: Tensor, result: Tensor, low: float, high: float, out: Tensor) -> Tensor:
    """Write gradients into `out`: unchanged where the result is strictly between its bounds, else zero."""
    found: Tensor = torch.ops.aten.hardtanh_backward.grad_input(grad, result, low, high, grad_input=out)
    return found


def _straight_through(grad: Tensor, result: Tensor, multiplier: Tensor, low: int, high: int) -> Tensor:
    """Return `grad * multiplier`, zero where the result is at a bound."""
    found = like(grad)
    fill_rows(lambda out, g, y: pass_inside(g, y, low, high, out).mul_(multiplier), found, grad, result)
    return found


class _Rescale(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, multiplier: Tensor, low: int, high: int, inplace: bool) -> Tensor:
        result = like(x, inplace)
        if result is x:
            ctx.mark_dirty(x)
        fill_rows(lambda out, x: torch.mul(x, multiplier, out=out).round_().clamp_(low, high), result, x)
        ctx.save_for_backward(result, multiplier)
        ctx.bounds = low, high
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        result, multiplier = ctx.saved_tensors
        return _straight_through(grad, result, multiplier, *ctx.bounds), None, None, None, None


def rescale(x: Tensor, multiplier: Tensor, low: int = LOW, high: int = HIGH, inplace: bool = False) -> Tensor:
    """Requantize: round `x * multiplier` to integers and clip them.

    With integers `x` this is dyadic requantization (Jacob et al. 2018; I-BERT, section 3.1): a float32 multiplier is a
    24-bit integer times a power of two. The product is rounded to float32 and then to the nearest integer, ties to
    even.

    The gradient is straight-through: the multiplier, or zero where the result is at a bound.

    Args:
        x: float32, any shape: integers to requantize, or real values to quantize.
        multiplier: float32, without dimension or one per entry of the last dimension of `x`.
        low, high: bounds of the result.
        inplace: whether the result may overwrite `x` while gradients are recorded.
    """
    if torch.is_grad_enabled() and x.requires_grad:
        result: Tensor = _Rescale.apply(x, multiplier, low, high, inplace)  # type: ignore[no-untyped-call]
        return result
    return (x * multiplier).round_().clamp_(low, high)


def requantize(x: Tensor | Integers, scale: Tensor, inplace: bool = False) -> Integers:
    """Requantize accumulators, or quantize real values, to 8 bits at `scale`; `inplace` as in `rescale`."""
    if isinstance(x, Integers):
        return Integers(rescale(x.values, x.scale / scale, LOW, HIGH, inplace), scale)
    return Integers(rescale(x, 1 / scale), scale)


class _Shorten(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, shift: Tensor) -> Tensor:
        multiplier = torch.exp2(-shift)
        rounding = half(shift) * multiplier
        result = like(x)
        fill_rows(lambda out, x: torch.mul(x, multiplier, out=out).add_(rounding).floor_().clamp_(LOW, HIGH), result, x)
        ctx.save_for_backward(result, multiplier)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        result, multiplier = ctx.saved_tensors
        return _straight_through(grad, result, multiplier, LOW, HIGH), None


def shorten(x: Integers, shift: Tensor) -> Integers:
    """Shift integers to the right, round to nearest (halves up) and clip to 8 bits.

    Args:
        x: integers with one scale.
        shift: number of bits, no dimension, float32.

    The gradient is straight-through, zero where the result is at a bound.
    """
    values: Tensor = _Shorten.apply(x.values, shift)  # type: ignore[no-untyped-call]
    return Integers(values, x.scale * torch.exp2(shift))


def dropout_mask(x: Tensor, probability: float, value: float = 1.0) -> Tensor:
    """Return a dropout mask, float32 of the shape of `x`: `value` with probability 1 - `probability`, else 0."""
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return torch.empty_like(x).bernoulli_(1 - probability).mul_(value)
    # A tenth of the time of bernoulli_: one random 64-bit number gives four of 16 bits. The probability is met to
    # 2^-17.
    drawn = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    numbers = drawn.view(torch.int16)[: x.numel()].view(x.shape)
    kept = torch.ge(numbers, round(probability * 2**16) - 2**15, out=torch.empty(x.shape))
    return kept if value == 1 else kept.mul_(value)


def dropout(x: Tensor | Integers, probability: float, training: bool) -> Tensor | Integers:
    """Apply dropout; integers stay integers, since their scale takes the factor 1 / (1 - probability)."""
    if not training or probability == 0:
        return x
    if not isinstance(x, Integers):
        return torch.nn.functional.dropout(x, probability)
    return Integers(x.values * dropout_mask(x.values, probability), x.scale / (1 - probability))
