"""A trial of a model's folder before any job uses it: configuration, tokenizer, weights, and export to a graph."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, AutoConfig

from intaglio.encoder.architectures import ARCHITECTURES
from intaglio.errors import UserError, first_line
from intaglio.models.tokenizer import open_tokenizer
from intaglio.models.weights import read_classifier
from intaglio.onnx.float_graph import float_onnx, graph_inputs
from intaglio.onnx.graph import save
from intaglio.onnx.runtime import OnnxModel
from intaglio.onnx.session import MODEL, open_session

# Tolerance for the difference of a logit between a model and its graph.
_TOLERANCE = 1e-3


def open_config(folder: Path, name: str) -> Any:
    """Return the configuration of a model that transformers supports as a text classifier.

    Raises:
        UserError: the model needs code of its own, or its type is unknown or has no text classifier.
    """
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the kind of error depends on the model's type
        raise UserError(f"{name}: transformers cannot read its config.json ({first_line(error)})") from error
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise UserError(f"{name}: a model of type {config.model_type!r} is no text classifier in transformers")
    return config


def open_model(folder: Path, config: Any, name: str) -> Any:
    """Load tokenizer and weights, run the model on a text, and return the tokenizer.

    A model of a type that Intaglio's encoder does not support is also exported and compared with its graph, since every
    run includes an export.

    Raises:
        UserError: tokenizer or weights do not fit the configuration, or the model cannot be run or exported.
    """
    tokenizer = open_tokenizer(folder, config, name)
    model, _ = read_classifier(folder, config, name)
    model.eval()
    if config.model_type not in ARCHITECTURES:
        _check_graph(model, tokenizer, name)
    return tokenizer


@torch.no_grad()
def _check_graph(model: Any, tokenizer: Any, name: str) -> None:
    inputs = graph_inputs(tokenizer)
    encoded = tokenizer(["a text", "another text, somewhat longer"], padding=True, return_tensors="pt")
    batch = {key: encoded[key] for key in inputs}
    kind = model.config.model_type
    try:
        expected = model(**batch).logits
        with tempfile.TemporaryDirectory() as folder:
            save(float_onnx(model, inputs), Path(folder) / MODEL)
            found = OnnxModel(open_session(Path(folder) / MODEL, 1))(**batch).logits
            difference = float((found - expected).abs().max())
    except Exception as error:  # errors of the exporter, the model and ONNX Runtime have no common base
        raise UserError(f"{name}: a {kind!r} cannot be exported to ONNX ({first_line(error)}); take another") from error
    if not difference <= _TOLERANCE:
        raise UserError(f"{name}: the ONNX graph of a {kind!r} differs by {difference:.3g} from it; take another model")
