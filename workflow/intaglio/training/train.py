"""The training that every stage shares: transformers' Trainer, made resumable to the bit and honestly timed."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from intaglio import machine
from intaglio.study.options import TrainingOptions
from intaglio.tasks.tokenize import collate, encoded_dataset, read_task
from intaglio.training import resume
from intaglio.training.arguments import count_steps, training_arguments
from intaglio.training.progress import ProgressBar
from intaglio.training.selection import Finished
from intaglio.training.trainer import StageTrainer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingResult:
    """A finished training; `model` is the object that was given, with the weights of its best evaluation.

    Attributes:
        model: on the device that trained it.
        seconds: training time, without set-up, evaluation and saving, over all attempts.
        step_seconds_mean: of an optimizer step.
        step_seconds_median: of an optimizer step.
        steps: optimizer steps taken.
        epochs: passes over the data.
        best_step: after which the weights are those of `model`.
        validation: the task's metric and the loss at that step, by name.
        history: rows of the training history.
        device: the device's name for people.
    """

    model: torch.nn.Module
    seconds: float
    step_seconds_mean: float
    step_seconds_median: float
    steps: int
    epochs: float
    best_step: int
    validation: dict[str, float]
    history: list[dict[str, Any]]
    device: str


def train(
    model: torch.nn.Module,
    tokenizer: Any,
    data: Path,
    options: TrainingOptions,
    seed: int,
    max_length: int,
    work: Path,
    *,
    precision: str = "fp32",
    callbacks: Sequence[TrainerCallback] = (),
    unsettled: float = 0.0,
    loss: torch.nn.Module | None = None,
) -> TrainingResult:
    """Train a classifier on the training split, choose its weights on the validation split.

    A training that was interrupted goes on from the last checkpoint in `work`. On a CPU the end is the same to the bit
    as without the interruption, as long as the model's state dict holds all that training changes.

    Args:
        model: takes the tokenizer's inputs and returns an object with `logits` [examples, labels]; changed in place.
        tokenizer: a transformers tokenizer.
        data: a [data] artifact.
        options: what to do.
        seed: of the order of the data and of dropout.
        max_length: tokens at which texts are cut.
        work: folder for checkpoints, of this job alone; the caller removes it when the result is safe.
        precision: `fp32`, `bf16` (mixed) or `auto`: bf16 on a GPU that has it.
        callbacks: more callbacks of the Trainer; what they have to remember over an interruption, they keep in the
            model's state dict or as `training.callback_state.Remembering`.
        unsettled: share of the steps before whose end no weights are chosen: callbacks still change what the model is.
        loss: what to minimize, None for the cross-entropy with the labels; called with the model, the inputs (`labels`
            among them) and the number of examples of the optimizer batch, it returns their share of its mean. It must
            hold nothing that training changes.

    Raises:
        UserError: the options do not fit together, the data is damaged, or the loss is not finite.
        Preempted: SIGTERM or SIGUSR1 came; the progress is saved and the process shall end with status 143.
    """
    task = read_task(data)
    splits = {split: encoded_dataset(data, split, tokenizer, max_length) for split in ("train", "validation")}
    steps = count_steps(options, len(splits["train"]))
    resume.clear_failure(work)
    with _deterministic(), resume.listening() as stop:
        trainer = StageTrainer(
            work,
            task,
            steps,
            options,
            round(unsettled * steps.total),
            loss,
            model=model,
            args=training_arguments(options, steps, seed, work, precision),
            data_collator=collate(tokenizer),
            train_dataset=splits["train"],
            eval_dataset=_by_length(splits["validation"]),
        )
        bar = ProgressBar(type(options).__name__.removesuffix("Options").lower())
        interval = resume.Interval(options.checkpoint_minutes, stop)
        # What the caller's callbacks do after a step is part of it, so they come before the clock.
        for callback in (trainer.meter, *callbacks, trainer.clock, trainer.selection, interval, bar):
            trainer.add_callback(callback)
        try:
            _run(trainer, resume.latest_checkpoint(work))
        finally:
            bar.close()
        if stop and not trainer.done:
            step = trainer.state.global_step
            log.warning(
                "%s at step %d of %d: the progress is in %s, run again to go on", stop.signal, step, steps.total, work
            )
            raise resume.Preempted
    return _result(trainer)


def _run(trainer: StageTrainer, checkpoint: Path | None) -> None:
    """Train from the beginning or from a checkpoint to the end, or until the job is asked to leave."""
    if checkpoint is not None:
        log.warning("going on from %s", checkpoint)
    resumed = 0 if checkpoint is None else int(checkpoint.name.rsplit("-", 1)[1])
    try:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    except Finished:
        pass
    except resume.Leaving:
        # Before the first step after a resume the random states are not yet those of the checkpoint, which is still
        # there.
        if trainer.state.global_step > resumed:
            trainer.save_progress()


def _result(trainer: StageTrainer) -> TrainingResult:
    trainer.load_best()
    clock, selection, state = trainer.clock, trainer.selection, trainer.state
    return TrainingResult(
        model=trainer.model,
        seconds=clock.total,
        step_seconds_mean=clock.mean,
        step_seconds_median=clock.median,
        steps=state.global_step,
        epochs=float(state.epoch),
        best_step=selection.best_step,
        validation=selection.values,
        history=_history(state.log_history, selection.metric),
        device=machine.device_name(trainer.args.device),
    )


def _history(logs: list[dict[str, Any]], metric: str) -> list[dict[str, Any]]:
    """Return the rows of the training history from the Trainer's logs."""
    names = {"loss": "loss", "learning_rate": "learning_rate"}
    names |= {f"eval_{name}": f"validation_{name}" for name in ("loss", metric)}
    return [
        {"step": entry["step"], "epoch": float(entry["epoch"]), "name": name, "value": float(entry[key])}
        for entry in logs
        for key, name in names.items()
        if key in entry
    ]


def _by_length(dataset: Any) -> Any:
    """Return the examples ordered by length: batches of alike lengths need little padding."""
    lengths = [len(tokens) for tokens in dataset["input_ids"]]
    return dataset.select(np.argsort(lengths, kind="stable"))


@contextmanager
def _deterministic() -> Iterator[None]:
    """On a CPU, take the deterministic algorithms; on a GPU they would cost speed, and some are missing."""
    if torch.cuda.is_available():
        yield
        return
    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("warn")
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)
