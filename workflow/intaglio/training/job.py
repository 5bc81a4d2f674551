"""What a stage is to do, and what it hands to the training that all stages share."""

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
from intaglio.tasks.tokenize import read_task

Options = TypeVar("Options", bound=AnyStage)


@dataclass(frozen=True)
class StageJob(Generic[Options]):
    """A job of a stage: what it starts from, what it is to do, where its result goes.

    Attributes:
        start: the [checkpoint] of the stage before it, of the same seed; for `finetune` a [model] artifact, or a folder
            as transformers saves it.
        data: a [data] artifact.
        options: what to do, of its stage.
        seed: of all that is drawn: a new head, the order of the data, dropout, examples to calibrate on.
        max_length: tokens at which texts are cut.
        work: folder for what must outlive a killed job, of this job alone; removed in the end.
        output: the [checkpoint] artifact to write.
        teacher: a [checkpoint] artifact that teaches.
        student: a [model] artifact that is taught in the place of layers of the parent.
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
        """The checkpoint that it starts from.

        Raises:
            UserError: it is damaged, or no checkpoint.
        """
        return Checkpoint(self.start)

    @cached_property
    def task(self) -> dict[str, Any]:
        """The facts of its task: labels, metric, test sets."""
        return read_task(self.data)


@dataclass(frozen=True)
class Learner:
    """A classifier to train, and how it differs from a plain one.

    Attributes:
        model: takes the tokenizer's inputs and returns an object with `logits` [examples, labels]; changed in place.
        tokenizer: a transformers tokenizer.
        precision: `fp32`, `bf16` (mixed) or `auto`: bf16 on a GPU that has it.
        callbacks: more callbacks of the Trainer; what they have to remember over an interruption, they keep in the
            model's state dict or as `training.callback_state.Remembering`.
        unsettled: share of the steps before whose end no weights are chosen: callbacks still change what the model is.
        loss: what to minimize, None for the cross-entropy with the labels; called with the model, the inputs (`labels`
            among them) and the number of examples of the optimizer batch, it returns their share of its mean. It must
            hold nothing that training changes.
    """

    model: torch.nn.Module
    tokenizer: Any
    precision: str = "fp32"
    callbacks: Sequence[TrainerCallback] = ()
    unsettled: float = 0.0
    loss: torch.nn.Module | None = None
