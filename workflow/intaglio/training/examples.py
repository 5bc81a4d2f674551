"""Training examples for use before training: to calibrate ranges, or to measure importance."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from intaglio.tasks.tokenize import collate, encode_split
from intaglio.training.job import StageJob

# Batch size.
BATCH = 32


def drawn_batches(job: StageJob[Any], tokenizer: Any, count: int, labels: bool = False) -> list[dict[str, Tensor]]:
    """Return randomly drawn training examples, in padded batches.

    Args:
        job: the job with its data, its seed and its maximum length.
        tokenizer: a transformers tokenizer.
        count: number of examples; all of them if there are fewer.
        labels: whether to include labels.

    Returns:
        input_ids, attention_mask and, where the tokenizer makes them, token_type_ids: int64 [batch, longest]; and
        labels, int64 [batch].
    """
    examples = encode_split(job.data, "train", tokenizer, job.max_length).dataset.shuffle(seed=job.seed)
    if not labels:
        examples = examples.remove_columns("label")
    rows = list(examples.select(range(min(count, len(examples)))))
    pad = collate(tokenizer)
    return [dict(pad(rows[start : start + BATCH])) for start in range(0, len(rows), BATCH)]
