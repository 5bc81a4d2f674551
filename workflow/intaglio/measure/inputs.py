"""Grid, inputs and threads of all measurements of inference."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from intaglio.machine import fingerprint

Point = tuple[int, int]
_log = logging.getLogger(__name__)


def grid(batch_sizes: Sequence[int], lengths: Sequence[int]) -> list[Point]:
    """Return the points (batch size, length) to measure, in ascending order."""
    return sorted(
        {(batch, length) for batch in batch_sizes for length in lengths}, key=lambda point: point[0] * point[1]
    )


def random_inputs(tokenizer: Any, point: Point, device: str, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return a batch of random tokens at full length, without padding and without special tokens.

    Returns:
        input_ids, attention_mask (ones) and, where the tokenizer makes them, token_type_ids (zeros): int64,
        [batch, length], on the device.
    """
    return {name: tensor.to(device) for name, tensor in _random(tokenizer, point, seed).items()}


def padded_inputs(tokenizer: Any, point: Point, device: str, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return a random batch with padding: the first sequence is full, each next one is shorter, down to one token."""
    inputs = _random(tokenizer, point, seed)
    rows, length = point
    lengths = torch.linspace(length, max(1, length // rows), rows).long()
    absent = torch.arange(length) >= lengths[:, None]
    inputs["input_ids"][absent] = tokenizer.pad_token_id
    inputs["attention_mask"][absent] = 0
    return {name: tensor.to(device) for name, tensor in inputs.items()}


def _random(tokenizer: Any, point: Point, seed: int) -> dict[str, torch.Tensor]:
    special = set(tokenizer.all_special_ids)
    ordinary = torch.tensor([index for index in range(len(tokenizer)) if index not in special])
    drawn = torch.randint(len(ordinary), point, generator=torch.Generator().manual_seed(seed))
    inputs = {"input_ids": ordinary[drawn], "attention_mask": torch.ones(point, dtype=torch.int64)}
    if "token_type_ids" in tokenizer.model_input_names:
        inputs["token_type_ids"] = torch.zeros(point, dtype=torch.int64)
    return inputs


@contextmanager
def cpu_threads(wanted: int) -> Iterator[int]:
    """Set torch's number of CPU threads, at most the cores and the quota; yield it, and restore the old on leaving."""
    facts = fingerprint()
    available, quota = int(facts["cores"] or os.cpu_count() or 1), facts["cpu_quota"]
    if quota is not None and wanted > max(1, int(quota)):
        # Once the quota is used up, all threads stop until the next period.
        bound = min(available, max(1, int(quota)))
        _log.warning(
            "profile.threads: %d requested, but a CPU quota (cpu.max) allows %.3g cores; measuring with %d",
            *(wanted, quota, bound),
        )
        wanted = bound
    if wanted > available:
        # More threads than cores wait for each other, which would time the scheduler and not the model.
        _log.warning(
            "profile.threads: %d requested, %d cores available; measuring with %d", wanted, available, available
        )
    before = torch.get_num_threads()
    torch.set_num_threads(min(wanted, available))
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
