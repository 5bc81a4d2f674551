"""Elementwise work in pieces on a CPU, so that intermediate results stay in the caches."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Elements per piece and thread. The tensors of an operation then fit into a third-level cache; in smaller pieces, the
# calls themselves take more time than the caches save.
PIECE = 2**19


def fill(function: Callable[..., object], *tensors: Tensor | None) -> None:
    """Call `function(*tensors)` on slices of the first dimension; the function writes into some of the tensors.

    On other devices each kernel launch costs time, and a compiler tiles by itself: there the function is called once.

    Args:
        function: treats all indices of the first dimension alike.
        tensors: all of the same first dimension, the largest first; None is passed on.
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
    """Call a function on slices of rows, as `fill`, where a row is the last dimension; outputs must be contiguous."""
    fill(function, *(None if x is None else x.reshape(-1, x.shape[-1]) for x in tensors))


def look_up(table: Tensor, codes: Tensor, out: Tensor) -> Tensor:
    """Fill `out`, contiguous, with the entries of a table [n] at these codes, and return it.

    Args:
        table: float32, [n].
        codes: int32 in [0, n); an integer beyond, which is what a CPU makes of NaN, fills `out` with NaN.
        out: float32, of the shape of `codes`.
    """
    try:
        torch.index_select(table, 0, codes.view(-1), out=out.view(-1))
    except IndexError:
        # Training diverged. The loss has to become NaN, too: that is where it is looked for.
        out.fill_(torch.nan)
    return out


def like(x: Tensor, inplace: bool = False) -> Tensor:
    """Return uninitialized contiguous memory like `x`; `x` itself if `inplace` and it is contiguous."""
    return x if inplace and x.is_contiguous() else torch.empty_like(x, memory_format=torch.contiguous_format)
