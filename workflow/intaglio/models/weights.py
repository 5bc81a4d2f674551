"""Reading of a pretrained encoder's weights in float32, checked against the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from intaglio.encoder.model import Encoder
from intaglio.encoder.transformers_head import auto_class, with_logits
from intaglio.errors import UserError

# Number of mismatching keys or shapes that a message names.
_NAMED = 3


def read_classifier(folder: Path, config: Any, name: str) -> tuple[Any, set[str]]:
    """Return a classifier in float32 with the weights of a folder, and the names of its head's weights in the folder.

    Weights of the head or the pooler that the folder lacks are initialized by torch's random numbers.

    Args:
        folder: contains config.json and safetensors.
        config: of the classifier; its labels decide the shape of the head.
        name: name of the model in messages.

    Raises:
        UserError: there are no weights, or weights of the encoder are missing, of another shape, or have no place.
    """
    try:
        model, report = auto_class(config).from_pretrained(
            folder,
            config=config,
            use_safetensors=True,
            # A head for other labels is replaced; all other shapes are checked below.
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            dtype=torch.float32,
            local_files_only=True,
        )
    except OSError as error:
        raise UserError(f"{name}: no weights in model.safetensors; bring a model that has them") from error
    _check(model, report, name)
    return with_logits(model), set(head_keys(model)) - set(report["missing_keys"])


def head_keys(model: Any) -> list[str]:
    """Return the names of a classifier's weights that do not belong to its base model."""
    return [key for key in model.state_dict() if not key.startswith(f"{model.base_model_prefix}.")]


def output_layer(model: Any) -> nn.Linear:
    """Return the last layer of the head of a transformers classifier or of an encoder, with a row for each output."""
    if isinstance(model, Encoder):
        return model.head.output
    head = {key.rpartition(".")[0] for key in head_keys(model)}
    return [layer for name, layer in model.named_modules() if name in head and isinstance(layer, nn.Linear)][-1]


def _check(model: Any, report: Mapping[str, Any], name: str) -> None:
    """Refuse weights that would leave a part of the encoder untrained or unused."""
    head = set(head_keys(model))
    wrong = sorted(entry for entry in report["mismatched_keys"] if entry[0] not in head)
    if wrong:
        shapes = ", ".join(f"{key} is {list(there)}, not {list(wanted)}" for key, there, wanted in wrong[:_NAMED])
        raise UserError(
            f"{name}: weights do not fit config.json: {shapes}{_more(wrong)}; bring the config.json that was saved with"
            " these weights"
        )
    missing = sorted(key for key in report["missing_keys"] if key not in head and "pooler" not in key.split("."))
    unexpected = sorted(key for key in report["unexpected_keys"] if _is_encoders(key, model))
    prefix = _prefix(report["unexpected_keys"], model)
    if missing and prefix:
        raise UserError(
            f"{name}: the names of its weights begin with {prefix!r}, as a wrapper saves them; load it with that"
            " wrapper and save the transformers model in it with save_pretrained"
        )
    if missing:
        raise UserError(
            f"{name}: weights are missing: {_list(missing)}; config.json describes another model than the weights"
        )
    if unexpected:
        raise UserError(
            f"{name}: weights have no place in the model: {_list(unexpected)}; config.json describes another model than"
            " the weights, or transformers no longer knows this one (relative positions in BERT, for example)"
        )


def _list(keys: list[str]) -> str:
    return ", ".join(keys[:_NAMED]) + _more(keys)


def _more(found: list[Any]) -> str:
    return f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""


def _is_encoders(key: str, model: Any) -> bool:
    """Return whether a weight without a place belongs to the encoder, not to a head or a buffer."""
    parts = key.removeprefix(f"{model.base_model_prefix}.").split(".")
    return (
        parts[0] in {own.split(".")[0] for own in model.base_model.state_dict()}
        and "pooler" not in parts
        and parts[-1] != "position_ids"
    )


def _prefix(keys: Iterable[str], model: Any) -> str | None:
    """Return the prefix of the names of the encoder's weights; None if there is none."""
    own = set(model.base_model.state_dict())
    for key in keys:
        before, _, rest = key.partition(".")
        if rest.removeprefix(f"{model.base_model_prefix}.") in own:
            return f"{before}."
    return None
