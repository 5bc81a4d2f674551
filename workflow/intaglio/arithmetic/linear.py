"""Integer matrix products: linear layers with 8-bit weights, and products of activations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from intaglio.arithmetic.integers import EXACT, SMALLEST, Integers, largest, magnitude

BOUND = largest(8)
BIAS_BOUND = 2**22
# So many products of two 8-bit integers, and the bias, stay within what float32 sums exactly.
CHUNK = (EXACT - BIAS_BOUND) // BOUND**2 // 8 * 8


def quantize_weight(weight: Tensor, bias: Tensor | None, input_scale: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Quantize a linear layer's weight to 8 bits an output channel, and its bias to the accumulator's scale.

    The scale of a channel is its largest magnitude over 127, or more where the bias would otherwise need more than 23
    bits (a channel whose weights are all but zero).

    Args:
        weight: real, [out, in].
        bias: real, [out], or None.
        input_scale: of the layer's input, no dimension.

    Returns:
        Weight integers [out, in]; their scales [out]; bias integers [out] at the scale `input_scale * scales`.
    """
    scale = magnitude(weight, 1).squeeze(1) / BOUND
    if bias is not None:
        scale = torch.maximum(scale, bias.abs() / (input_scale * BIAS_BOUND))
    scale = scale.clamp_min(SMALLEST)
    integers = (weight * (1 / scale).unsqueeze(1)).round_()
    bias_integers = None if bias is None else (bias / (input_scale * scale)).round_().clamp_(-BIAS_BOUND, BIAS_BOUND)
    return integers, scale, bias_integers


def accumulate(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return `x @ weight.T + bias` of 8-bit integers, exact in every sum and rounded once to float32.

    Args:
        x: float32 integers, [rows, in].
        weight: float32 integers, [out, in].
        bias: float32 integers, [out], or None.
    """
    if x.shape[1] <= CHUNK:
        return x @ weight.T if bias is None else torch.addmm(bias, x, weight.T)
    total = 0 if bias is None else bias.double()
    for part, slab in zip(x.split(CHUNK, 1), weight.split(CHUNK, 1), strict=True):
        total = total + (part @ slab.T).double()
    return total.float()  # type: ignore[union-attr]


class _Linear(torch.autograd.Function):
    """The layer whose weight and bias are quantized in each step, with straight-through gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, input_scale: Tensor) -> tuple[Tensor, Tensor]:
        integers, scale, bias_integers = quantize_weight(weight, bias, input_scale)
        rows = x.flatten(0, -2)
        ctx.save_for_backward(rows, integers, scale, input_scale)
        output = accumulate(rows, integers, bias_integers).view(*x.shape[:-1], -1)
        output_scale = scale * input_scale
        ctx.mark_non_differentiable(output_scale)
        return output, output_scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None]:
        rows, integers, scale, input_scale = ctx.saved_tensors
        flat = grad.flatten(0, -2)
        grad_x = (flat @ integers).view(*grad.shape[:-1], -1) if ctx.needs_input_grad[0] else None
        grad_weight = (flat.T @ rows).div_(scale.unsqueeze(1))
        grad_bias = flat.sum(0).div_(scale * input_scale)
        return grad_x, grad_weight, grad_bias, None


def linear(x: Integers, weight: Tensor, bias: Tensor) -> Integers:
    """Apply a linear layer whose real weight [out, in] and bias [out] are quantized on the way, with gradients.

    Returns:
        Accumulators [..., out], 32 bits, with a scale for each output channel.
    """
    return Integers(*_Linear.apply(x.values, weight, bias, x.scale))  # type: ignore[no-untyped-call]


def linear_frozen(x: Integers, weight: Tensor, scale: Tensor, bias: Tensor) -> Integers:
    """Apply a linear layer whose weight was quantized before (`quantize_weight`)."""
    rows = x.values.flatten(0, -2)
    return Integers(accumulate(rows, weight, bias).view(*x.values.shape[:-1], -1), scale * x.scale)


def matmul(a: Integers, b: Integers) -> Integers:
    """Multiply 8-bit activations, [..., m, k] by [..., k, n], both with one scale: accumulators of 24 bits."""
    return Integers(a.values @ b.values, a.scale * b.scale)
