"""Which kernel multiplies int8 matrices on this CPU: exact ones only, and of these the faster."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]


def by_int8(x: Tensor) -> bool:
    """Tell whether torch multiplies int8 matrices exactly, and faster than float32 ones, where `x` is."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling() and _on_cpu()


@cache
def _on_cpu() -> bool:
    return exact_and_faster(
        lambda weight: partial(_int_product, weight.T), lambda weight: partial(_float_product, weight.T.float())
    )


def _int_product(weight: Tensor, x: Tensor) -> Tensor:
    return torch._int_mm(x, weight)


def _float_product(weight: Tensor, x: Tensor) -> Tensor:
    return x.float() @ weight


def exact_and_faster(candidate: Callable[[Tensor], Product], safe: Callable[[Tensor], Product]) -> bool:
    """Tell whether a kernel gives what a safe one does, and sooner; one that this torch lacks does not.

    Args:
        candidate, safe: make of an int8 weight [out, in] the product with int8 rows [rows, in]: integers, whatever
            their dtype.
    """
    random = torch.Generator().manual_seed(0)
    weight = torch.randint(-127, 128, (512, 512), generator=random).to(torch.int8)
    x = torch.randint(-128, 128, (128, 512), generator=random).to(torch.int8)
    # Rows that would saturate 16-bit sums of pairs, which is what int8 products are on a CPU without VNNI.
    weight[0], weight[1], x[0], x[1] = 127, -127, -128, 127
    wanted = safe(weight)
    try:
        found = candidate(weight)
        if not torch.equal(found(x).float(), wanted(x).float()):
            return False
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    return seconds(found, x) < seconds(wanted, x)


def seconds(product: Product, x: Tensor) -> float:
    """Return the time of the fastest of some calls: many, for others may compute at the same time."""
    product(x)
    best = float("inf")
    for _ in range(30):
        start = time.perf_counter()
        product(x)
        best = min(best, time.perf_counter() - start)
    return best
