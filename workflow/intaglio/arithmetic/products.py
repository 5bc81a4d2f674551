"""Which kernel multiplies int8 matrices on this CPU: the fastest of those that are exact."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache

import torch
from torch import Tensor

# From int8 rows [rows, in] to their integer products with a weight, [rows, out], whatever the dtype.
Product = Callable[[Tensor], Tensor]
# Makes a product of an int8 weight [out, in].
Kernel = Callable[[Tensor], Product]

# Rows, inner size and outputs of the products that kernels are compared on. A kernel may be a reference loop a thousand
# times as slow as the others: the first product is so small that this costs a millisecond, too.
_SIZES = ((4, 64, 64), (32, 256, 256), (128, 512, 512))
# A kernel that takes so many times as long as the fastest is not tried on a larger product.
_HOPELESS = 5.0
# What a call may take in any case, s: packing and dispatch, which larger products make up for.
_DISPATCH = 1e-4
# Rounds of calls, of which the fastest counts since others may compute at the same time, and the time for them, s.
_ROUNDS, _BUDGET = 30, 0.02


def by_int8(x: Tensor) -> bool:
    """Tell whether torch multiplies int8 matrices exactly, and faster than float32 ones, where `x` is."""
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
    """Return the fastest of the kernels that are exact here, in some tens of milliseconds whatever they do.

    They are compared on products of growing size; one that is not exact, that this torch lacks or that is far behind
    on a small product is not called again. Which one is taken never changes a result.

    Args:
        kernels: the first is exact and present everywhere.
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
    """Return an int8 weight and int8 rows, the largest numbers among them.

    These saturate sums of pairs in 16 bits, which int8 products are on a CPU without VNNI.
    """
    random = torch.Generator().manual_seed(0)
    weight = torch.randint(-127, 128, (outputs, inner), generator=random).to(torch.int8)
    x = torch.randint(-128, 128, (rows, inner), generator=random).to(torch.int8)
    weight[0], weight[1], x[0], x[1] = 127, -127, -128, 127
    return weight, x


def _exact(kernel: Kernel, weight: Tensor, x: Tensor) -> Product | None:
    """Return the kernel's product with a weight; None where it is absent or gives another result than float64."""
    try:
        product = kernel(weight)
        found = product(x)
    except (RuntimeError, AttributeError, NotImplementedError):
        return None
    return product if torch.equal(found.double(), x.double() @ weight.T.double()) else None


def seconds(products: Mapping[Kernel, Product], x: Tensor) -> dict[Kernel, float]:
    """Return the time of the fastest call of each product, all called in turn until their time is up."""
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
