"""Products of int8 rows with int8 weights, by the fastest exact kernel that torch has on the device."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from intaglio.arithmetic.kernels import fastest

# _int_mm on CUDA needs at least this number of rows.
_FEWEST_ROWS = 17
# torch._int_mm takes sizes that are multiples of this.
_ALIGNED = 8


# A custom operator, since torch.compile would try to freeze the packed weight. It is defined by a Library, as
# custom_op's wrappers take longer than a small product.
_LIBRARY = torch.library.Library("intaglio", "DEF")
_LIBRARY.define("int8_product(Tensor x, Tensor weight, Tensor scales, Tensor zero_points, Tensor bias) -> Tensor")


def _int8_product(x: Tensor, weight: Tensor, scales: Tensor, zero_points: Tensor, bias: Tensor) -> Tensor:
    result: Tensor = torch.ops.onednn.qlinear_pointwise(
        x, 1.0, 0, weight, scales, zero_points, bias, 1.0, 0, torch.float32, "none", [], ""
    )
    return result


def _int8_shape(x: Tensor, _weight: Tensor, scales: Tensor, _zero_points: Tensor, _bias: Tensor) -> Tensor:
    return x.new_empty((x.shape[0], scales.shape[0]), dtype=torch.float32)


_LIBRARY.impl("int8_product", _int8_product, "CompositeExplicitAutograd")
torch.library.register_fake("intaglio::int8_product", _int8_shape, lib=_LIBRARY)


class IntegerProduct:
    """A product with an int8 weight [out, in] and an int32 bias [out].

    It is called with int8 [rows, in] and returns accumulators including the bias, [rows, out], integers in int32 or
    float32.

    Attributes:
        name: of the kernel, for the tables.
    """

    name: ClassVar[str]

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        raise NotImplementedError

    def __call__(self, x: Tensor) -> Tensor:
        """Return accumulators of [rows, in]."""
        raise NotImplementedError


class OneDnnProduct(IntegerProduct):
    """oneDNN's int8 product on an x86 CPU with VNNI or AMX: int32 accumulators, returned as float32."""

    name = "int8 oneDNN"

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight: Any = torch.ops.onednn.qlinear_prepack(weight.contiguous(), None)
        self.bias = bias.float()
        self.scales = torch.ones(len(weight))
        self.zero_points = torch.zeros(len(weight), dtype=torch.int32)

    def __call__(self, x: Tensor) -> Tensor:
        """See `IntegerProduct`."""
        result: Tensor = torch.ops.intaglio.int8_product(x, self.weight, self.scales, self.zero_points, self.bias)
        return result


class IntProduct(IntegerProduct):
    """torch._int_mm: int8 tensor cores on CUDA, oneDNN's matrix product on a CPU."""

    name = "int8 torch._int_mm"

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight = weight.t()
        self.bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        """See `IntegerProduct`."""
        rows = len(x)
        if x.is_cuda and rows < _FEWEST_ROWS:
            x = torch.nn.functional.pad(x, (0, 0, 0, _FEWEST_ROWS - rows))
        return torch._int_mm(x, self.weight)[:rows] + self.bias


class FloatProduct(IntegerProduct):
    """Exact float32 products of the integers, for CPUs whose int8 instructions saturate or are missing."""

    name = "float32 of integers"

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight = weight.float().t()
        self.bias = bias.float()

    def __call__(self, x: Tensor) -> Tensor:
        """See `IntegerProduct`."""
        return torch.addmm(self.bias, x.float(), self.weight)


def product(weight: Tensor, bias: Tensor) -> IntegerProduct:
    """Return the fastest product with int8 `weight` [out, in] and int32 `bias` [out] on their device."""
    kind = IntProduct if weight.is_cuda else fastest_on_cpu()
    if kind is IntProduct and any(size % _ALIGNED for size in weight.shape):
        kind = FloatProduct
    return kind(weight, bias)


@cache
def fastest_on_cpu() -> type[IntegerProduct]:
    """Return the fastest kind of product on this CPU among the exact ones."""
    kinds: list[type[IntegerProduct]] = [FloatProduct, OneDnnProduct, IntProduct]
    makers = {kind: _without_bias(kind) for kind in kinds}
    taken = fastest(list(makers.values()))
    return next(kind for kind, maker in makers.items() if maker is taken)


def _without_bias(kind: type[IntegerProduct]) -> Callable[[Tensor], IntegerProduct]:
    return lambda weight: kind(weight, torch.zeros(len(weight), dtype=torch.int32))
