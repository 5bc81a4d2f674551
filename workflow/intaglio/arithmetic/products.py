"""Whether a training step multiplies by int8 instructions: exact where these do not saturate."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor


def by_int8(x: Tensor) -> bool:
    """Tell whether torch multiplies int8 matrices exactly, and faster than float32 ones, where `x` is."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling() and _on_cpu()


@cache
def _on_cpu() -> bool:
    random = torch.Generator().manual_seed(0)
    weight = torch.randint(-127, 128, (512, 512), generator=random).to(torch.int8)
    x = torch.randint(-128, 128, (128, 512), generator=random).to(torch.int8)
    # Rows that would saturate 16-bit sums of pairs, which is what int8 products are on some CPUs.
    weight[0], weight[1], x[0], x[1] = 127, -127, -128, 127
    wide_x, wide_weight = x.float(), weight.float()
    try:
        if not torch.equal(torch._int_mm(x, weight.T).float(), wide_x @ wide_weight.T):
            return False
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    return _seconds(lambda: torch._int_mm(x, weight.T)) < _seconds(lambda: wide_x @ wide_weight.T)


def _seconds(call: Callable[[], Tensor]) -> float:
    call()
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best
