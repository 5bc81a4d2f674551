"""Building blocks: each computes in floating point or on integers, and takes either from the block before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from intaglio.arithmetic import gelu, layernorm, linear
from intaglio.arithmetic.integers import Integers, real, requantize, scale_of

Value = Tensor | Integers


class Range(nn.Module):
    """The range of an activation, and the integers that it is brought to.

    While observing, the range follows a moving average of the largest magnitude of each batch, padding left out.
    Otherwise it stays, so a step knows its scales without looking at the data.
    """

    def __init__(self, bits: int, headroom: float = 1.0) -> None:
        super().__init__()
        self.bits = bits
        self.headroom = headroom
        self.observing = False
        self.momentum = 0.95
        self.largest: Tensor
        self.register_buffer("largest", torch.zeros(()))

    @property
    def scale(self) -> Tensor:
        """Real value of one integer, no dimension."""
        return scale_of(self.largest * self.headroom, self.bits)

    def observe(self, x: Value, padding: Tensor | None) -> None:
        """Follow the largest magnitude of `x` [batch, length, width]; `padding` is true where there is no token."""
        with torch.no_grad():
            magnitude = real(x).detach().abs()
            if padding is not None:
                magnitude = magnitude.masked_fill(padding, 0)
            new = magnitude.amax()
            mixed = self.momentum * self.largest + (1 - self.momentum) * new
            self.largest.copy_(torch.where(self.largest == 0, new, mixed))

    def forward(self, x: Value, padding: Tensor | None = None) -> Integers:
        """Bring real values or integers to this range's integers."""
        if self.observing:
            self.observe(x, padding)
        return requantize(x, self.scale, self.bits)


class Linear(nn.Linear):
    """A linear layer: real values to real values, or 8-bit integers to accumulators."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        # Weights as integers, kept between calls while nothing trains.
        self.frozen: tuple[Tensor, Tensor, Tensor] | None = None
        self.frozen_version: tuple[int, int] | None = None
        # While ranges are observed the input's scale moves from call to call, and the integers with it.
        self.unsettled = False
        self.register_load_state_dict_post_hook(_thaw)  # type: ignore[no-untyped-call]

    def thaw(self) -> None:
        """Forget the integers: weights or ranges have changed."""
        self.frozen = None

    def _apply(self, fn: Any, recurse: bool = True) -> Linear:
        # The layer moves to another device.
        self.thaw()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def _writes(self) -> tuple[int, int] | None:
        """Return what changes whenever the weights are written to in place."""
        return None if self.weight.is_inference() else (self.weight._version, self.bias._version)

    def train(self, mode: bool = True) -> Linear:
        """Switch between training and evaluation."""
        self.thaw()
        super().train(mode)
        return self

    def forward(self, x: Any) -> Any:
        """Apply the layer to real values [..., in] or to 8-bit integers."""
        if not isinstance(x, Integers):
            return functional.linear(x, self.weight, self.bias)
        if self.training or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return linear.linear(x, self.weight, self.bias)
        version = self._writes()
        if self.frozen is None or self.unsettled or version != self.frozen_version:
            weight, scale, bias = linear.quantize_weight(self.weight, self.bias, x.scale)
            assert bias is not None
            self.frozen, self.frozen_version = (weight, scale, bias), version
        return linear.linear_frozen(x, *self.frozen)


def _thaw(layer: Linear, _: Any) -> None:
    """Be the hook after loading; a function of the module, so that the layer can be pickled."""
    layer.thaw()


class Gelu(nn.Module):
    """GELU and the integers that the next layer takes."""

    def __init__(self, integer: bool, quantized: bool) -> None:
        super().__init__()
        self.integer = integer
        self.output = Range(8) if quantized else None

    def forward(self, x: Value, padding: Tensor | None) -> Value:
        """Apply GELU to real values or accumulators."""
        if self.integer:
            assert isinstance(x, Integers) and self.output is not None
            if self.output.observing:
                self.output.observe(gelu.gelu_real(x), padding)
            return gelu.gelu(x, self.output.scale)
        y = functional.gelu(real(x))
        return y if self.output is None else self.output(y, padding)


class Norm(nn.LayerNorm):
    """LayerNorm of a sum: real values to real values, or integers to integers of 24 bits."""

    def __init__(self, width: int, epsilon: float, integer: bool, bits: int) -> None:
        super().__init__(width, eps=epsilon)
        # The sum is clipped rarely if its range leaves room: it has bits enough.
        self.sum = Range(bits, headroom=2.0) if integer else None

    def forward(self, parts: Any, padding: Tensor | None = None) -> Any:
        """Normalize the sum of `parts`, each [batch, length, width]."""
        if self.sum is None:
            return super().forward(_real_sum(parts))
        if self.sum.observing:
            self.sum.observe(_real_sum(parts), padding)
        total = layernorm.add(parts, self.sum.scale, self.sum.bits)
        return layernorm.layer_norm(total, self.weight, self.bias, self.eps)


def _real_sum(parts: Sequence[Value]) -> Tensor:
    total = real(parts[0])
    for part in parts[1:]:
        total = total + real(part)
    return total
