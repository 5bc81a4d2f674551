"""The predictions on the test sets that a model in floating point changes in bf16."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from intaglio.checkpoint import Checkpoint
from intaglio.kinds import kind_of
from intaglio.measure.backends import backend
from intaglio.measure.evaluate import predict
from intaglio.measure.places import Opened, Place, opened, reference
from intaglio.tasks.stored import read_task
from intaglio.tokens.encoded import Rows, read_encoded

# Number of compared examples, at most: a multiple of the examples per call.
COMPARED, _BATCH = 512, 32


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
    sets = [read_encoded(data, name, checkpoint.tokenizer, max_length) for name in task["test_sets"]]
    starts = np.cumsum([0, *(len(one.rows) for one in sets)])
    drawn = _drawn(starts[-1])
    parts = [
        one.take(drawn[(drawn >= first) & (drawn < last)] - first)
        for one, first, last in zip(sets, starts, starts[1:], strict=False)
    ]

    def decided(model: Opened) -> Any:
        logits = _logits(model, [row for part in parts for row in part.rows])
        pieces = np.split(logits, np.cumsum([len(part.rows) for part in parts])[:-1])
        outputs = (part.outputs(piece) for part, piece in zip(parts, pieces, strict=True))
        return np.concatenate([kind.decode(of_set, checkpoint.thresholds) for of_set in outputs])

    with opened(reference(checkpoint), checkpoint, export, threads) as exact:
        expected = decided(exact)
    found = {}
    for model in halves:
        changed = kind.changed(expected, decided(model), task)
        found[model.place] = ChangedPredictions(int(changed.sum()), changed.size)
    return found


def _drawn(total: int) -> Any:
    count = min(total, COMPARED)
    # Only full batches, so that all have the same size.
    count -= count % _BATCH if count > _BATCH else 0
    return np.sort(np.random.default_rng(0).choice(total, count, replace=False))


def _logits(model: Opened, rows: Rows) -> Any:
    if backend(model.place.backend).recompiles:
        longest = max(len(row["input_ids"]) for row in rows)
        padded = model.tokenizer.pad(rows, padding="max_length", max_length=longest)
        rows = [{name: padded[name][row] for name in padded} for row in range(len(rows))]
    return predict(model.model, model.tokenizer, rows, _BATCH, model.place.device)
