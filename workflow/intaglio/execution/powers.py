"""Powers of two and bit counts of integers that floating point carries, in forms that compilers vectorize."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


# frexp and exp2 would do the same, several times as slowly.
def bits_of(x: Tensor) -> Tensor:
    """Return of non-negative float32 integers how many bits they have, int32 (far below 0 for 0)."""
    return (x.view(torch.int32) >> 23) - 126


def integer_exp2(exponent: Any) -> Tensor:
    """Return 2^exponent as float32, from an int32 tensor."""
    power: Tensor = ((exponent + 127) << 23).view(torch.float32)
    return power


def floor_shift(x: Tensor, shift: Any) -> Tensor:
    """Return float32 integers shifted to the right, float32."""
    return torch.floor(x * integer_exp2(-shift))
