"""From a stage's options to the Trainer's arguments and the numbers of steps."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import TrainingArguments

from intaglio import ranks
from intaglio.errors import UserError
from intaglio.study.training_options import TrainingOptions

log = logging.getLogger(__name__)

# Number of logs of loss and learning rate in a training.
LOGS = 100
# accelerate shuffles epoch e with data_seed + e, so neighboring seeds would share their orders.
_SEED_STRIDE = 100_003


@dataclass(frozen=True)
class Steps:
    """Numbers of optimizer steps: per epoch, of the whole training at most, of the warm-up, and between two logs."""

    epoch: int
    total: int
    warmup: int
    log: int


def count_steps(options: TrainingOptions, examples: int) -> Steps:
    """Return the numbers of steps for this number of examples, as the Trainer counts them.

    Raises:
        UserError: the batch size is not a multiple of the number of parts.
    """
    if options.batch_size % options.gradient_accumulation:
        raise UserError(
            f"batch_size: {options.batch_size} does not divide into gradient_accumulation: "
            f"{options.gradient_accumulation} parts; choose a multiple"
        )
    part = options.batch_size // options.gradient_accumulation
    epoch = math.ceil(math.ceil(examples / part) / options.gradient_accumulation)
    total = options.max_steps or math.ceil(options.epochs * epoch)
    return Steps(epoch=epoch, total=total, warmup=math.ceil(options.warmup * total), log=max(1, round(total / LOGS)))


def use_bf16(precision: str) -> bool:
    """Return whether to train in bf16 mixed precision, given `fp32`, `bf16` or `auto` (bf16 if the GPU supports it).

    Raises:
        UserError: bf16 is requested and there is no GPU that supports it.
    """
    able = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    if precision == "bf16" and not able:
        raise UserError("precision: bf16 needs a GPU that has it, and there is none here; use auto or fp32")
    return able and precision != "fp32"


def training_arguments(
    options: TrainingOptions, steps: Steps, seed: int, work: Path, precision: str
) -> TrainingArguments:
    """Return the Trainer's arguments; `StageTrainer`'s callbacks control evaluation, saving and progress."""
    part = options.batch_size // options.gradient_accumulation
    arguments = TrainingArguments(
        output_dir=str(work),
        max_steps=steps.total,
        per_device_train_batch_size=part,
        per_device_eval_batch_size=max(32, part),
        gradient_accumulation_steps=options.gradient_accumulation,
        optim="adamw_torch_fused",
        learning_rate=options.learning_rate,
        weight_decay=options.weight_decay,
        adam_beta1=options.adam_beta1,
        adam_beta2=options.adam_beta2,
        adam_epsilon=options.adam_epsilon,
        max_grad_norm=options.max_grad_norm,
        lr_scheduler_type="linear",
        warmup_steps=steps.warmup,
        bf16=use_bf16(precision),
        seed=seed,
        data_seed=seed * _SEED_STRIDE,
        label_names=["labels"],
        logging_strategy="steps",
        logging_steps=steps.log,
        # A loss that is not finite must be seen.
        logging_nan_inf_filter=False,
        eval_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
        use_cpu=ranks.size() > 1 and not torch.cuda.is_available(),
    )
    # One GPU: if several are visible, the Trainer would wrap the model in DataParallel and multiply the batch.
    if arguments.n_gpu > 1:
        log.warning(
            "this training sees %d GPUs and uses one of them; `resources: train_tasks: %d` (or --tasks) uses all",
            *(arguments.n_gpu, arguments.n_gpu),
        )
        arguments._n_gpu = 1
    return arguments
