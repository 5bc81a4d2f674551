"""Products of int8 rows with an int8 weight, by every kernel that may be the fastest somewhere; all exact."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from intaglio.native.build import library_if_any
from intaglio.native.operators import PackedProduct

# _int_mm on CUDA needs at least this number of rows.
_FEWEST_ROWS = 17
# torch._int_mm takes sizes that are multiples of this.
_ALIGNED = 8


class IntegerProduct:
    """A product with an int8 weight [out, in] and an int32 bias [out].

    It is called with int8 [rows, in] and returns accumulators including the bias, [rows, out], integers in int32 or
    float32.

    Attributes:
        name: of the kernel, for the tables.

    Raises:
        RuntimeError, AttributeError or NotImplementedError: this machine does not have the kernel.
    """

    name: ClassVar[str]

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        raise NotImplementedError

    def __call__(self, x: Tensor) -> Tensor:
        """Return accumulators of [rows, in]."""
        raise NotImplementedError

    @classmethod
    def takes(cls, inner: int, outputs: int) -> bool:
        """Return whether the kernel takes weights of this size."""
        return inner > 0 and outputs > 0


class FloatProduct(IntegerProduct):
    """Exact float32 products of the integers, which every processor has."""

    name = "float32 of integers"

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight = weight.float().t()
        self.bias = bias.float()

    def __call__(self, x: Tensor) -> Tensor:
        """See `IntegerProduct`."""
        return torch.addmm(self.bias, x.float(), self.weight)


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

    @classmethod
    def takes(cls, inner: int, outputs: int) -> bool:
        """See `IntegerProduct`."""
        return inner % _ALIGNED == outputs % _ALIGNED == 0


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
        constants = (self.weight, self.scales, self.zero_points, self.bias)
        result: Tensor = torch.ops.onednn.qlinear_pointwise(
            x, 1.0, 0, *constants, 1.0, 0, torch.float32, "none", [], ""
        )
        return result


class NativeProduct(IntegerProduct):
    """The native library's, with the fastest instructions of the CPU; float32."""

    name = "int8 native"

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        library = library_if_any()
        if library is None or weight.is_cuda:
            raise NotImplementedError("no native library")
        threads = torch.get_num_threads()
        self.packed = PackedProduct(weight.numpy(), bias.numpy(), threads, "", library)

    def __call__(self, x: Tensor) -> Tensor:
        """See `IntegerProduct`."""
        x = x.contiguous()
        result = torch.empty(len(x), self.packed.outputs)
        self.packed.into(x.data_ptr(), len(x), result.data_ptr())
        return result


# The first is exact and available everywhere.
ON_CPU: list[type[IntegerProduct]] = [FloatProduct, IntProduct, OneDnnProduct, NativeProduct]
