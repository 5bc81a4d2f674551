"""Integer square root, as Newton's iteration gives it (Crandall and Pomerance; I-BERT, algorithm 4)."""

from __future__ import annotations

import torch
from torch import Tensor

# A number is brought to [2^28, 2^30), so its root has 15 bits whatever its size.
LOW_BITS, HIGH_BITS = 28, 30
ITERATIONS = 5


def power_of_two(exponent: Tensor) -> Tensor:
    """Return 2^exponent as float64, from int64."""
    # torch.exp2 and torch.ldexp take several times as long
    return ((exponent + 1023) << 52).view(torch.float64)


def normalize(n: Tensor) -> tuple[Tensor, Tensor]:
    """Shift integers in [1, 2^53), int64 or float64, by an even number of bits into [2^28, 2^30).

    Returns:
        The shifted integers, float64, and half the shift (negative for one to the right), int64.
    """
    n = n.double()
    bits = (n.view(torch.int64) >> 52) - 1022
    half = (HIGH_BITS - bits) >> 1
    return (n * power_of_two(2 * half)).floor_(), half


def isqrt(n: Tensor) -> Tensor:
    """Return floor(sqrt(n)) of integers in [2^28, 2^30), float64.

    It is where Newton's iteration on integers ends. float64 holds them, and rounds their root to the nearest number: a
    root that is no integer is too far from the next one to become it.
    """
    return n.double().sqrt().floor_()
