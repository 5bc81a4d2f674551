"""Training examples for use before training: to calibrate ranges, or to measure importance."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from intaglio.tokens.artifact import read_tokens
from intaglio.tokens.tokenize import collate
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
    tokens = read_tokens(job.data, "train", tokenizer, job.max_length, labels=labels)
    # The order of datasets' `shuffle`.
    drawn = tokens.take(np.random.default_rng(job.seed).permutation(len(tokens))[:count])
    pad = collate(tokenizer)
    return [dict(pad(list(drawn[start : start + BATCH]))) for start in range(0, len(drawn), BATCH)]
