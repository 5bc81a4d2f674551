"""Encoders for tests: random weights of the four architectures, padded batches, the nine points of the lattice."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification

from intaglio.arithmetic.operations import OPERATIONS, Operation
from intaglio.encoder.files import convert, save_encoder
from intaglio.encoder.model import Encoder
from intaglio.store import new_artifact
from tiny import ARCHITECTURES, tiny_config, tiny_tokenizer

Point = frozenset[Operation]
INT: Point = frozenset(OPERATIONS)
INTEGER_POINTS: list[Point] = [
    frozenset({"linear", *others}) for count in range(4) for others in combinations(OPERATIONS[1:], count)
]
# Both widths at their smallest.
FEWER = {"weights": 4, "embeddings": 4}
POINTS: list[Point] = [frozenset(), *INTEGER_POINTS]
__all__ = [
    "ARCHITECTURES",
    "FEWER",
    "INT",
    "INTEGER_POINTS",
    "POINTS",
    "batch",
    "calibrated",
    "integer_checkpoint",
    "loss_of",
    "name",
    "random_model",
]


def name(point: Point) -> str:
    """Return the name of a point, as the id of a test."""
    return "-".join(operation for operation in OPERATIONS if operation in point) or "float"


def random_model(arch: str = "bert", seed: int = 0, spread: float = 0.1, **changes: Any) -> Any:
    """A transformers model in evaluation mode; no bias is zero and no gamma one, which could hide a missing term."""
    config = tiny_config(arch)
    for key, value in changes.items():
        setattr(config, key, value)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForSequenceClassification.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * spread)
    return model.eval()


def batch(model: Any, rows: int = 4, length: int = 12, seed: int = 0, types: bool = False) -> dict[str, torch.Tensor]:
    """Token sequences of different lengths, the first the longest, padded with the model's padding index."""
    random = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, model.config.vocab_size, (rows, length), generator=random)
    mask = torch.ones_like(ids)
    for row in range(1, rows):
        mask[row, int(torch.randint(1, length + 1, (1,), generator=random)) :] = 0
    ids[mask == 0] = model.config.pad_token_id
    inputs = {"input_ids": ids, "attention_mask": mask}
    if types:
        inputs["token_type_ids"] = (torch.arange(length) >= length // 2).long().expand_as(ids).clone()
    return inputs


def loss_of(model: Any, inputs: dict[str, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
    """The mean cross-entropy of a batch."""
    return torch.nn.functional.cross_entropy(model(**inputs).logits, labels)


def calibrated(
    point: Point = INT,
    arch: str = "bert",
    bits: dict[str, int] | None = None,
    keep_float: Iterable[str] = (),
    **changes: Any,
) -> tuple[Encoder, Any]:
    """Return an encoder in evaluation mode, calibrated on three batches, and the transformers model it is made of."""
    model = random_model(arch, **changes)
    encoder = convert(model, point, bits, keep_float)
    with encoder.calibrating(momentum=0.95):
        for seed in range(3):
            encoder(**batch(model, rows=8, length=20, seed=seed))
    return encoder, model


def integer_checkpoint(
    folder: Path,
    point: Point = INT,
    arch: str = "bert",
    bits: dict[str, int] | None = None,
    keep_float: Iterable[str] = (),
) -> Path:
    """Write a [checkpoint] of a calibrated encoder with its tokenizer; return its folder."""
    encoder, model = calibrated(point, arch, bits, keep_float)
    with new_artifact(folder, "checkpoint") as draft:
        save_encoder(encoder, model.config, draft)
        tiny_tokenizer(arch).save_pretrained(draft)
    return folder
