"""Integer square root by Newton's iteration (Crandall and Pomerance; I-BERT, algorithm 4)."""

from __future__ import annotations

import torch
from torch import Tensor

# A number is brought to [2^28, 2^30), so its root has 15 bits whatever its size.
LOW_BITS, HIGH_BITS = 28, 30
ITERATIONS = 5


def normalize(n: Tensor) -> tuple[Tensor, Tensor]:
    """Shift integers in [1, 2^53), int64 or float64, by an even number of bits into [2^28, 2^30).

    Returns:
        The shifted integers and half the shift (negative for one to the right), both int64.
    """
    n = n.double()
    half = (HIGH_BITS - torch.frexp(n).exponent.long()) >> 1
    return (n * torch.exp2(2 * half.double())).long(), half


def isqrt(n: Tensor) -> Tensor:
    """Return floor(sqrt(n)) of int64 integers in [2^28, 2^30)."""
    x = torch.full_like(n, 2 ** (HIGH_BITS // 2))
    for _ in range(ITERATIONS):
        x = (x + n // x) >> 1
    # From above the iteration ends at the root, or swings between it and the next integer.
    return x - (x * x > n).to(x.dtype)
