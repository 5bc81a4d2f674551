"""Training examples for use before training: to calibrate ranges, or to measure importance."""

from __future__ import annotations

from typing import Any

import numpy as np

from intaglio.tokens.encoded import Encoded, read_encoded
from intaglio.training.job import StageJob


def drawn_examples(job: StageJob[Any], tokenizer: Any, count: int) -> Encoded:
    """Return randomly drawn training examples: as many rows of the model's inputs, or all if there are fewer.

    Args:
        job: the job with its data, its seed and its maximum length.
        tokenizer: a transformers tokenizer.
        count: number of rows: examples, or windows of question answering.
    """
    encoded = read_encoded(job.data, "train", tokenizer, job.max_length)
    # The order of datasets' `shuffle`.
    return encoded.take(np.random.default_rng(job.seed).permutation(len(encoded.rows))[:count])
