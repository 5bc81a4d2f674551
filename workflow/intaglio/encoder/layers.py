"""Building blocks of the encoder: each takes real values or integers from the block before, and computes on either."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from intaglio.arithmetic import gelu, layernorm, linear, sums
from intaglio.arithmetic.integers import Integers, dropout, dropout_mask, real, requantize, scale_of, shorten

Value = Tensor | Integers


@dataclass(frozen=True)
class Hidden:
    """A layer's result: `wide` for the residual sum, and `narrow`, its 8 bits, for products.

    In floating point both are the same tensor.
    """

    wide: Value
    narrow: Value


class Range(nn.Module):
    """The range (largest magnitude) of an activation.

    While observing, the range follows a moving average of the largest magnitude of each batch, without padding.
    Otherwise it is constant, so the scales of a step do not depend on its data.
    """

    def __init__(self, bits: int = 8, headroom: float = 1.0) -> None:
        super().__init__()
        self.bits = bits
        self.headroom = headroom
        self.observing = False
        self.momentum = 0.95
        self.largest: Tensor
        self.register_buffer("largest", torch.zeros(()))

    @property
    def scale(self) -> Tensor:
        """Real value of the integer 1, no dimension."""
        return scale_of(self.largest * self.headroom, self.bits)

    def observe(self, x: Value, padding: Tensor | None) -> None:
        """Update the range with `x` [batch, length, width]; `padding` is true at padded positions."""
        with torch.no_grad():
            magnitude = real(x).detach().abs()
            if padding is not None:
                magnitude = magnitude.masked_fill(padding, 0)
            new = magnitude.amax()
            mixed = self.momentum * self.largest + (1 - self.momentum) * new
            self.largest.copy_(torch.where(self.largest == 0, new, mixed))

    def forward(self, x: Value, padding: Tensor | None = None, inplace: bool = False) -> Integers:
        """Quantize real values, or requantize accumulators, to 8 bits of this range; `inplace` as in `requantize`."""
        if self.observing:
            self.observe(x, padding)
        return requantize(x, self.scale, inplace)


class Linear(nn.Linear):
    """A linear layer from real values to real values, or from 8-bit integers to accumulators.

    Among integers, its weight has `bits` bits.
    """

    def __init__(self, inputs: int, outputs: int, bits: int = 8) -> None:
        super().__init__(inputs, outputs)
        self.bits = bits
        # The quantized weights, cached between calls outside of training.
        self.frozen: linear.QuantizedWeight | None = None
        self.frozen_version: tuple[int, int] | None = None
        # Not cached while ranges are observed: the input's scale, and the integers with it, change from call to call.
        self.unsettled = False
        self.register_load_state_dict_post_hook(_thaw)  # type: ignore[no-untyped-call]

    def thaw(self) -> None:
        """Drop the cached integers after weights or ranges have changed."""
        self.frozen = None

    def _apply(self, fn: Any, recurse: bool = True) -> Linear:
        # The layer may move to another device.
        self.thaw()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def _writes(self) -> tuple[int, int] | None:
        """Return version counters, which change whenever the weights are written to in place."""
        return None if self.weight.is_inference() else (self.weight._version, self.bias._version)

    def train(self, mode: bool = True) -> Linear:
        """Switch between training and evaluation."""
        self.thaw()
        super().train(mode)
        return self

    def quantized(self, input_scale: Tensor, sum_scale: Tensor | None = None) -> linear.QuantizedWeight:
        """Return the layer's integers, for scales without dimension as in `linear.quantize_weight`."""
        return linear.quantize_weight(self.weight, self.bias, input_scale, sum_scale, self.bits)

    def _quantized(self, x: Integers, sum_scale: Tensor | None) -> linear.QuantizedWeight:
        version = self._writes()
        if self.frozen is None or self.unsettled or version != self.frozen_version:
            self.frozen = self.quantized(x.scale, sum_scale)
            self.frozen_version = version
        return self.frozen

    def forward(self, x: Any) -> Any:
        """Apply the layer to real values [..., in] or to 8-bit integers."""
        if not isinstance(x, Integers):
            return functional.linear(x, self.weight, self.bias)
        if self.training or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return linear.linear(x, self.weight, self.bias, self.bits)
        quantized = self._quantized(x, None)
        return Integers(linear.accumulate(x, quantized), quantized.scale * x.scale)

    def term(self, x: Integers, sum_scale: Tensor) -> linear.Term:
        """Apply the layer to 8-bit integers, as a term of a sum of scale `sum_scale`."""
        if self.training or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return linear.linear_term(x, self.weight, self.bias, sum_scale, self.bits)
        quantized = self._quantized(x, sum_scale)
        assert quantized.multiplier is not None and quantized.shift is not None
        return linear.Term(linear.accumulate(x, quantized), quantized.multiplier, quantized.shift, sum_scale)


