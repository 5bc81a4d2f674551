"""Loading a checkpoint to measure it: transformers' own models, or our encoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from intaglio.encoder.checkpoint import from_pretrained, is_ours
from intaglio.errors import UserError
from intaglio.store import open_artifact
from intaglio.tasks.tokenize import longest_input


def load_checkpoint(path: Path, device: str | torch.device = "cpu") -> tuple[Any, Any]:
    """Return the model of a [checkpoint], in evaluation mode on the device, and its tokenizer.

    The model is called with input_ids, attention_mask and, where the tokenizer makes them, token_type_ids (int64,
    [batch, length]); its output has `logits` ([batch, labels]).

    Raises:
        UserError: the artifact is damaged, or its file lacks weights that the model has.
    """
    open_artifact(path, "checkpoint")
    model = from_pretrained(path) if is_ours(path) else _transformers(path)
    return model.to(device).eval(), AutoTokenizer.from_pretrained(path, local_files_only=True)


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


def _transformers(path: Path) -> Any:
    model, report = AutoModelForSequenceClassification.from_pretrained(
        path, local_files_only=True, use_safetensors=True, output_loading_info=True
    )
    # Transformers would fill what is missing with random numbers and go on.
    if report["missing_keys"]:
        raise UserError(
            f"{path}: its weights file lacks {min(report['missing_keys'])!r}: not a fine-tuned classifier; "
            "delete the folder and run its stage again"
        )
    return model
