"""Quantization-aware training of an integer-only encoder (I-BERT; Kim et al. 2021), from a fine-tuned checkpoint.

Activation ranges are calibrated before the first step, updated several times during training, and then frozen. Each
time, training examples pass without dropout, which would inflate ranges. Training steps themselves observe nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import TrainerCallback, set_seed

from intaglio import ranks
from intaglio.distillation import distillation_loss
from intaglio.encoder.files import read_encoder, save_encoder
from intaglio.encoder.model import Encoder
from intaglio.errors import UserError
from intaglio.execution.checks import check_shape
from intaglio.kinds import kind_of
from intaglio.models.dropout import override_dropout
from intaglio.stages.changes import prediction_changes
from intaglio.stages.masks import held_masks, sparsity_rows
from intaglio.stages.prepared import Prepared
from intaglio.study.options import QuantizeOptions
from intaglio.tokens.encoded import BATCH, Encoded, batches_of, joined_logits
from intaglio.training.examples import drawn_examples
from intaglio.training.job import Learner, StageJob

# Number of calibration batches on which predictions are compared with the parent's.
_COMPARED = 2


def prepare(job: StageJob[QuantizeOptions]) -> Prepared:
    """Return the parent as an encoder on simulated integers, with calibrated ranges.

    Pruned weights of the parent stay zero.

    Raises:
        UserError: the parent is quantized already, is damaged or has an architecture without an integer encoder; or
            calibration alone changes too many predictions.
    """
    parent, options = job.parent, job.options
    if parent.is_quantized:
        raise UserError(f"{parent}: is quantized already; quantize starts from a float checkpoint")
    tokenizer, config = parent.tokenizer, parent.config()
    override_dropout(config, options)
    model = parent.load()
    set_seed(job.seed)
    operations, bits = frozenset(options.integer), options.bits.model_dump()
    encoder = read_encoder(parent.path, operations, config, bits, options.keep_float)
    check_shape(encoder.shape, job.max_length)
    examples = drawn_examples(job, tokenizer, options.calibration_examples)
    batches = batches_of(examples, tokenizer)
    observe = partial(calibrate_ranges, encoder, batches, options.momentum)
    observe()
    compared = examples.take(np.arange(min(_COMPARED * BATCH, len(examples.rows))))
    conversion = compare_predictions(job, model, encoder, batches[:_COMPARED], compared)
    del model
    masks = held_masks(encoder)
    learner = Learner(
        encoder,
        tokenizer,
        callbacks=[Recalibration(options, observe), *masks],
        loss=distillation_loss(job, encoder, tokenizer),
    )

    def facts() -> dict[str, Any]:
        return {"conversion": conversion} | ({"sparsity": sparsity_rows(encoder)} if masks else {})

    return Prepared(learner, partial(save_encoder, encoder, config), facts)


def calibrate_ranges(encoder: Encoder, batches: Iterable[Mapping[str, Tensor]], momentum: float, step: int = 0) -> None:
    """Set the encoder's activation ranges by these batches of input_ids, attention_mask (, token_type_ids).

    Args:
        encoder: its ranges are changed; without dropout, in whatever mode it is.
        batches: int64 [batch, length] each.
        momentum: of the moving average.
        step: of the training after which this happens, 0 before it begins.

    Raises:
        UserError: an activation is not finite, or always zero.
    """
    device = next(encoder.parameters()).device
    with encoder.calibrating(momentum):
        for batch in batches:
            encoder(**{name: tensor.to(device) for name, tensor in batch.items()})
    # Every process has seen the same examples; their last bits may differ.
    ranks.agree(encoder.buffers())
    for name, buffer in encoder.named_buffers():
        if name.endswith(".largest") and not (torch.isfinite(buffer) and buffer > 0):
            advice = (
                f"training has diverged by step {step}; lower learning_rate or lengthen warmup"
                if step
                else "the checkpoint that it starts from is broken, train it again"
            )
            raise UserError(f"calibration: the range of {name.removesuffix('.largest')} is {float(buffer)}; {advice}")


@torch.no_grad()
def compare_predictions(
    job: StageJob[QuantizeOptions],
    parent: Any,
    encoder: Encoder,
    batches: Sequence[Mapping[str, Tensor]],
    examples: Encoded,
) -> dict[str, Any]:
    """Compare predictions before and after quantization, before any training.

    Args:
        job: the job with its task, its parent's thresholds and the largest share of changed predictions.
        parent: the float model, in evaluation mode.
        encoder: the calibrated integer encoder, in evaluation mode, on the same device.
        batches: inputs of both.
        examples: the examples in the batches.

    Returns:
        `measure`, `difference`, the bounds of its interval, and `tolerance`, as `Changes.facts` returns them.

    Raises:
        UserError: significantly more have changed, over all classes, as training follows.
    """
    kind, tolerance = kind_of(job.task), job.options.tolerance
    logits = (joined_logits([model(**batch).logits.numpy() for batch in batches]) for model in (parent, encoder))
    before, after = (kind.decode(examples.outputs(found), job.parent.thresholds) for found in logits)
    found = prediction_changes(job.task, before, after).total
    if found.exceeds(tolerance):
        raise UserError(
            f"quantize: {found} change before training; tolerance: {tolerance:.1%} is allowed; take more"
            " calibration_examples, leave an operation in floating point, or allow more"
        )
    return found.facts("predictions changed before training", tolerance)


class Recalibration(TrainerCallback):  # type: ignore[misc]
    """Updates the ranges at evenly spaced steps until they are frozen.

    The ranges are in the model's state dict, so a resumed job restores them.
    """

    def __init__(self, options: QuantizeOptions, observe: Callable[..., None]) -> None:
        self.options = options
        self.observe = observe

    def steps(self, total: int) -> set[int]:
        """Return the steps after which ranges are updated, for this total number of steps."""
        last = self.options.freeze * total
        count = self.options.recalibrations
        return {round(last * (index + 1) / count) for index in range(count)} - {0}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Update the ranges if it is due."""
        if state.global_step in self.steps(state.max_steps):
            self.observe(step=state.global_step)
