"""PyTorch with 2:4 sparse weights in the format of the sparse tensor cores of NVIDIA GPUs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from intaglio.checkpoint import Checkpoint
from intaglio.encoder.parts import linear_layers
from intaglio.errors import UserError
from intaglio.measure.backends.eager import Eager
from intaglio.stages.masks import GROUP, GROUP_ZEROS

# Compute capability of Ampere, the first architecture with sparse tensor cores.
_CAPABILITY = (8, 0)
# Both libraries behind torch (cuSPARSELt and CUTLASS) support numbers of rows and columns that are multiples of this.
_BLOCK = 64


def has_sparse_cores() -> bool:
    """Return whether there is a GPU with sparse tensor cores."""
    return torch.cuda.is_available() and torch.cuda.get_device_capability() >= _CAPABILITY


def fitting_layers(model: Any) -> dict[str, nn.Linear]:
    """Return the linear layers of a classifier whose weights are 2:4 sparse and of a size that the kernels support.

    Raises:
        UserError: the architecture is not supported.
    """
    return {name: layer for name, layer in linear_layers(model).items() if _fits(layer.weight.detach())}


def _fits(weight: torch.Tensor) -> bool:
    if any(size % _BLOCK for size in weight.shape):
        return False
    return bool(((weight == 0).unflatten(1, (-1, GROUP)).sum(-1) >= GROUP_ZEROS).all())


def semi_structured(model: Any, dtype: torch.dtype = torch.float16) -> Any:
    """Move a classifier to the GPU in 16 bits, with its 2:4 sparse weights in the format of the sparse tensor cores.

    Args:
        model: transformers' model or the float encoder; changed in place, so that it cannot be trained or saved
        afterwards.
        dtype: float16 or bfloat16.

    Returns:
        The model, called as before; its logits have the dtype `dtype`.

    Raises:
        UserError: there is no such GPU, or no layer with a supported size.
    """
    if not has_sparse_cores():
        raise UserError("2:4 sparse kernels need an NVIDIA GPU of compute capability 8.0 or more, and there is none")
    layers = fitting_layers(model)
    if not layers:
        raise UserError(f"no linear layer is 2:4 sparse with sizes that divide by {_BLOCK}; prune with structure: 2:4")
    model = model.to("cuda", dtype).eval().requires_grad_(False)
    for layer in layers.values():
        sparse = torch.sparse.to_sparse_semi_structured(layer.weight.detach())
        layer.weight = nn.Parameter(sparse, requires_grad=False)
    return model


class Sparse(Eager):
    """2:4 sparse kernels in 16 bits, for models with 2:4 sparse weights."""

    devices = ("cuda",)

    def missing(self, device: str) -> str | None:
        """See `Backend`."""
        return None if has_sparse_cores() else "no GPU of compute capability 8.0 or more"

    def refusal(self, checkpoint: Checkpoint) -> str | None:
        """See `Backend`."""
        reason = super().refusal(checkpoint)
        if reason is None and not fitting_layers(checkpoint.load()):
            return f"no linear layer is 2:4 sparse with sizes that divide by {_BLOCK}"
        return reason

    def open(self, checkpoint: Checkpoint, export: Path, device: str, threads: int) -> Any:
        """See `Backend`."""
        return semi_structured(checkpoint.load())

    def kernel(self, model: Any, operators: Mapping[str, float]) -> str:
        """See `Backend`."""
        return f"{super().kernel(model, operators)}, 2:4 sparse"
