"""Comparison of an exported model with its checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from intaglio.checkpoint import longest_input
from intaglio.encoder.model import Encoder
from intaglio.onnx.session import open_session

# (batch, length): the smallest possible, several lengths in one batch, and longer ones.
SHAPES = ((1, 1), (8, 32), (2, 128))
Batch = dict[str, Tensor]
LARGEST_OF_TEXTS, MEAN_OF_TEXTS = "largest difference of a logit", "largest difference of a logit, mean over texts"


def check_batches(tokenizer: Any, config: Mapping[str, Any], seed: int = 0) -> list[Batch]:
    """Return random batches of several shapes, with padding and with the second text of a pair.

    Args:
        tokenizer: the checkpoint's; its vocabulary and `model_input_names` define the inputs.
        config: the content of the checkpoint's config.json.
        seed: of the random tokens and lengths.

    Returns:
        input_ids, attention_mask and, where the tokenizer makes them, token_type_ids: int64, [batch, length].
    """
    random = torch.Generator().manual_seed(seed)
    longest = longest_input(config) or SHAPES[-1][1]
    special = set(tokenizer.all_special_ids)
    ordinary = [index for index in range(min(len(tokenizer), config["vocab_size"])) if index not in special]
    batches = []
    for rows, length in ((rows, min(length, longest)) for rows, length in SHAPES):
        lengths = torch.randint(1, length + 1, (rows, 1), generator=random)
        # One row without padding.
        lengths[0] = length
        mask = (torch.arange(length) < lengths).long()
        ids = torch.tensor(ordinary)[torch.randint(len(ordinary), (rows, length), generator=random)]
        inputs = {"input_ids": ids.where(mask.bool(), torch.tensor(tokenizer.pad_token_id)), "attention_mask": mask}
        if "token_type_ids" in tokenizer.model_input_names:
            second = (torch.arange(length) >= lengths // 2).long() * mask
            inputs["token_type_ids"] = second * (config.get("type_vocab_size", 1) > 1)
        batches.append(inputs)
    return batches


def text_differences(
    expected: Callable[[Batch], Tensor], found: Callable[[Batch], NDArray[np.float32]], batches: list[Batch]
) -> NDArray[np.float64]:
    """Return the largest absolute difference of two functions for each text of some batches; infinity for a NaN."""
    return np.concatenate([of_texts(found(batch), expected(batch).numpy()) for batch in batches])


def of_texts(found: NDArray[np.float32], expected: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the largest absolute difference within each row of [texts, ...]; infinity for a NaN."""
    largest = np.abs(found.astype(np.float64) - expected).reshape(len(expected), -1).max(axis=1)
    return np.where(np.isfinite(largest), largest, np.inf)


@dataclass(frozen=True)
class Limit:
    """What is allowed between the logits of two executors of a model.

    Between floating-point operations of a partly integer model, the rounding of two executors can make a value on the
    edge of two integers either of them. That is rare, but passes through all layers, and moves the logits of that text
    by any amount. So the mean over texts tells whether such a model computes the same, and of others the largest.

    Attributes:
        tolerance: the most that is allowed.
        measure: of what: `LARGEST_OF_TEXTS` or `MEAN_OF_TEXTS`.
    """

    tolerance: float
    measure: str = LARGEST_OF_TEXTS

    def of(self, texts: NDArray[np.float64]) -> float:
        """Return what is compared, given the largest difference of every text."""
        return float(texts.mean() if self.measure == MEAN_OF_TEXTS else texts.max())


def graph_output(file: Path, output: str, as_stored: bool = False) -> Callable[[Batch], NDArray[np.float32]]:
    """Return a function from a batch to an output of an ONNX file; `as_stored` as in `open_session`."""
    session = open_session(file, torch.get_num_threads(), as_stored)
    names = [given.name for given in session.get_inputs()]

    def compute(batch: Batch) -> NDArray[np.float32]:
        (found,) = session.run([output], {name: batch[name].numpy() for name in names})
        return np.asarray(found)

    return compute


def logits_of(model: Any) -> Callable[[Batch], Tensor]:
    """Return a function from a batch to the logits of a checkpoint's model, float32 [batch, labels]."""

    def logits(batch: Batch) -> Tensor:
        with torch.no_grad():
            found: Tensor = model(**batch).logits
        return found

    return logits


def head_input_of(encoder: Encoder) -> Callable[[Batch], Tensor]:
    """Return a function from a batch to the input of the encoder's classification head, float32 [batch, width]."""

    def head_input(batch: Batch) -> Tensor:
        taken: list[Tensor] = []
        hook = encoder.head.register_forward_pre_hook(lambda _, given: taken.append(given[0]))
        try:
            with torch.no_grad():
                encoder(**batch)
        finally:
            hook.remove()
        return taken[0]

    return head_input
