"""Integer matrix products: linear layers with weights of 8 or 4 bits, and products of activations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from intaglio.arithmetic.integers import SMALLEST, Integers, clipped_range, floor_log2, half, largest
from intaglio.arithmetic.pieces import fill
from intaglio.products.choice import fastest
from intaglio.products.kernels import FloatProduct

BOUND = largest(8)
BIAS_BOUND = 2**21
# 128 times this (or 98,400, if float32 misses it) plus the largest bias stays below 2^24: sums are exact in float32.
WEIGHT_SUM = 98_303
# Bound of the multiplier of a term of a sum, which multiplies a shortened accumulator.
TERM_MULTIPLIER = 1023
TERM_SHIFT = 20


@dataclass(frozen=True)
class QuantizedWeight:
    """The integers of a linear layer, carried by float32.

    Attributes:
        values: [out, in], magnitude at most 127, or 7 if they have 4 bits; of dtype int8 on request.
        bias: [out], at the scale of the accumulators; for a term of a sum it includes half of the shift.
        scale: of the weights of each output channel, [out].
        multiplier: of a term of a sum, [out], integers of at most 1,023; None for other layers.
        shift: of the accumulators before the multiplication, no dimension.
    """

    values: Tensor
    bias: Tensor
    scale: Tensor
    multiplier: Tensor | None = None
    shift: Tensor | None = None


@dataclass(frozen=True)
class Term:
    """Accumulators to be added in a sum: `(values >> shift) * multiplier` are integers of scale `scale`.

    Attributes:
        values: float32 integers [..., out].
        multiplier, shift: as in QuantizedWeight.
        scale: of the sum, no dimension.
        kept: dropout mask of the shape of `values`, 0 or 1 / (1 - probability); None for no dropout.
        spent: whether the sum may overwrite `values` while gradients are recorded.
    """

    values: Tensor
    multiplier: Tensor
    shift: Tensor
    scale: Tensor
    kept: Tensor | None = None
    spent: bool = False


def quantize_weight(
    weight: Tensor,
    bias: Tensor,
    input_scale: Tensor,
    sum_scale: Tensor | None = None,
    bits: int = 8,
    dtype: torch.dtype = torch.float32,
) -> QuantizedWeight:
    """Quantize a weight per output channel, and the bias at the scale of the accumulators.

    The scale of a channel of 8 bits is its largest magnitude over 127. It is larger if the bias or the sum of
    magnitudes would exceed the accumulators' 24 bits, or if the accumulators have to be a multiple of a sum's scale.
    With 4 bits, large weights are clipped to 7 (`clipped_range`).

    Args:
        weight: real, [out, in].
        bias: real, [out].
        input_scale: of the layer's input, no dimension.
        sum_scale: of the sum that the layer's result is added in, no dimension.
        bits: of the weight, 8 or 4.
        dtype: of the weight's integers, float32 or int8.
    """
    scale = torch.maximum(_channel_scales(weight, bits), bias.abs() / (input_scale * BIAS_BOUND)).clamp_min(SMALLEST)
    multiplier = shift = None
    if sum_scale is not None:
        ratio = scale * (input_scale / sum_scale)
        shift = floor_log2(TERM_MULTIPLIER / ratio.amax()).clamp(0, TERM_SHIFT)
        multiplier = (ratio * torch.exp2(shift)).ceil().clamp(1, TERM_MULTIPLIER)
        # larger only where the multiplier was clipped: the accumulators' width comes before the scale of the result
        scale = torch.maximum(scale, multiplier * (sum_scale / (input_scale * torch.exp2(shift))))
    values = _rounded(weight, (1 / scale).unsqueeze(1), dtype, largest(bits))
    bias = (bias / (input_scale * scale)).round_().clamp_(-BIAS_BOUND, BIAS_BOUND)
    if shift is not None:
        bias += half(shift)
    return QuantizedWeight(values, bias, scale, multiplier, shift)


def _channel_scales(weight: Tensor, bits: int) -> Tensor:
    """Return the scales [out] that each channel's largest magnitude and sum of magnitudes need."""
    width, bound = weight.shape[1], largest(bits)
    # If `width` largest magnitudes fit, the sum need not be computed. The margin of a thousandth is for float32.
    never = bound * width * 1.001 <= WEIGHT_SUM - width / 2

    def of_rows(weight: Tensor, scale: Tensor) -> None:
        torch.div(clipped_range(weight, 1, bits), bound, out=scale)
        if not never:
            sums = torch.linalg.vector_norm(weight, 1, dim=1, keepdim=True) / (WEIGHT_SUM - width / 2)
            torch.maximum(scale, sums, out=scale)

    scales = weight.new_empty(len(weight), 1)
    fill(of_rows, weight, scales)
    return scales.squeeze(1)


