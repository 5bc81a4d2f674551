"""Integer LayerNorm for training on a CPU by the native library, which reads and writes memory once."""

from __future__ import annotations

import torch
from torch import Tensor

from intaglio.native.build import library_if_any
from intaglio.native.operators import norm_for_training


def native_norm(x: Tensor, gamma: Tensor, beta: Tensor, guard: Tensor) -> tuple[Tensor, ...] | None:
    """Return what `layernorm._on_torch` returns, to the bit; None where there is no library, or on another device.

    Args:
        x: float32 integers [..., width].
        gamma, beta: float32 integers [width].
        guard: the share of epsilon in a row's sum of squares for every shift, float64 integers.
    """
    library = None if x.device.type != "cpu" or torch.compiler.is_compiling() else library_if_any()
    if library is None:
        return None
    rows = x.detach().reshape(-1, x.shape[-1]).numpy()
    # The shift of a row with NaN is any of 32 bits; its result is NaN, whatever is read there.
    guard = torch.nn.functional.pad(guard, (0, 32 - len(guard)))
    constants = gamma.int().numpy(), beta.int().numpy(), guard.long().numpy()
    found = norm_for_training(rows, *constants, torch.get_num_threads(), "", library)
    return tuple(torch.from_numpy(one).view(*x.shape[:-1], -1) for one in found)
