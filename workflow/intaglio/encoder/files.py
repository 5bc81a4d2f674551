"""Reading and writing encoders as folders with safetensors."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig

from intaglio.arithmetic.operations import Operation
from intaglio.encoder.architectures import encoder_name
from intaglio.encoder.config import from_transformers
from intaglio.encoder.model import Encoder
from intaglio.encoder.transformers_head import auto_class
from intaglio.errors import UserError

CONFIG, WEIGHTS = "config.json", "model.safetensors"
# Key of config.json that holds an encoder's operations and sizes.
SECTION = "intaglio"


def read_config(folder: Path) -> dict[str, Any]:
    """Return the content of a model folder's config.json; the key `SECTION` holds what only Intaglio reads.

    Raises:
        UserError: there is no config.json.
    """
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder}: no {CONFIG}; it is not a model's folder")
    described: dict[str, Any] = json.loads((folder / CONFIG).read_text())
    return described


def transformers_config(described: Mapping[str, Any]) -> Any:
    """Return the transformers configuration that the content of a config.json describes."""
    known = {name: value for name, value in described.items() if name not in (SECTION, "model_type")}
    return AutoConfig.for_model(described["model_type"], **known)


def convert(
    model: Any, integer: frozenset[Operation], bits: Mapping[str, int] | None = None, keep_float: Iterable[str] = ()
) -> Encoder:
    """Build an encoder with the weights of a transformers model for classification or question answering.

    Args:
        model: the transformers model.
        integer, bits, keep_float: as in `from_transformers`.

    Raises:
        UserError: the architecture is not supported, or there are weights without a place in the encoder.
    """
    encoder = Encoder(from_transformers(model.config, integer, bits=bits, keep_float=keep_float))
    kind = model.config.model_type
    _fill(encoder, {encoder_name(kind, name): tensor for name, tensor in model.state_dict().items()})
    return encoder.train(model.training)


def _fill(encoder: Encoder, weights: Mapping[str, Tensor]) -> None:
    missing, unexpected = encoder.load_state_dict(weights, strict=False)
    # A float encoder has no ranges; position indices are a buffer of some versions.
    lost = [name for name in missing if not name.endswith(".largest")]
    strange = [name for name in unexpected if not name.endswith("position_ids")]
    if lost or strange:
        kind = encoder.shape.model_type
        raise UserError(f"the {kind} checkpoint does not fit: missing {lost[:3]}, without a place {strange[:3]}")
    encoder.calibrated = encoder.has_ranges()


def save_encoder(encoder: Encoder, config: Any, folder: Path) -> None:
    """Write config.json (transformers' with Intaglio's section) and model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    shape = encoder.shape
    section: dict[str, Any] = {"integer": sorted(shape.integer), "heads": shape.heads, "neurons": shape.neurons}
    if (shape.weight_bits, shape.embedding_bits) != (8, 8):
        section["bits"] = {"weights": shape.weight_bits, "embeddings": shape.embedding_bits}
    if shape.keep_float:
        section["keep_float"] = sorted(shape.keep_float)
    described = {**config.to_dict(), SECTION: section}
    (folder / CONFIG).write_text(json.dumps(described, indent=1, sort_keys=True) + "\n")
    weights = {name: tensor.detach().contiguous() for name, tensor in encoder.state_dict().items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def read_encoder(
    folder: Path,
    integer: frozenset[Operation] | None = None,
    config: Any = None,
    bits: Mapping[str, int] | None = None,
    keep_float: Iterable[str] | None = None,
) -> Encoder:
    """Read an encoder, or a transformers classifier of a supported architecture as an encoder, in evaluation mode.

    Args:
        folder: contains config.json and the weights.
        integer: operations to run on integers; None for those in config.json, which are none for a transformers model.
            An operation that was in floating point has no range yet and must be calibrated.
        config: a transformers configuration to use in place of the folder's own, with the same sizes; for another
            dropout.
        bits: of `weights` and of `embeddings`; None for those in config.json.
        keep_float: operations of single layers that stay in floating point; None for those in config.json.

    Raises:
        UserError: the folder holds no such encoder.
    """
    described = read_config(folder)
    section = described.get(SECTION)
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"{folder}: no weights in safetensors, and none are read from other files")
    config = config or transformers_config(described)
    if section is None:
        model = auto_class(config).from_pretrained(folder, config=config, dtype=torch.float32, use_safetensors=True)
        return convert(model, integer or frozenset(), bits, keep_float or ()).eval()
    operations = frozenset(section["integer"]) if integer is None else integer
    # Encoders that were saved before cutting existed do not name their sizes.
    heads, neurons = section.get("heads"), section.get("neurons")
    floating = section.get("keep_float", ()) if keep_float is None else keep_float
    encoder = Encoder(from_transformers(config, operations, heads, neurons, bits or section.get("bits"), floating))
    _fill(encoder, load_file(folder / WEIGHTS))
    return encoder.eval()
