"""Predictions of a checkpoint on the test sets of a task, and their metrics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm  # type: ignore[import-untyped]

from intaglio.checkpoint import Checkpoint
from intaglio.errors import UserError
from intaglio.kinds import TaskKind, kind_of
from intaglio.machine import device_name, fingerprint
from intaglio.measure.metrics import metric_rows, one_sided
from intaglio.measure.noise.tensors import drawn_batches, noise_rows
from intaglio.schemas import METRICS, NOISE, as_column, write_table
from intaglio.store import new_artifact
from intaglio.tasks.stored import open_data, read_split, read_task
from intaglio.tokens.artifact import cut_warning
from intaglio.tokens.encoded import Rows, joined_logits, read_encoded
from intaglio.tokens.tokenize import collate


def evaluate(checkpoint: Path, data: Path, max_length: int, output: Path, batch_size: int = 32) -> None:
    """Write the [evaluation] of a checkpoint: predictions.parquet and metrics.parquet, over all test sets.

    That of an integer model has noise.parquet, too: its tensors against float, on some validation examples.

    Args:
        checkpoint: a [checkpoint] artifact.
        data: the [tokens] artifact of its task and tokenizer, or [data].
        max_length: number of tokens at which texts are truncated, as in training.
        output: the artifact to write.
        batch_size: examples per call; it affects results only by float rounding. 8-bit graphs always get batches
            of one.

    Raises:
        UserError: an artifact is damaged, the two do not fit each other, or logits are not finite.

    The manifest contains `warnings` (of the data, of classes that are never predicted, and of truncated texts) and
    `truncated`, the share of truncated texts by test set.
    """
    opened = Checkpoint(checkpoint)
    opened.check_length(max_length, "max_length")
    task = read_task(data)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if opened.kind == "graph":
        # Ranges that are computed at every call depend on the other examples in it.
        device, batch_size = "cpu", 1
    model, tokenizer = opened.load(device), opened.tokenizer
    facts = {"machine": fingerprint(), "checkpoint": opened.about}
    about: dict[str, Any] = {
        "path": str(checkpoint),
        "data": str(data),
        "device": device_name(device),
        **facts,
        "primary": {},
        "truncated": {},
        "warnings": list(open_data(data).get("warnings", ())),
    }
    kind = kind_of(task)
    predictions, metrics = [], []
    for test_set in task["test_sets"]:
        encoded = read_encoded(data, test_set, tokenizer, max_length)
        table = read_split(data, test_set, ["id", "label"])
        about["truncated"][test_set] = encoded.rows.truncated
        about["warnings"] += cut_warning(test_set, about["truncated"][test_set], max_length)
        logits = predict(model, tokenizer, encoded.rows, batch_size, device)
        _check_finite(logits, table["id"].to_pylist(), encoded.examples, f"{checkpoint}: test set {test_set!r}")
        targets, outputs, thresholds = encoded.targets, encoded.outputs(logits), opened.thresholds
        rows = metric_rows(task, targets, outputs, thresholds, partial(kind.mean_loss, encoded.labels, logits))
        predicted = kind.decode(outputs, thresholds)
        metrics += [{"test_set": test_set, **row} for row in rows]
        predictions.append(_predictions(kind, test_set, table, predicted, outputs))
        about["warnings"] += [f"{test_set}: {warning}" for warning in one_sided(task, targets, predicted)]
        about["primary"][test_set] = {row["metric"]: row["value"] for row in rows if row["primary"]}
    noise = noise_rows(model, drawn_batches(data, "validation", tokenizer, max_length)) if opened.integers else []
    with new_artifact(output, "evaluation", about) as folder:
        write_table(folder / "predictions.parquet", pa.concat_tables(predictions), kind.predictions, facts)
        write_table(folder / "metrics.parquet", metrics, METRICS, facts)
        if noise:
            write_table(folder / "noise.parquet", noise, NOISE, facts)


@torch.inference_mode()
def predict(model: Any, tokenizer: Any, examples: Rows, batch_size: int, device: str) -> NDArray[np.float32]:
    """Return the logits of tokenized examples, in their order, [examples, labels], or of windows, [windows, length, 2].

    Examples of similar length share a batch, which keeps padding low. The longest come first, so that insufficient
    memory shows immediately.
    """
    padded = collate(tokenizer)
    order = sorted(range(len(examples)), key=lambda index: -len(examples[index]["input_ids"]))
    logits: dict[int, NDArray[np.float32]] = {}
    for chosen in tqdm(list(_chunks(order, batch_size)), desc="evaluate", unit="batch", disable=None):
        batch = padded([examples[index] for index in chosen]).to(device)
        output = model(**batch).logits.float().cpu().numpy()
        logits.update(zip(chosen, output, strict=True))
    return joined_logits([logits[index][None] for index in range(len(examples))])


def _chunks(order: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _check_finite(logits: NDArray[np.float32], ids: Sequence[str], of_row: NDArray[np.int64], where: str) -> None:
    bad = np.unique(of_row[~np.isfinite(logits).reshape(len(logits), -1).all(axis=1)])
    if len(bad):
        raise UserError(
            f"{where}: the logits of {len(bad)} of {len(ids)} examples are not finite (first: id {ids[bad[0]]!r}); "
            "the training has diverged: lower its learning rate"
        )


def _predictions(
    kind: TaskKind, test_set: str, table: pa.Table, predictions: NDArray[Any], outputs: NDArray[Any]
) -> pa.Table:
    """Return the table of predictions of a test set."""
    return pa.table(
        {
            "test_set": pa.array([test_set] * len(outputs), pa.string()),
            "id": table["id"],
            "label": table["label"],
            "prediction": as_column(predictions, kind.predictions.field("prediction").type),
            "logits": as_column(kind.numbers(outputs).astype(np.float32), pa.list_(pa.float32())),
        }
    )
