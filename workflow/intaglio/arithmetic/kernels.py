"""Choice of the kernel for int8 matrix products on this CPU: the fastest of the exact ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache

import torch
from torch import Tensor

# Maps int8 rows [rows, in] to their integer products with a weight, [rows, out], of any dtype.
Product = Callable[[Tensor], Tensor]
# Prepares the product with an int8 weight [out, in].
Kernel = Callable[[Tensor], Product]

# Rows, inner size and outputs of the products that kernels are timed on. Some kernels are reference loops, a thousand
# times slower than others: the first product is so small that even these take a millisecond.
_SIZES = ((4, 64, 64), (32, 256, 256), (128, 512, 512))
# A kernel slower than the fastest by this factor is not tried on a larger product.
_HOPELESS = 5.0
# Allowance for packing and dispatch per call, in seconds; larger products make up for them.
_DISPATCH = 1e-4
# Number of timed rounds, of which the fastest counts as other processes may run, and their time budget in seconds.
_ROUNDS, _BUDGET = 30, 0.02


def by_int8(x: Tensor) -> bool:
    """Return whether torch multiplies int8 matrices on the device of `x` exactly and faster than float32 ones."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling() and _on_cpu()


@cache
def _on_cpu() -> bool:
    return fastest([_float_product, _int_product]) is _int_product


def _int_product(weight: Tensor) -> Product:
    return lambda x: torch._int_mm(x, weight.T)


def _float_product(weight: Tensor) -> Product:
    real = weight.T.float()
    return lambda x: x.float() @ real


def fastest(kernels: Sequence[Kernel]) -> Kernel:
    """Return the fastest of the kernels that are exact on this machine; takes some tens of milliseconds.

    Kernels are compared on products of growing size. One that is inexact, missing in this torch, or far behind on a
    small product is not called again. The choice never changes a result.

    Args:
        kernels: the first must be exact and available everywhere.
    """
    safe, *rivals = kernels
    taken = safe
    for size in _SIZES:
        weight, x = _operands(*size)
        exact = {rival: product for rival in rivals if (product := _exact(rival, weight, x))}
        if not exact:
            return safe
        times = seconds({safe: safe(weight), **exact}, x)
        taken = min(times, key=lambda kernel: times[kernel])
        rivals = [rival for rival in exact if times[rival] <= _DISPATCH + _HOPELESS * times[taken]]
    return taken


def _operands(rows: int, inner: int, outputs: int) -> tuple[Tensor, Tensor]:
    """Return an int8 weight and int8 rows that contain the extreme values.

    These saturate the 16-bit sums of pairs that CPUs without VNNI use in int8 products.
    """
    random = torch.Generator().manual_seed(0)
    weight = torch.randint(-127, 128, (outputs, inner), generator=random).to(torch.int8)
    x = torch.randint(-128, 128, (rows, inner), generator=random).to(torch.int8)
    weight[0], weight[1], x[0], x[1] = 127, -127, -128, 127
    return weight, x


def _exact(kernel: Kernel, weight: Tensor, x: Tensor) -> Product | None:
    """Return the kernel's product with a weight; None if it is missing or its result differs from float64's."""
    try:
        product = kernel(weight)
        found = product(x)
    except (RuntimeError, AttributeError, NotImplementedError):
        return None
    return product if torch.equal(found.double(), x.double() @ weight.T.double()) else None


def seconds(products: Mapping[Kernel, Product], x: Tensor) -> dict[Kernel, float]:
    """Return the time of the fastest call of each product, in seconds; calls take turns until the budget is spent."""
    best = dict.fromkeys(products, float("inf"))
    end = time.perf_counter() + _BUDGET
    for _ in range(_ROUNDS):
        for kernel, product in products.items():
            start = time.perf_counter()
            product(x)
            now = time.perf_counter()
            best[kernel] = min(best[kernel], now - start)
        if now > end:
            break
    return best
