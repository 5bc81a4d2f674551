"""Training examples that a stage looks at before it trains: to calibrate ranges, or to tell what is important."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from intaglio.tasks.tokenize import collate, encoded_dataset

# Examples that pass at once.
BATCH = 32


def drawn_batches(
    data: Path, tokenizer: Any, max_length: int, count: int, seed: int, labels: bool = False
) -> list[dict[str, Tensor]]:
    """Return training examples drawn by the seed, in padded batches.

    Args:
        data: a [data] artifact.
        tokenizer: a transformers tokenizer.
        max_length: tokens at which texts are cut.
        count: how many, or all if there are not so many.
        seed: of the draw.
        labels: whether to give these too.

    Returns:
        input_ids, attention_mask and, where the tokenizer makes them, token_type_ids: int64 [batch, longest]; and
        labels, int64 [batch].
    """
    examples = encoded_dataset(data, "train", tokenizer, max_length).shuffle(seed=seed)
    if not labels:
        examples = examples.remove_columns("label")
    rows = list(examples.select(range(min(count, len(examples)))))
    pad = collate(tokenizer)
    return [dict(pad(rows[start : start + BATCH])) for start in range(0, len(rows), BATCH)]
