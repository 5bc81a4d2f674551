"""Heads of transformers' models: for classification of texts, and for the first and last tokens of answers in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import (
    MODEL_FOR_QUESTION_ANSWERING_MAPPING,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
)
from transformers.modeling_outputs import TokenClassifierOutput

from intaglio.encoder.padding import PADDING
from intaglio.errors import UserError

_ANSWERING = "ForQuestionAnswering"


def finds_answers(config: Any) -> bool:
    """Return whether a transformers configuration, or the content of a config.json, is for question answering."""
    names = config.get("architectures") if isinstance(config, Mapping) else config.architectures
    return any(name.endswith(_ANSWERING) for name in names or ())


def set_head(config: Any, answers: bool) -> None:
    """Set which head a model of a transformers configuration has: for question answering, or for classification.

    Raises:
        UserError: transformers has no such model for question answering.
    """
    if not answers:
        config.architectures = None
    elif type(config) in MODEL_FOR_QUESTION_ANSWERING_MAPPING:
        config.architectures = [MODEL_FOR_QUESTION_ANSWERING_MAPPING[type(config)].__name__]
    else:
        raise UserError(f"a model of type {config.model_type!r} has no head for question answering in transformers")


def auto_class(config: Any) -> Any:
    """Return the class of transformers that makes models of a configuration; their outputs need `with_logits`."""
    return AutoModelForQuestionAnswering if finds_answers(config) else AutoModelForSequenceClassification


def from_config(config: Any) -> Any:
    """Return a new transformers model of a configuration, whose outputs have `logits`."""
    return with_logits(auto_class(config).from_config(config))


def with_logits(model: Any) -> Any:
    """Make a transformers model for question answering return `logits`, [batch, length, 2], as others do; return it.

    The logits of padding are `PADDING`.
    """
    if finds_answers(model.config):
        model.register_forward_hook(_joined, with_kwargs=True)
    return model


def _joined(_: Any, __: Any, inputs: Mapping[str, Tensor], output: Any) -> TokenClassifierOutput:
    logits = torch.stack([output.start_logits, output.end_logits], dim=-1)
    mask = inputs.get("attention_mask")
    if mask is not None:
        logits = logits.masked_fill((mask == 0)[..., None], PADDING)
    return TokenClassifierOutput(logits=logits)
