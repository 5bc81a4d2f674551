"""Integer square root by Newton's iteration (Crandall and Pomerance; I-BERT, algorithm 4)."""

from __future__ import annotations

import torch
from torch import Tensor

# Numbers are shifted into [2^28, 2^30), so that their roots have 15 bits.
LOW_BITS, HIGH_BITS = 28, 30
ITERATIONS = 5


def power_of_two(exponent: Tensor) -> Tensor:
    """Return 2^exponent as float64, from int64."""
    # torch.exp2 and torch.ldexp are several times as slow
    return ((exponent + 1023) << 52).view(torch.float64)


def normalize(n: Tensor) -> tuple[Tensor, Tensor]:
    """Shift integers in [1, 2^53), int64 or float64, by an even number of bits into [2^28, 2^30).

    Returns:
        The shifted integers, float64, and half the shift (negative for a shift to the right), int64.
    """
    n = n.double()
    bits = (n.view(torch.int64) >> 52) - 1022
    half = (HIGH_BITS - bits) >> 1
    return (n * power_of_two(2 * half)).floor_(), half


def isqrt(n: Tensor) -> Tensor:
    """Return floor(sqrt(n)) of integers in [2^28, 2^30), float64.

    This is the fixed point of Newton's iteration on integers. float64 holds the numbers and rounds their roots to
    nearest; a root that is not an integer is too far from the next integer to be rounded up to it.
    """
    return n.double().sqrt().floor_()
