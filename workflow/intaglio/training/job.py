"""The job of a stage, and what a stage passes on for training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from transformers import TrainerCallback

from intaglio.checkpoint import Checkpoint
from intaglio.study.options import AnyStage
from intaglio.tasks.stored import read_task

Options = TypeVar("Options", bound=AnyStage)


@dataclass(frozen=True)
class StageJob(Generic[Options]):
    """A job of a stage: where it starts, its options, and its output.

    Attributes:
        start: the [checkpoint] of the stage before it, of the same seed; for `finetune`, a [model] artifact or a folder
            as transformers saves it.
        data: a [tokens] artifact of the model; or [data], which is then tokenized for this job alone.
        options: the options of the stage.
        seed: of everything random: a new head, the order of the data, dropout, calibration examples.
        max_length: number of tokens at which texts are truncated.
        work: folder of this job alone that outlives a killed process; removed at the end.
        output: the [checkpoint] artifact to write.
        teacher: a [checkpoint] artifact whose model teaches.
        student: a [model] artifact to train in place of layers of the parent.
    """

    start: Path
    data: Path
    options: Options
    seed: int
    max_length: int
    work: Path
    output: Path
    teacher: Path | None = None
    student: Path | None = None

    @cached_property
    def parent(self) -> Checkpoint:
        """The checkpoint that the job starts from.

        Raises:
            UserError: it is damaged, or not a checkpoint.
        """
        return Checkpoint(self.start)

    @cached_property
    def task(self) -> dict[str, Any]:
        """The content of the task's task.json: labels, metric, test sets."""
        return read_task(self.data)


@dataclass(frozen=True)
class Learner:
    """A classifier to train, and how its training differs from plain training.

    Attributes:
        model: takes the tokenizer's inputs and returns an object with `logits` [examples, labels]; trained in place.
        tokenizer: a transformers tokenizer.
        precision: `fp32`, `bf16` (mixed) or `auto`: bf16 if the GPU supports it.
        callbacks: additional callbacks of the Trainer; their state must be in the model's state dict, or saved by
            `training.callback_state.StatefulCallback`.
        unsettled: share of the steps during which no weights are selected, because callbacks still change the model.
        loss: module to minimize in place of the cross-entropy with the labels, or None. It is called with the model,
            the inputs (with `labels`) and the number of examples in the optimizer batch, and returns the examples'
            share of the batch's mean. It must not hold anything that training changes.
    """

    model: torch.nn.Module
    tokenizer: Any
    precision: str = "fp32"
    callbacks: Sequence[TrainerCallback] = ()
    unsettled: float = 0.0
    loss: torch.nn.Module | None = None
