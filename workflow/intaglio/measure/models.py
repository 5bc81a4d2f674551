"""What a checkpoint is, for those who measure it, and what there is to run it on."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from intaglio.arithmetic.operations import OPERATIONS
from intaglio.checkpoint import load_checkpoint, load_model
from intaglio.checkpoint import load_tokenizer as read_tokenizer
from intaglio.encoder.checkpoint import OURS, is_int8
from intaglio.errors import UserError
from intaglio.tasks.tokenize import longest_input

__all__ = [
    "check_length",
    "devices",
    "is_int8",
    "is_integer",
    "load_checkpoint",
    "load_model",
    "load_tokenizer",
    "read_config",
]


@lru_cache(maxsize=1)
def load_tokenizer(path: Path) -> Any:
    """Return the tokenizer of a [checkpoint]; the last one is kept, for every measurement wants it."""
    return read_tokenizer(path)


def is_integer(path: Path) -> bool:
    """Tell whether a checkpoint computes on integers from end to end, without floating point between operations."""
    return set(read_config(path).get(OURS, {}).get("integer", ())) == set(OPERATIONS)


def read_config(path: Path) -> dict[str, Any]:
    """Return the content of a model folder's config.json."""
    file = path / "config.json"
    if not file.is_file():
        raise UserError(f"{path}: no config.json; it is not a model's folder")
    config: dict[str, Any] = json.loads(file.read_text())
    return config


def check_length(path: Path, length: int, what: str) -> None:
    """Refuse sequences that are longer than the model's positions.

    Raises:
        UserError: they are; `what` names the key of the study that asks for them.
    """
    limit = longest_input(read_config(path))
    if limit is not None and length > limit:
        raise UserError(f"{what}: {length} tokens, but the model in {path} takes at most {limit}; ask for fewer")


def devices(wanted: list[str]) -> list[str]:
    """Return those of the wanted devices (cpu, cuda) that this machine has."""
    return [device for device in wanted if device == "cpu" or torch.cuda.is_available()]
