"""A [checkpoint] as a model that classifies: transformers' own, our encoder, or a graph in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from intaglio.encoder.checkpoint import from_pretrained, is_int8, is_ours
from intaglio.errors import UserError
from intaglio.onnx.runtime import OnnxModel
from intaglio.onnx.session import MODEL, open_session
from intaglio.store import open_artifact


def load_checkpoint(path: Path, device: str | torch.device = "cpu") -> tuple[Any, Any]:
    """Return the model of a [checkpoint], in evaluation mode on the device, and its tokenizer.

    The model is called with input_ids, attention_mask and, where the tokenizer makes them, token_type_ids (int64,
    [batch, length]); its output has `logits` ([batch, labels]). A model of 8 bits is on the CPU, whatever the device.

    Raises:
        UserError: the artifact is damaged, or its file lacks weights that the model has.
    """
    return load_model(path, device), load_tokenizer(path)


def load_model(path: Path, device: str | torch.device = "cpu", config: Any = None) -> Any:
    """Return the model of a [checkpoint] alone; see `load_checkpoint`.

    `config` is a transformers configuration to take for the checkpoint's own, of the same sizes and another dropout.
    """
    open_artifact(path, "checkpoint")
    if is_int8(path):
        return OnnxModel(open_session(path / MODEL, torch.get_num_threads()))
    model = from_pretrained(path, config=config) if is_ours(path) else _transformers(path, config)
    return model.to(device).eval()


def load_tokenizer(path: Path) -> Any:
    """Return the tokenizer of a [checkpoint] alone."""
    return AutoTokenizer.from_pretrained(path, local_files_only=True)


def _transformers(path: Path, config: Any) -> Any:
    model, report = AutoModelForSequenceClassification.from_pretrained(
        path, config=config, local_files_only=True, use_safetensors=True, output_loading_info=True
    )
    # Transformers would fill what is missing with random numbers and go on.
    if report["missing_keys"]:
        raise UserError(
            f"{path}: its weights file lacks {min(report['missing_keys'])!r}: not a fine-tuned classifier; "
            "delete the folder and run its stage again"
        )
    return model
