"""Encoders from and to folders, safetensors only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification

from intaglio.arithmetic.operations import Operation
from intaglio.encoder.architectures import our_name
from intaglio.encoder.config import from_transformers
from intaglio.encoder.model import Encoder
from intaglio.errors import UserError

CONFIG, WEIGHTS = "config.json", "model.safetensors"
OURS = "intaglio"


def is_ours(folder: Path) -> bool:
    """Tell whether a folder holds an encoder of ours rather than a transformers model.

    Raises:
        UserError: it holds neither.
    """
    return OURS in _described(folder) and not is_int8(folder)


def is_quantized(folder: Path) -> bool:
    """Tell whether a folder holds an encoder of ours that computes on integers, or a model of 8 bits.

    Raises:
        UserError: it holds no model.
    """
    ours = _described(folder).get(OURS, {})
    return bool(ours.get("integer") or "int8" in ours)


def is_int8(folder: Path) -> bool:
    """Tell whether a folder holds a graph that was quantized to 8 bits after training, for ONNX Runtime alone.

    Raises:
        UserError: it holds no model.
    """
    return "int8" in _described(folder).get(OURS, {})


def _described(folder: Path) -> dict[str, Any]:
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder}: no {CONFIG}; it is not a model's folder")
    described: dict[str, Any] = json.loads((folder / CONFIG).read_text())
    return described


def convert(model: Any, integer: frozenset[Operation]) -> Encoder:
    """Build our encoder with the weights of a transformers sequence classification model.

    Raises:
        UserError: the model is of another architecture, or has weights that this encoder has no place for.
    """
    encoder = Encoder(from_transformers(model.config, integer))
    kind = model.config.model_type
    _fill(encoder, {our_name(kind, name): tensor for name, tensor in model.state_dict().items()})
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


def save_pretrained(encoder: Encoder, config: Any, folder: Path) -> None:
    """Write config.json (of transformers, with what is ours alone under a key of its own) and model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    shape = encoder.shape
    ours = {"integer": sorted(shape.integer), "heads": shape.heads, "neurons": shape.neurons}
    described = {**config.to_dict(), OURS: ours}
    (folder / CONFIG).write_text(json.dumps(described, indent=1, sort_keys=True) + "\n")
    weights = {name: tensor.detach().contiguous() for name, tensor in encoder.state_dict().items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def from_pretrained(folder: Path, integer: frozenset[Operation] | None = None, config: Any = None) -> Encoder:
    """Read an encoder of ours, or a transformers checkpoint of the four architectures, in evaluation mode.

    Args:
        folder: where config.json and the weights are.
        integer: which operations shall be integers; None is what the folder says, nothing for a transformers one. What
            has no ranges yet, as it was floating point, must be calibrated.
        config: a transformers configuration to take for the folder's own, of the same sizes and another dropout.

    Raises:
        UserError: the folder does not hold such an encoder.
    """
    ours = _described(folder).get(OURS)
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"{folder}: no weights in safetensors, and none are read from other files")
    config = config or read_config(folder)
    if ours is None:
        model = AutoModelForSequenceClassification.from_pretrained(folder, config=config, use_safetensors=True)
        return convert(model, integer or frozenset()).eval()
    operations = frozenset(ours["integer"]) if integer is None else integer
    # Encoders that were saved before they could be cut do not tell their sizes.
    encoder = Encoder(from_transformers(config, operations, ours.get("heads"), ours.get("neurons")))
    _fill(encoder, load_file(folder / WEIGHTS))
    return encoder.eval()


def read_config(folder: Path) -> Any:
    """Return the transformers configuration of a folder of either kind."""
    described = _described(folder)
    described.pop(OURS, None)
    kind = described.pop("model_type")
    return AutoConfig.for_model(kind, **described)
