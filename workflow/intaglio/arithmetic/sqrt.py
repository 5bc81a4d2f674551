"""Integer square root by Newton's iteration (Crandall and Pomerance; I-BERT, algorithm 4)."""

from __future__ import annotations

import torch
from torch import Tensor

# A number is brought to [2^28, 2^30), so its root has 15 bits whatever its size.
LOW_BITS, HIGH_BITS = 28, 30
ITERATIONS = 5


def normalize(n: Tensor) -> tuple[Tensor, Tensor]:
    """Shift integers in [1, 2^31) by an even number of bits into [2^28, 2^30).

    Returns:
        The shifted integers and half the shift (negative for one to the right), both int64.
    """
    half = torch.zeros_like(n)
    for shift in (14, 8, 4, 2, 2):
        low = n < 2 ** (HIGH_BITS - shift)
        # a shift that would leave the number below the upper bound is taken
        n = torch.where(low, n << shift, n)
        half = half + low * (shift // 2)
    high = n >= 2**HIGH_BITS
    return torch.where(high, n >> 2, n), torch.where(high, half - 1, half)


def isqrt(n: Tensor) -> Tensor:
    """Return floor(sqrt(n)) of int64 integers in [2^28, 2^30)."""
    x = torch.full_like(n, 2 ** (HIGH_BITS // 2))
    for _ in range(ITERATIONS):
        x = (x + n // x) >> 1
    # From above the iteration ends at the root, or swings between it and the next integer.
    return x - (x * x > n).to(x.dtype)
