"""The shapes of models that are measured, with random weights, and batches of random tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

Batch = dict[str, Tensor]
Call = Callable[[Batch], Tensor]
# (batch size, length)
Point = tuple[int, int]

MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
ROBERTA = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1, "pad_token_id": 1}
SHAPES = ("roberta-base", "minilm")


def random_config(shape: str, layers: int | None) -> Any:
    """Return transformers' configuration of a shape; `layers` None is the shape's own."""
    depth = {} if layers is None else {"num_hidden_layers": layers}
    return BertConfig(**{**MINILM, **depth}) if shape == "minilm" else RobertaConfig(**{**ROBERTA, **depth})


def random_model(shape: str, layers: int | None) -> Any:
    """Return a transformers classifier with random weights, in evaluation mode; `layers` None is the shape's own."""
    torch.manual_seed(0)
    config = random_config(shape, layers)
    model: Any = (BertForSequenceClassification if shape == "minilm" else RobertaForSequenceClassification)(config)
    return model.eval()


def random_batch(model: Any, point: Point, device: str, padded: bool, seed: int = 0) -> Batch:
    """Return random tokens [batch, length], int64; with `padded`, a quarter of the examples end at half the length."""
    batch_size, length = point
    generator = torch.Generator().manual_seed(seed * 1_000_000 + batch_size * 1000 + length)
    input_ids = torch.randint(5, 20000, (batch_size, length), generator=generator)
    attention_mask = torch.ones_like(input_ids)
    if padded:
        attention_mask[: batch_size // 4, length // 2 :] = 0
        input_ids[attention_mask == 0] = model.config.pad_token_id
    return {"input_ids": input_ids.to(device), "attention_mask": attention_mask.to(device)}
