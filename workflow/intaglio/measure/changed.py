"""The predictions on the test sets that a model in floating point changes in bf16."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import ConcatDataset

from intaglio.checkpoint import Checkpoint
from intaglio.kinds import kind_of
from intaglio.measure.backends import backend
from intaglio.measure.evaluate import predict
from intaglio.measure.places import Opened, Place, opened, reference
from intaglio.tasks.stored import read_task
from intaglio.tokens.artifact import read_tokens

# Number of compared examples, at most: a multiple of the examples per call.
COMPARED, _BATCH = 512, 32
_Examples = list[dict[str, list[int]]]


class ChangedPredictions(NamedTuple):
    """Number of changed predictions, of how many."""

    changed: int
    compared: int


def changed_predictions(
    models: Sequence[Opened], checkpoint: Checkpoint, export: Path, data: Path, max_length: int, threads: int
) -> dict[Place, ChangedPredictions]:
    """Compare the predictions of those models that compute in bf16 with those of the reference, in float32.

    Args:
        models: a model in its backends.
        checkpoint: the trained model.
        export: the [export] artifact of the checkpoint.
        data: the [tokens] artifact of its task and tokenizer, or [data]; at most `COMPARED` examples of its test sets
            are drawn.
        max_length: number of tokens at which texts are truncated.
        threads: number of CPU threads.

    Returns:
        The changes by place, for models in bf16.

    Raises:
        UserError: the artifact is damaged.
    """
    halves = [model for model in models if backend(model.place.backend).precision == "bfloat16"]
    if not halves:
        return {}
    task = read_task(data)
    kind = kind_of(task)
    tokens: Any = [read_tokens(data, name, checkpoint.tokenizer, max_length) for name in task["test_sets"]]
    tokens = ConcatDataset(tokens)
    examples = [tokens[row] for row in _drawn(len(tokens))]
    with opened(reference(checkpoint), checkpoint, export, threads) as exact:
        expected = kind.decode(_logits(exact, examples), checkpoint.thresholds)
    found = {}
    for model in halves:
        decided = kind.decode(_logits(model, examples), checkpoint.thresholds)
        changed = kind.changed(expected, decided, task)
        found[model.place] = ChangedPredictions(int(changed.sum()), changed.size)
    return found


def _drawn(total: int) -> Any:
    count = min(total, COMPARED)
    # Only full batches, so that all have the same size.
    count -= count % _BATCH if count > _BATCH else 0
    return np.sort(np.random.default_rng(0).choice(total, count, replace=False))


def _logits(model: Opened, examples: _Examples) -> Any:
    if backend(model.place.backend).recompiles:
        longest = max(len(example["input_ids"]) for example in examples)
        padded = model.tokenizer.pad(examples, padding="max_length", max_length=longest)
        examples = [{name: padded[name][row] for name in padded} for row in range(len(examples))]
    return predict(model.model, model.tokenizer, examples, _BATCH, model.place.device)
