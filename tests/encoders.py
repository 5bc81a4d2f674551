"""Encoders for tests: random weights of the four architectures, padded batches, the nine points of the lattice."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification

from intaglio.arithmetic.operations import OPERATIONS, Operation
from intaglio.encoder.files import convert
from intaglio.encoder.model import Encoder
from tiny import ARCHITECTURES, tiny_config

Point = frozenset[Operation]
INT: Point = frozenset(OPERATIONS)
INTEGER_POINTS: list[Point] = [
    frozenset({"linear", *others}) for count in range(4) for others in combinations(OPERATIONS[1:], count)
]
POINTS: list[Point] = [frozenset(), *INTEGER_POINTS]
__all__ = ["ARCHITECTURES", "INT", "INTEGER_POINTS", "POINTS", "batch", "calibrated", "name", "random_model"]


def name(point: Point) -> str:
    """The point's name as a test's id."""
    return "-".join(operation for operation in OPERATIONS if operation in point) or "float"


def random_model(arch: str = "bert", seed: int = 0, spread: float = 0.1, **changes: Any) -> Any:
    """A transformers model in evaluation mode; no bias is zero and no gamma one, which would hide what is forgotten."""
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


def calibrated(point: Point = INT, arch: str = "bert", **changes: Any) -> tuple[Encoder, Any]:
    """An encoder of ours in evaluation mode with its ranges set on three batches, and the model that it came from."""
    model = random_model(arch, **changes)
    encoder = convert(model, point)
    with encoder.calibrating(momentum=0.95):
        for seed in range(3):
            encoder(**batch(model, rows=8, length=20, seed=seed))
    return encoder, model
