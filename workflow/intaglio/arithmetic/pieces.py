"""Elementwise work done piece by piece on a CPU: what lies between two steps of it stays in the caches."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Numbers of a piece, for each thread: the few tensors of an operation then fit into a core's second-level cache.
PIECE = 2**17


def fill(function: Callable[..., object], *tensors: Tensor | None) -> None:
    """Call `function(*tensors)`, which writes into some of them, with some of the first dimension at a time.

    Elsewhere than on a CPU every kernel costs, and a compiler divides by itself: there it is one call with all.

    Args:
        function: treats all indices of the first dimension alike.
        tensors: the first dimension is the same for all; None is passed on. The first one is the largest.
    """
    first = tensors[0]
    assert first is not None
    if first.device.type != "cpu" or torch.compiler.is_compiling():
        function(*tensors)
        return
    rows = first.shape[0]
    step = max(1, PIECE * torch.get_num_threads() * rows // max(1, first.numel()))
    for start in range(0, rows, step):
        function(*(None if x is None else x[start : start + step] for x in tensors))


def fill_rows(function: Callable[..., object], *tensors: Tensor | None) -> None:
    """Do as `fill` does with rows of the last dimension; what is written into has to be contiguous."""
    fill(function, *(None if x is None else x.reshape(-1, x.shape[-1]) for x in tensors))


def like(x: Tensor, inplace: bool = False) -> Tensor:
    """Return uninitialized memory of the shape and type of `x`, contiguous; `x` itself, if it may be and is."""
    return x if inplace and x.is_contiguous() else torch.empty_like(x, memory_format=torch.contiguous_format)
