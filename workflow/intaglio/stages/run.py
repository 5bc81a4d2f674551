"""Running of a stage: it prepares a model, which is trained and written as a checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from intaglio import machine, ranks
from intaglio.allocation import Preempted, return_to_queue
from intaglio.checkpoint import write_checkpoint
from intaglio.kinds import threshold_names
from intaglio.ownership import assert_owned
from intaglio.stages import continued, cut, distil, finetune, int8, prune, quantize
from intaglio.stages.prepared import Prepared
from intaglio.store import sole_maker
from intaglio.study.training_options import TrainingOptions
from intaglio.tokens.tokenize import set_limit
from intaglio.training.job import Learner, StageJob
from intaglio.training.resume import clear_failure
from intaglio.training.train import TrainingResult, train

_log = logging.getLogger(__name__)

_PREPARE: Mapping[str, Callable[[StageJob[Any]], Prepared]] = {
    "finetune": finetune.prepare,
    "distil": distil.prepare,
    "prune": prune.prepare,
    "cut": cut.prepare,
    "continue": continued.prepare,
    "quantize": quantize.prepare,
    "int8": int8.prepare,
}


def run_stage(job: StageJob[Any]) -> None:
    """Run a stage and write its [checkpoint]; an interrupted training is resumed from `job.work`.

    Of several processes with the same `job.work`, one works; the others wait, and go on if it ends without a result.
    Processes that were started together for a training (`ranks`) work as one.

    Raises:
        UserError: an artifact is damaged, the stage cannot start from it, or the loss is not finite.
        Preempted: the job has to end; its progress is saved, and if SLURM may, it starts the job again.
    """
    with ranks.joined():
        try:
            with ranks.entered_by_first(sole_maker(job.output, "checkpoint", job.work)) as wanted:
                # What is not trained takes one process.
                if wanted and (ranks.is_first() or isinstance(job.options, TrainingOptions)):
                    _run(job)
        except Preempted as preempted:
            if ranks.from_first(partial(return_to_queue, preempted.out_of_time)):
                _log.warning("the job is back in the queue, and goes on by itself")
            raise


def _run(job: StageJob[Any]) -> None:
    if ranks.is_first():
        clear_failure(job.work)
    before = 0.0 if job.options.stage == "finetune" else float(job.parent.record["total_train_seconds"])
    prepared = _PREPARE[job.options.stage](job)
    if isinstance(prepared.training, Learner):
        result, tokenizer = train(job, prepared.training), prepared.training.tokenizer
    else:
        result, tokenizer = prepared.training, job.parent.tokenizer
    if not ranks.is_first():
        return
    record = training_record(job, result, before) | prepared.facts()
    if result.thresholds is not None:
        record["thresholds"] = dict(zip(threshold_names(job.task), result.thresholds, strict=True))
    set_limit(tokenizer, job.max_length)
    assert_owned(job.work)
    write_checkpoint(job.output, prepared.save, tokenizer, record, result.history)


def training_record(job: StageJob[Any], result: TrainingResult, before: float = 0.0) -> dict[str, Any]:
    """Return the content of training.json.

    Its keys: stage, seed, options, train_seconds (of this stage, without set-up, evaluation and saving),
    total_train_seconds (including its parents), step_seconds_mean, step_seconds_median, steps, epochs, best_step,
    truncated (share of texts truncated at `max_length`, by split), padding (share of the training tokens that is
    padding, in an epoch) and padding_saved (share of the tokens of a random order that grouping by length saves), these
    eight null for a stage without steps, validation (metric and loss), warnings, device, energy (of the steps, by
    meter: rows of the table of energy; empty where the machine has none),
    machine (the fingerprint), parent (folder; null for a stage that starts from a pretrained model).

    Args:
        job: the job of the stage.
        result: the outcome of its training.
        before: training time of the stages before, in seconds.
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
        "padding": result.padding,
        "padding_saved": result.padding_saved,
        "validation": result.validation,
        "warnings": result.warnings,
        "device": result.device,
        "energy": [{"stage": job.options.stage, "device_name": result.device, **row} for row in result.energy],
        "machine": machine.fingerprint(),
        "parent": None if job.options.stage == "finetune" else str(job.start),
    }
