"""Training as all stages share it: transformers' Trainer with bit-exact resumption and precise timing."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from intaglio import machine, ranks
from intaglio.allocation import Preempted, StopRequest, stop_requests
from intaglio.errors import UserError
from intaglio.heap import keep_freed_memory
from intaglio.imbalance import oversampled
from intaglio.metrics import QUESTION_ANSWERING
from intaglio.models.standard_scores import label_loss, to_scores, to_values
from intaglio.schemas import as_array
from intaglio.study.training_options import TrainingOptions
from intaglio.tasks.stored import read_split
from intaglio.tokens.artifact import cut_warning, read_tokens
from intaglio.tokens.encoded import read_encoded
from intaglio.tokens.padding import padding_saved, padding_share, random_order
from intaglio.tokens.tokenize import collate
from intaglio.training import resume
from intaglio.training.arguments import count_steps, training_arguments
from intaglio.training.job import Learner, StageJob
from intaglio.training.order import GroupedByLength
from intaglio.training.progress import Journal, ProgressBar
from intaglio.training.selection import TrainingFinished
from intaglio.training.trainer import StageTrainer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingResult:
    """The outcome of a training; the learner's model has the weights of the best evaluation.

    Attributes:
        seconds: training time over all attempts, without set-up, evaluation and saving.
        validation: the task's metric and the loss at the best step, by name.
        device: readable name of the device.
        history: rows of the training history.
        step_seconds_mean: mean seconds per optimizer step; this and what follows is None if there were no steps.
        step_seconds_median: median seconds per optimizer step.
        steps: number of optimizer steps.
        epochs: number of passes over the data.
        best_step: the step whose weights the model has.
        truncated: share of truncated texts, by split (training and validation).
        padding: share of the training tokens that is padding.
        padding_saved: share of the tokens of a random order, padding included, that grouping by length saves.
        thresholds: tuned on the validation split, as `TaskKind.tune` returns them; None for other kinds.
        warnings: what the user should know of this training.
        energy: of the steps in `seconds`, by meter: device, meter, joules, seconds, and idle_watts before the training.
    """

    seconds: float
    validation: dict[str, float]
    device: str
    history: list[dict[str, Any]] = field(default_factory=list)
    step_seconds_mean: float | None = None
    step_seconds_median: float | None = None
    steps: int | None = None
    epochs: float | None = None
    best_step: int | None = None
    truncated: dict[str, float] | None = None
    padding: float | None = None
    padding_saved: float | None = None
    thresholds: list[float] | None = None
    warnings: list[str] = field(default_factory=list)
    energy: list[dict[str, Any]] = field(default_factory=list)


def train(job: StageJob[Any], learner: Learner) -> TrainingResult:
    """Train a classifier on the training split, and select its weights on the validation split.

    An interrupted training is resumed from the last checkpoint in `job.work`. On a CPU the result is bit for bit that
    of an uninterrupted training, provided that the model's state dict contains all that training changes. Several
    processes (`ranks`) train on the same batches as one would, and end with the same result each.

    Args:
        job: the job with its options and data; the caller removes `job.work` once the result is safe.
        learner: the classifier and how it is trained; its model is changed in place.

    Raises:
        UserError: the options do not fit together, the data is damaged, the loss is not finite, or the job's time does
            not suffice for a single step and its evaluation.
        Preempted: SIGTERM or SIGUSR1 arrived, or the job's time is nearly up; the progress is saved and the process
            should exit with status 143.
    """
    keep_freed_memory()
    options: TrainingOptions = job.options
    splits = {
        split: read_tokens(job.data, split, learner.tokenizer, job.max_length, labels=True)
        for split in ("train", "validation")
    }
    truncated = {split: tokens.truncated for split, tokens in splits.items()}
    for split, share in truncated.items():
        for warning in cut_warning(split, share, job.max_length):
            print(f"warning: {warning}", file=sys.stderr)
    training, validation = splits.values()
    rows = oversampled(job.task, as_array(read_split(job.data, "train", ["label"])["label"]), job.seed)
    if rows is not None:
        training = training.take(rows)
    lengths = training.lengths
    steps = count_steps(options, len(training))
    arguments = training_arguments(options, steps, job.seed, job.work, learner.precision)
    # Batches of similar lengths need little padding.
    by_length = np.argsort(validation.lengths, kind="stable")
    asked = job.task["kind"] == QUESTION_ANSWERING
    windows = read_encoded(job.data, "validation", learner.tokenizer, job.max_length) if asked else None
    order = GroupedByLength(lengths, options.batch_size, arguments.data_seed)
    to_scores(learner.model, job.task)
    with _deterministic(), stop_requests(ranks.any_of) as stop:
        trainer = StageTrainer(
            job.work,
            job.task,
            steps,
            options,
            round(learner.unsettled * steps.total),
            learner.loss,
            order if options.group_by_length else None,
            label_loss(job.task, job.data, job.seed),
            windows and windows.take(by_length),
            model=learner.model,
            args=arguments,
            data_collator=collate(learner.tokenizer),
            train_dataset=training,
            eval_dataset=validation.take(by_length),
        )
        bar = ProgressBar(job.options.stage)
        interval = resume.PeriodicSave(options.checkpoint_minutes, stop)
        # Additional callbacks come before the clock, as their work after a step is part of the step.
        own = (trainer.clock, trainer.selection, interval, bar, Journal(job.work))
        for callback in (trainer.meter, trainer.parts, *learner.callbacks, *own):
            trainer.add_callback(callback)
        checkpoint = ranks.from_first(partial(resume.latest_checkpoint, job.work))
        try:
            _run(trainer, checkpoint)
        finally:
            bar.close()
        if stop and not trainer.done:
            _leave(stop, job, steps.total, trainer.state.global_step, checkpoint)
    drawn = np.array(list(order)) if options.group_by_length else random_order(len(order))
    part = arguments.per_device_train_batch_size
    result = _result(trainer)
    to_values(learner.model, job.task)
    return replace(
        result,
        truncated=truncated,
        padding=padding_share(lengths, drawn, part),
        padding_saved=padding_saved(lengths, drawn, part),
    )


def _leave(stop: StopRequest, job: StageJob[Any], steps: int, step: int, checkpoint: Path | None) -> NoReturn:
    """Leave a training that has to end at `step` and began at a checkpoint."""
    if stop.out_of_time and step == _step(checkpoint):
        raise UserError(
            f"stopped at step {step} of {steps}, where it began: the job's time does not suffice for a step and its "
            "evaluation; raise `resources: train_minutes`, or the deadline"
        )
    log.warning("%s, at step %d of %d: the progress is in %s, run again to resume", stop, step, steps, job.work)
    raise Preempted(stop.out_of_time)


def _step(checkpoint: Path | None) -> int:
    return 0 if checkpoint is None else int(checkpoint.name.rsplit("-", 1)[1])


def _run(trainer: StageTrainer, checkpoint: Path | None) -> None:
    """Train from the beginning, or resume from a checkpoint, until the end or until the job has to end."""
    if checkpoint is not None:
        log.warning("resuming from %s", checkpoint)
    resumed = _step(checkpoint)
    try:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    except TrainingFinished:
        pass
    except resume.EvaluationInterrupted:
        # Before the first step after a resumption, the random states are not yet those of the checkpoint. That
        # checkpoint is still there.
        if trainer.state.global_step > resumed:
            trainer.save_progress()


def _result(trainer: StageTrainer) -> TrainingResult:
    trainer.load_best()
    clock, selection, state = trainer.clock, trainer.selection, trainer.state
    return TrainingResult(
        seconds=clock.total,
        step_seconds_mean=clock.mean,
        step_seconds_median=clock.median,
        steps=state.global_step,
        epochs=float(state.epoch),
        best_step=selection.best_step,
        validation=selection.values,
        history=_history(state.log_history, selection.metric),
        device=_devices(machine.device_name(trainer.args.device)),
        thresholds=trainer.tuned_thresholds(),
        energy=[{"device": clock.device.type, "meter": name, **spent} for name, spent in clock.energy.items()],
        warnings=trainer.parts.warnings(),
    )


def _devices(name: str) -> str:
    return name if ranks.size() == 1 else f"{ranks.size()} x {name}"


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


@contextmanager
def _deterministic() -> Iterator[None]:
    """Use deterministic algorithms on a CPU; on a GPU they would cost speed, and some do not exist."""
    if torch.cuda.is_available():
        yield
        return
    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("warn")
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)
