"""The options of every stage: defaults, meanings and bounds in one place."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from intaglio.arithmetic.operations import OPERATIONS, Operation
from intaglio.study.sources import Model


class TrainingOptions(Model):
    """What every stage that trains has in common."""

    learning_rate: float = Field(2e-5, gt=0, description="Peak learning rate, decayed linearly after the warm-up.")
    epochs: float = Field(3.0, gt=0, description="Passes over the training data, at most.")
    max_steps: int | None = Field(None, gt=0, description="Optimizer steps, at most; overrides `epochs`.")
    batch_size: int = Field(32, gt=0, description="Examples per optimizer step, accumulated ones included.")
    gradient_accumulation: int = Field(1, gt=0, description="Parts in which a batch passes through the device.")
    weight_decay: float = Field(0.1, ge=0, description="AdamW's decoupled weight decay.")
    adam_beta1: float = Field(0.9, ge=0, lt=1, description="AdamW's first moment.")
    adam_beta2: float = Field(0.98, ge=0, lt=1, description="AdamW's second moment.")
    adam_epsilon: float = Field(1e-6, gt=0, description="AdamW's epsilon.")
    warmup: float = Field(0.06, ge=0, lt=1, description="Share of the steps in which the learning rate rises.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are scaled down to this norm.")
    dropout: float | None = Field(None, ge=0, lt=1, description="Of hidden states; the checkpoint's own when null.")
    attention_dropout: float | None = Field(
        None, ge=0, lt=1, description="Of attention probabilities; the checkpoint's own when null."
    )
    evaluations: int = Field(
        0, ge=0, description="Evaluations on the validation split, evenly spaced; 0 means one an epoch."
    )
    patience: int | None = Field(None, gt=0, description="Stop after so many evaluations without improvement.")
    checkpoint_minutes: float = Field(10.0, ge=0, description="Minutes between checkpoints that a killed job resumes.")


class FinetuneOptions(TrainingOptions):
    """Fine-tune a pretrained model on the task, in floating point."""

    stage: Literal["finetune"] = "finetune"
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="`auto` is bf16 mixed precision on a GPU that has it, else fp32."
    )


class QuantizeOptions(TrainingOptions):
    """Quantization-aware training of an integer-only encoder (I-BERT), from a fine-tuned float checkpoint."""

    stage: Literal["quantize"] = "quantize"
    integer: tuple[Operation, ...] = Field(
        OPERATIONS, description="Which operations run on integers; `linear` is the base of the others."
    )
    calibration_examples: int = Field(512, gt=0, description="Training examples whose activations set the ranges.")
    momentum: float = Field(0.95, gt=0, lt=1, description="Of the moving average of activation ranges.")
    freeze: float = Field(0.5, ge=0, le=1, description="Share of the steps after which ranges stay as they are.")
    recalibrations: int = Field(5, ge=0, description="Times that ranges are updated before they are frozen.")
    learning_rate: float = Field(2e-6, gt=0, description="Peak learning rate; a float-sized one makes tasks collapse.")

    @field_validator("integer")
    @classmethod
    def _in_order(cls, value: tuple[Operation, ...]) -> tuple[Operation, ...]:
        if "linear" not in value:
            raise ValueError("must contain 'linear': the other operations take the integers that linear layers make")
        return tuple(operation for operation in OPERATIONS if operation in value)


Stage = Annotated[FinetuneOptions | QuantizeOptions, Field(discriminator="stage")]
STAGES: dict[str, type[TrainingOptions]] = {"finetune": FinetuneOptions, "quantize": QuantizeOptions}
