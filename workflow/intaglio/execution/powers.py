"""Powers of two and bit counts of float32-carried integers, in forms that compilers vectorize."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


# frexp and exp2 would do the same, but several times as slowly.
def bits_of(x: Tensor) -> Tensor:
    """Return the bit counts of non-negative float32 integers, int32 (very negative for 0)."""
    return (x.view(torch.int32) >> 23) - 126


def integer_exp2(exponent: Any) -> Tensor:
    """Return 2^exponent as float32, from an int32 tensor."""
    power: Tensor = ((exponent + 127) << 23).view(torch.float32)
    return power


def floor_shift(x: Tensor, shift: Any) -> Tensor:
    """Shift float32 integers to the right, rounding down; returns float32."""
    return torch.floor(x * integer_exp2(-shift))
