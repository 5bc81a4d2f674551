"""How large a model is: its weights on disk, and its tensors by data type."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from intaglio.errors import UserError

Row = dict[str, Any]


def size_rows(checkpoint: Path, model: Any) -> list[Row]:
    """Return the sizes of a checkpoint: its files, the tensors in them, parameters and buffers in memory, by data type.

    What is shared between layers counts once.

    Args:
        checkpoint: folder with *.safetensors.
        model: what was loaded from it.

    Raises:
        UserError: there is no weights file.
    """
    files = sorted(checkpoint.glob("*.safetensors"))
    if not files:
        raise UserError(f"{checkpoint}: no *.safetensors; the model has no weights")
    on_disk = sum(file.stat().st_size for file in files)
    return [
        {"component": "file", "dtype": None, "bytes": on_disk, "count": len(files)},
        *_by_dtype("tensors", (tensor for file in files for tensor in _stored(file))),
        *_by_dtype("parameters", model.parameters()),
        *_by_dtype("buffers", model.buffers()),
    ]


def _stored(file: Path) -> Iterable[torch.Tensor]:
    with safe_open(file, framework="pt") as content:
        for name in content.keys():  # noqa: SIM118 (it is no dict: it does not iterate)
            yield content.get_tensor(name)


def _by_dtype(component: str, tensors: Iterable[torch.Tensor]) -> list[Row]:
    totals: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for tensor in tensors:
        total = totals[str(tensor.dtype).removeprefix("torch.")]
        total[0] += tensor.numel() * tensor.element_size()
        total[1] += tensor.numel()
    return [
        {"component": component, "dtype": dtype, "bytes": size, "count": count}
        for dtype, (size, count) in sorted(totals.items())
    ]
