"""Elementwise work done piece by piece on a CPU: what lies between two steps of it stays in the caches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

# Numbers of a piece, for each thread: a few pieces fit into a core's second-level cache.
PIECE = 2**17


def in_pieces(x: Tensor) -> bool:
    """Tell whether to divide the work: elsewhere than on a CPU every kernel costs, and a compiler divides by itself."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def slices(x: Tensor) -> Iterator[slice]:
    """Yield slices of the first dimension of `x`, which together are all of it."""
    rows = x.shape[0]
    step = max(1, PIECE * torch.get_num_threads() * rows // max(1, x.numel()))
    for start in range(0, rows, step):
        yield slice(start, start + step)


def fill(outputs: Sequence[Tensor], function: Callable[..., Sequence[Tensor]], *inputs: Tensor | None) -> None:
    """Write what `function` makes of its inputs into `outputs`, some slices of the first dimension at a time.

    Args:
        outputs: contiguous, of any shapes with the same first dimension; each may be one of the inputs.
        function: takes slices of the inputs and returns slices of the outputs, without changing its arguments.
        inputs: with the same first dimension, or None, which the function gets as it is.
    """
    widest = max((x for x in inputs if x is not None), key=Tensor.numel)
    for part in slices(widest):
        results = function(*(None if x is None else x[part] for x in inputs))
        for output, result in zip(outputs, results, strict=True):
            output[part].copy_(result)


def rows_of(x: Tensor) -> Tensor:
    """Return [..., width] as [rows, width], without a copy."""
    return x.view(-1, x.shape[-1]) if x.dim() else x.view(1, 1)


def mapped(function: Callable[..., Tensor], *inputs: Tensor | None, into: Tensor | None = None) -> Tensor:
    """Return `function(*inputs)`, for a function that treats every row, of the last dimension, by itself.

    Args:
        function: takes rows and returns rows, without changing its arguments.
        inputs: all of the same shape, [..., width]; or None, which the function gets as it is.
        into: one of the inputs, contiguous, which may be overwritten by the result, and is where work is in pieces.
    """
    first = next(x for x in inputs if x is not None)
    if not in_pieces(first):
        return function(*inputs)
    result = torch.empty_like(first, memory_format=torch.contiguous_format) if into is None else into
    rows = [None if x is None else x.reshape(-1, x.shape[-1]) if x.dim() else x.view(1, 1) for x in inputs]
    fill([rows_of(result)], lambda *parts: (function(*parts),), *rows)
    return result
