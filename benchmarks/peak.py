"""The peak of the int8 product: the fastest exact one that this machine has, on large matrices."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from intaglio.products.kernels import ON_CPU, FloatProduct, IntegerProduct, IntProduct

Size = tuple[int, int, int]
# Rows, inner size and outputs: of products that show which kernels are worth a large one, and of the large ones.
PROBES = ((32, 256, 256), (256, 768, 768))
SIZES = {"cpu": ((1024, 1024, 4096), (4096, 1024, 1024)), "cuda": ((8192, 8192, 8192), (8192, 1024, 4096))}
# A kernel slower than the fastest by this factor on a probe is not tried on a larger product: some are reference loops,
# a thousand times slower.
HOPELESS = 3.0
ON_CUDA: list[type[IntegerProduct]] = [FloatProduct, IntProduct]
# Calls of a product: as many as fit in so many seconds, the first apart.
BUDGET = 0.2


@dataclass(frozen=True)
class Peak:
    """Operations per second, in 10^12, with the kernel and the size (rows, inner, outputs) that reached it."""

    tops: float
    kernel: str
    size: Size


@torch.inference_mode()
def product_peak(device: str) -> Peak:
    """Return the fastest of all exact products of int8 rows with an int8 weight; it takes about a second."""
    kinds = [kind for kind in (ON_CPU if device == "cpu" else ON_CUDA) if _exact(kind, device)]
    for probe in PROBES:
        seconds = {kind: _seconds(kind, probe, device) for kind in kinds}
        kinds = [kind for kind in kinds if seconds[kind] <= HOPELESS * min(seconds.values())]
    peaks = [
        Peak(2 * rows * inner * outputs / _seconds(kind, (rows, inner, outputs), device) / 1e12, kind.name, size)
        for kind in kinds
        for size in SIZES[device]
        for rows, inner, outputs in [size]
    ]
    return max(peaks, key=lambda peak: peak.tops)


def _operands(size: Size, device: str) -> tuple[Tensor, Tensor, Tensor]:
    rows, inner, outputs = size
    random = torch.Generator().manual_seed(0)
    x = torch.randint(-128, 128, (rows, inner), generator=random).to(torch.int8)
    # Normal, as those of models are: how fast the exact product of AVX2 is depends on how many weights are large.
    weight = torch.randn(outputs, inner, generator=random).mul_(40).clamp_(-127, 127).to(torch.int8)
    return x.to(device), weight.to(device), torch.zeros(outputs, dtype=torch.int32, device=device)


def _exact(kind: type[IntegerProduct], device: str) -> bool:
    x, weight, bias = _operands(PROBES[0], device)
    # They saturate the 16-bit sums of pairs on a processor without VNNI.
    x[:2], weight[:2] = 127, 127
    try:
        found = kind(weight, bias)(x)
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    return torch.equal(found.double(), x.double() @ weight.double().T)


def _seconds(kind: type[IntegerProduct], size: Size, device: str) -> float:
    x, weight, bias = _operands(size, device)
    product = kind(weight, bias)
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    best, end = float("inf"), None
    while end is None or time.perf_counter() < end:
        wait()
        start = time.perf_counter()
        product(x)
        wait()
        now = time.perf_counter()
        best, end = min(best, now - start), end or now + BUDGET
    return best
