"""The constants of an integer encoder as a file for the native library (`intaglio.native`)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from torch import Tensor

from intaglio.encoder.config import EncoderConfig
from intaglio.encoder.model import Encoder
from intaglio.encoder.padding import PADDING
from intaglio.execution.constants import Constants, constants_of
from intaglio.native.runner import NUMBERS, PADDING_LOGIT, packed

# Numbers of the head's activations in the library.
_ACTIVATIONS = {"tanh": 0, "relu": 1, "gelu": 2}


def write_constants(encoder: Encoder, path: Path) -> None:
    """Write the constants of a calibrated integer encoder and its head, as safetensors.

    Tensors are named by their places in `Constants` (layers.0.output.weight); numbers are in the metadata. Integers
    of 4 bits are packed two to a byte, as uint8 (`packed`).

    Raises:
        UserError: the encoder computes in floating point or is not calibrated.
    """
    with torch.no_grad():
        constants = constants_of(encoder)
    tensors: dict[str, NDArray[Any]] = {}
    numbers: dict[str, float] = {}
    for name, value in _named(constants):
        if isinstance(value, Tensor) and value.dim():
            array = value.detach().contiguous().cpu().numpy()
            tensors[name] = packed(array) if _bits(name, constants.shape) == 4 else array
        else:
            numbers[name] = float(value)
    save_file(tensors, path, {NUMBERS: json.dumps(numbers)})


def _bits(name: str, shape: EncoderConfig) -> int:
    """Return the number of bits in which an integer tensor is stored."""
    if name == "embeddings.tables.0":
        return shape.embedding_bits
    return shape.weight_bits if name.endswith(".weight") and not name.startswith("head.") else 8


def _named(constants: Constants) -> Iterator[tuple[str, Any]]:
    """Yield the names and values of all constants."""
    yield "width", constants.shape.hidden_size
    yield "head_width", constants.shape.head_width
    yield "layers", len(constants.layers)
    yield "scale", constants.scale
    yield from _parts(constants.embeddings, "embeddings")
    yield from _parts(constants.layers, "layers")
    head = constants.head
    layers = {"output": head.output}
    if constants.shape.every_token:
        yield PADDING_LOGIT, PADDING
    else:
        yield "head.activation", _ACTIVATIONS[head.activation.__name__]
        layers["dense"] = head.dense
    for layer, part in layers.items():
        yield f"head.{layer}.weight", part.weight
        yield f"head.{layer}.bias", part.bias


def _parts(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if is_dataclass(value) and not isinstance(value, type):
        for part in fields(value):
            yield from _parts(getattr(value, part.name), f"{name}.{part.name}")
    elif isinstance(value, tuple):
        for number, part in enumerate(value):
            yield from _parts(part, f"{name}.{number}")
    elif value is not None:
        yield name, value