def _rounded(weight: Tensor, inverse: Tensor, dtype: torch.dtype, bound: int) -> Tensor:
    values = torch.empty_like(weight, dtype=dtype)

    def of_rows(values: Tensor, weight: Tensor, inverse: Tensor) -> None:
        found = torch.mul(weight, inverse, out=values if values.dtype == weight.dtype else None).round_()
        if bound < BOUND:
            found.clamp_(-bound, bound)
        if found is not values:
            values.copy_(found)

    fill(of_rows, values, weight, inverse)
    return values


def _product(rows: Tensor, quantized: QuantizedWeight) -> Tensor:
    """Return accumulators, float32 [rows, out], of float32-carried 8-bit integers [rows, in]."""
    if quantized.values.dtype != torch.int8:
        return torch.addmm(quantized.bias, rows, quantized.values.T)
    outputs, inner = quantized.values.shape
    kernel = fastest(len(rows), inner, outputs, fixed=False)
    return kernel(quantized.values, quantized.bias.to(torch.int32))(rows.to(torch.int8)).float()


def _weight_type(rows: Tensor, outputs: int) -> torch.dtype:
    """Return the type that the fastest product with rows [rows, in] takes its weight in."""
    if rows.device.type != "cpu" or torch.compiler.is_compiling():
        return torch.float32
    kernel = fastest(len(rows), rows.shape[1], outputs, fixed=False)
    return torch.float32 if kernel is FloatProduct else torch.int8


class _Linear(torch.autograd.Function):
    """A linear layer whose weight and bias are quantized at each step, with straight-through gradients."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, input_scale: Tensor, sum_scale: Tensor | None, bits: int
    ) -> tuple[Any, ...]:
        rows = x.flatten(0, -2)
        quantized = quantize_weight(weight, bias, input_scale, sum_scale, bits, _weight_type(rows, len(weight)))
        ctx.save_for_backward(rows, quantized.values, quantized.scale, input_scale)
        # detached: a view of a tensor without gradient could not be overwritten
        output = _product(rows, quantized).view(*x.shape[:-1], -1).detach()
        constants = [t for t in (quantized.scale, quantized.multiplier, quantized.shift) if t is not None]
        ctx.mark_non_differentiable(*constants)
        return (output, *constants)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, Tensor, Tensor, None, None, None]:
        rows, integers, scale, input_scale = ctx.saved_tensors
        flat = grad.flatten(0, -2)
        grad_x = (flat @ integers.float()).view(*grad.shape[:-1], -1) if ctx.needs_input_grad[0] else None
        grad_weight = (flat.T @ rows).div_(scale.unsqueeze(1))
        grad_bias = flat.sum(0).div_(scale * input_scale)
        return grad_x, grad_weight, grad_bias, None, None, None


def linear(x: Integers, weight: Tensor, bias: Tensor, bits: int = 8) -> Integers:
    """Apply a linear layer, quantizing its real weight [out, in] to `bits` and bias [out] on the fly, with gradients.

    Returns:
        Accumulators [..., out] of 25 bits, with one scale per output channel.
    """
    values, scale = _Linear.apply(x.values, weight, bias, x.scale, None, bits)  # type: ignore[no-untyped-call]
    return Integers(values, scale * x.scale)


def linear_term(x: Integers, weight: Tensor, bias: Tensor, sum_scale: Tensor, bits: int = 8) -> Term:
    """Apply a linear layer, like `linear`, whose result is a term of a sum of scale `sum_scale`."""
    found = _Linear.apply(x.values, weight, bias, x.scale, sum_scale, bits)  # type: ignore[no-untyped-call]
    values, _, multiplier, shift = found
    return Term(values, multiplier, shift, sum_scale)


def accumulate(x: Integers, quantized: QuantizedWeight) -> Tensor:
    """Return the accumulators [..., out] of a layer whose weight was quantized before (`quantize_weight`)."""
    rows = x.values.flatten(0, -2)
    return torch.addmm(quantized.bias, rows, quantized.values.T).view(*x.values.shape[:-1], -1)


def matmul(a: Integers, b: Integers) -> Integers:
    """Multiply 8-bit activations [..., m, k] and [..., k, n], each with one scale: accumulators of at most 25 bits."""
    return Integers(a.values @ b.values, a.scale * b.scale)
