"""The [checkpoint] artifact that every stage leaves: the model, its tokenizer, how it was trained, its curves."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from intaglio import machine, schemas, store
from intaglio.errors import UserError
from intaglio.study.options import AnyStage
from intaglio.training.train import TrainingResult

RECORD = "training.json"
HISTORY = "history.parquet"


def read_record(checkpoint: Path) -> dict[str, Any]:
    """Return how a checkpoint was trained, the content of its training.json.

    Raises:
        UserError: it is no whole [checkpoint], or has no such record.
    """
    store.open_artifact(checkpoint, "checkpoint")
    path = checkpoint / RECORD
    if not path.is_file():
        raise UserError(f"{checkpoint}: no {RECORD}; delete the folder and run again")
    record: dict[str, Any] = json.loads(path.read_text())
    return record


def training_record(
    result: TrainingResult,
    options: AnyStage,
    seed: int,
    parent: Path | None = None,
) -> dict[str, Any]:
    """Return the content of training.json.

    Its keys: stage, seed, options, train_seconds (of this stage, without set-up, evaluation and saving),
    total_train_seconds (with its parents'), step_seconds_mean, step_seconds_median, steps, epochs, best_step,
    validation (metric and loss there), device, machine (the fingerprint), parent (folder or null).
    """
    before = float(read_record(parent)["total_train_seconds"]) if parent is not None else 0.0
    return {
        "stage": options.stage,
        "seed": seed,
        "options": options.model_dump(mode="json"),
        "train_seconds": result.seconds,
        "total_train_seconds": before + result.seconds,
        "step_seconds_mean": result.step_seconds_mean,
        "step_seconds_median": result.step_seconds_median,
        "steps": result.steps,
        "epochs": result.epochs,
        "best_step": result.best_step,
        "validation": result.validation,
        "device": result.device,
        "machine": machine.fingerprint(),
        "parent": None if parent is None else str(parent),
    }


def write_checkpoint(
    output: Path,
    save: Callable[[Path], object],
    tokenizer: Any,
    record: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
) -> None:
    """Write a [checkpoint].

    Args:
        output: where it shall stand.
        save: writes the model into a folder, as transformers' `save_pretrained` does.
        tokenizer: a transformers tokenizer.
        record: the content of training.json, JSON values.
        history: rows of `schemas.TRAINING_HISTORY`.
    """
    about = {key: record[key] for key in ("stage", "seed", "parent") if key in record}
    with store.new_artifact(output, "checkpoint", about) as draft:
        save(draft)
        tokenizer.save_pretrained(draft)
        (draft / RECORD).write_text(json.dumps(record, indent=1) + "\n")
        schemas.write_table(draft / HISTORY, history, schemas.TRAINING_HISTORY)
