"""The options that all stages share that train."""

from __future__ import annotations

from typing import Self

from pydantic import Field, ValidationInfo, model_validator

from intaglio.study.sources import StudyPart


class TrainingOptions(StudyPart):
    """Options of every stage that trains."""

    learning_rate: float = Field(2e-5, gt=0, description="Peak learning rate, decayed linearly after the warm-up.")
    epochs: float = Field(3.0, gt=0, description="Passes over the training data, at most.")
    max_steps: int | None = Field(None, gt=0, description="Optimizer steps, at most; overrides `epochs`.")
    batch_size: int = Field(32, gt=0, description="Examples per optimizer step, accumulated ones included.")
    gradient_accumulation: int = Field(1, gt=0, description="Number of parts that a batch is split into on the device.")
    weight_decay: float = Field(0.1, ge=0, description="AdamW's decoupled weight decay.")
    adam_beta1: float = Field(0.9, ge=0, lt=1, description="AdamW's first moment.")
    adam_beta2: float = Field(0.98, ge=0, lt=1, description="AdamW's second moment.")
    adam_epsilon: float = Field(1e-6, gt=0, description="AdamW's epsilon.")
    warmup: float = Field(0.06, ge=0, lt=1, description="Share of the steps in which the learning rate rises.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are scaled down to this norm.")
    dropout: float | None = Field(None, ge=0, lt=1, description="Dropout of hidden states; null keeps the model's own.")
    attention_dropout: float | None = Field(
        None, ge=0, lt=1, description="Dropout of attention probabilities; null keeps the model's own."
    )
    group_by_length: bool = Field(
        False, description="Whether a batch holds examples of similar length, which need less padding."
    )
    evaluations: int = Field(
        0, ge=0, description="Evaluations on the validation split, evenly spaced; 0 means one per epoch."
    )
    patience: int | None = Field(None, gt=0, description="Stop after so many evaluations without improvement.")
    checkpoint_minutes: float = Field(10.0, ge=0, description="Minutes between checkpoints that a killed job resumes.")

    @model_validator(mode="after")
    def _batch_divides(self, info: ValidationInfo) -> Self:
        # A level of the study file may set only one of the two: the check is for the merged options.
        if (info.context or {}).get("complete") and self.batch_size % self.gradient_accumulation:
            raise ValueError(
                f"gradient_accumulation: {self.gradient_accumulation} does not divide the batch_size {self.batch_size}"
            )
        return self
