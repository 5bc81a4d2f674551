"""Products of int8 rows with int8 weights: the fastest exact kernel that torch has on this device."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from intaglio.arithmetic.products import Product, exact_and_faster

# _int_mm on CUDA wants more rows than this.
FEWEST_ROWS = 17


# An operator of its own: torch.compile would want to freeze the packed weight. Defined by a Library, since custom_op's
# wrappers take longer than a small product.
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


class OneDnnProduct:
    """oneDNN's int8 product on an x86 CPU with VNNI or AMX: int32 accumulators, which it hands over as float32."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight: Any = torch.ops.onednn.qlinear_prepack(weight.contiguous(), None)
        self.bias = bias.float()
        self.scales = torch.ones(len(weight))
        self.zero_points = torch.zeros(len(weight), dtype=torch.int32)

    def __call__(self, x: Tensor) -> Tensor:
        """Return accumulators of [rows, in]."""
        result: Tensor = torch.ops.intaglio.int8_product(x, self.weight, self.scales, self.zero_points, self.bias)
        return result


class IntProduct:
    """torch._int_mm: int8 tensor cores on CUDA."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight = weight.t()
        self.bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        """Return accumulators of [rows, in]."""
        rows = len(x)
        if x.is_cuda and rows < FEWEST_ROWS:
            x = torch.nn.functional.pad(x, (0, 0, 0, FEWEST_ROWS - rows))
        return torch._int_mm(x, self.weight)[:rows] + self.bias


class FloatProduct:
    """float32 products of the integers, which are exact: for CPUs whose int8 instructions saturate or are missing."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight = weight.float().t()
        self.bias = bias.float()

    def __call__(self, x: Tensor) -> Tensor:
        """Return accumulators of [rows, in]."""
        return torch.addmm(self.bias, x.float(), self.weight)


def product(weight: Tensor, bias: Tensor) -> Product:
    """Return the product with int8 `weight` [out, in] and int32 `bias` [out] that is fastest here.

    It takes int8 [rows, in] and returns accumulators with bias [rows, out], integers in int32 or float32.
    """
    if weight.is_cuda:
        aligned = all(size % 8 == 0 for size in weight.shape)
        return IntProduct(weight, bias) if aligned else FloatProduct(weight, bias)
    return fastest_on_cpu()(weight, bias)


@cache
def fastest_on_cpu() -> type[OneDnnProduct] | type[FloatProduct]:
    """Return the kind of product that is faster on this CPU, of those that are exact on it."""
    bias = torch.zeros(1, dtype=torch.int32)
    taken = exact_and_faster(lambda w: OneDnnProduct(w, bias.expand(len(w))), lambda w: FloatProduct(w, bias))
    return OneDnnProduct if taken else FloatProduct
