"""Powers of two, bit counts and roots of integers that floating point carries, in forms that compilers vectorize."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from intaglio.arithmetic import layernorm
from intaglio.arithmetic.sqrt import HIGH_BITS


# frexp and exp2 would do the same, several times as slowly.
def bits_of(x: Tensor) -> Tensor:
    """Return of non-negative float32 integers how many bits they have, int32 (far below 0 for 0)."""
    return (x.view(torch.int32) >> 23) - 126


def power_of_two(exponent: Any) -> Tensor:
    """Return 2^exponent as float32, from an int32 tensor."""
    power: Tensor = ((exponent + 127) << 23).view(torch.float32)
    return power


def power_of_two_double(exponent: Tensor) -> Tensor:
    """Return 2^exponent as float64, from int64."""
    return ((exponent + 1023) << 52).view(torch.float64)


def row_multiplier(squares: Tensor, precision: int, dividend: int) -> Tensor:
    """Return what `intaglio.arithmetic.layernorm.row_multiplier` does, of float64 integers [..., 1].

    float64 holds them exactly, and its square root, rounded down, is the integer one.
    """
    half = (HIGH_BITS - ((squares.view(torch.int64) >> 52) - 1022)) >> 1
    root = torch.floor(torch.sqrt(torch.floor(squares * power_of_two_double(2 * half))))
    reciprocal = torch.floor((dividend + torch.floor(root * 0.5)) / root)
    return (reciprocal * power_of_two_double(half - (precision - layernorm.GRID_BITS))).float()


def floor_shift(x: Tensor, shift: Any) -> Tensor:
    """Return float32 integers shifted to the right, float32."""
    return torch.floor(x * power_of_two(-shift))
