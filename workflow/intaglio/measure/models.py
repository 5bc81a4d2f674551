"""What a checkpoint is, for those who measure it, and what there is to run it on."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from intaglio.checkpoint import Checkpoint


@lru_cache(maxsize=1)
def _opened(path: Path) -> Checkpoint:
    return Checkpoint(path)


def load_tokenizer(path: Path) -> Any:
    """Return the tokenizer of a [checkpoint]; the last one is kept, for every measurement wants it."""
    return _opened(path).tokenizer


def load_model(path: Path, device: str | torch.device = "cpu") -> Any:
    """Return the model of a [checkpoint], in evaluation mode."""
    return _opened(path).load(device)


def is_int8(path: Path) -> bool:
    """Tell whether a checkpoint is a graph of 8 bits, for ONNX Runtime alone."""
    return Checkpoint(path).kind == "graph"


def is_integer(path: Path) -> bool:
    """Tell whether a checkpoint computes on integers from end to end, without floating point between operations."""
    return Checkpoint(path).is_integer_only


def devices(wanted: list[str]) -> list[str]:
    """Return those of the wanted devices (cpu, cuda) that this machine has."""
    return [device for device in wanted if device == "cpu" or torch.cuda.is_available()]
