"""The one way in which every stage runs: it prepares, what it prepares is trained, and a checkpoint is written."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from typing import Any

from intaglio import machine
from intaglio.checkpoint import write_checkpoint
from intaglio.stages import cut, distil, finetune, int8, prune, quantize
from intaglio.stages.prepared import Prepared
from intaglio.training.job import StageJob
from intaglio.training.resume import clear_failure
from intaglio.training.train import TrainingResult, train

_PREPARE: Mapping[str, Callable[[StageJob[Any]], Prepared]] = {
    "finetune": finetune.prepare,
    "distil": distil.prepare,
    "prune": prune.prepare,
    "cut": cut.prepare,
    "quantize": quantize.prepare,
    "int8": int8.prepare,
}


def run_stage(job: StageJob[Any]) -> None:
    """Run a stage and write its [checkpoint]; a training goes on where an interrupted job left `job.work`.

    Raises:
        UserError: an artifact is damaged, what the stage starts from does not fit it, or the loss is not finite.
        Preempted: the job was asked to leave; its progress is saved.
    """
    clear_failure(job.work)
    before = 0.0 if job.options.stage == "finetune" else float(job.parent.record["total_train_seconds"])
    prepared = _PREPARE[job.options.stage](job)
    result = prepared.result or train(job, prepared.learner)
    record = training_record(job, result, before) | prepared.facts()
    write_checkpoint(job.output, prepared.save, prepared.learner.tokenizer, record, result.history)
    shutil.rmtree(job.work, ignore_errors=True)


def training_record(job: StageJob[Any], result: TrainingResult, before: float = 0.0) -> dict[str, Any]:
    """Return the content of training.json; `before` is the training time of the stages before, s.

    Its keys: stage, seed, options, train_seconds (of this stage, without set-up, evaluation and saving),
    total_train_seconds (with its parents'), step_seconds_mean, step_seconds_median, steps, epochs, best_step and
    truncated (share of texts that were cut at `max_length`, by split), these six null for a stage that takes no steps,
    validation (metric and loss there), device, machine (the fingerprint), parent (folder, or null for a stage that
    starts from a pretrained model).
    """
    return {
        "stage": job.options.stage,
        "seed": job.seed,
        "options": job.options.model_dump(mode="json"),
        "train_seconds": result.seconds,
        "total_train_seconds": before + result.seconds,
        "step_seconds_mean": result.step_seconds_mean,
        "step_seconds_median": result.step_seconds_median,
        "steps": result.steps,
        "epochs": result.epochs,
        "best_step": result.best_step,
        "truncated": result.truncated,
        "validation": result.validation,
        "device": result.device,
        "machine": machine.fingerprint(),
        "parent": None if job.options.stage == "finetune" else str(job.start),
    }