def _thaw(layer: Linear, _: Any) -> None:
    """Drop cached integers after loading; a module-level function, so that the layer can be pickled."""
    layer.thaw()


class Gelu(nn.Module):
    """GELU, followed by quantization for the next layer."""

    def __init__(self, integer: bool, quantized: bool) -> None:
        super().__init__()
        self.integer = integer
        self.output = Range() if quantized else None

    def forward(self, x: Value, padding: Tensor | None) -> Value:
        """Apply GELU to real values or accumulators."""
        if not self.integer:
            y = functional.gelu(real(x))
            return y if self.output is None else self.output(y, padding)
        assert isinstance(x, Integers) and self.output is not None
        if self.output.observing:
            self.output.observe(functional.gelu(x.real), padding)
        return gelu.gelu(x, gelu.gelu_table(self.output.largest), self.training)


class Residual(nn.Module):
    """The sum of a linear layer's result and the residual stream."""

    def __init__(self, integer: bool, rate: float) -> None:
        super().__init__()
        # The sum has spare bits, so its range gets headroom and clipping stays rare.
        self.sum = Range(sums.BITS, headroom=2.0) if integer else None
        self.rate = rate

    def forward(self, wide: Value, output: Linear, x: Value, padding: Tensor | None) -> Value:
        """Return `wide` + dropout(output(x)), each [batch, length, width]."""
        if self.sum is None:
            return real(wide) + functional.dropout(real(output(x)), self.rate, self.training)
        assert isinstance(wide, Integers) and isinstance(x, Integers)
        if self.sum.observing:
            self.sum.observe(wide.real + output(x).real, padding)
        skip = sums.residual_shift(wide.scale, self.sum.scale)
        term = output.term(x, wide.scale * torch.exp2(skip))
        if self.training and self.rate:
            term = replace(term, kept=dropout_mask(term.values, self.rate, 1 / (1 - self.rate)))
        return sums.residual(wide, skip, replace(term, spent=self.training))


class Norm(nn.LayerNorm):
    """LayerNorm of real values or integers, with its full result and the 8 bits for products."""

    def __init__(self, width: int, epsilon: float, integer: bool, quantized: bool) -> None:
        super().__init__(width, eps=epsilon)
        self.integer = integer
        self.output = Range() if quantized else None

    def forward(self, x: Any, padding: Tensor | None = None, rate: float = 0.0) -> Any:
        """Normalize [batch, length, width], then apply dropout at this rate in training."""
        if not self.integer:
            y = functional.dropout(super().forward(real(x)), rate, self.training)
            return Hidden(y, y if self.output is None else self.output(y, padding))
        short_scale = None
        if self.output is not None:
            if self.output.observing:
                self.output.observe(self._normalized(x, None)[0], padding)
            short_scale = self.output.scale
        normalized, shift = self._normalized(x, short_scale)
        wide = dropout(normalized, rate, self.training)
        assert isinstance(wide, Integers)
        return Hidden(wide, wide if short_scale is None else shorten(wide, shift))

    def _normalized(self, x: Integers, short_scale: Tensor | None) -> tuple[Integers, Tensor]:
        return layernorm.layer_norm(x, self.weight, self.bias, self.eps, short_scale)
