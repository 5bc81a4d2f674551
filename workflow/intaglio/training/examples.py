"""Training examples that a stage looks at before it trains: to calibrate ranges, or to tell what is important."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from intaglio.tasks.tokenize import collate, encode_split
from intaglio.training.job import StageJob

# Examples that pass at once.
BATCH = 32


def drawn_batches(job: StageJob[Any], tokenizer: Any, count: int, labels: bool = False) -> list[dict[str, Tensor]]:
    """Return training examples drawn by the seed, in padded batches.

    Args:
        job: with its data, the seed of the draw, and the tokens at which texts are cut.
        tokenizer: a transformers tokenizer.
        count: how many, or all if there are not so many.
        labels: whether to give these too.

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
