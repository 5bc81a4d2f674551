"""The options of every stage, with defaults, descriptions and bounds."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from intaglio.arithmetic.operations import OPERATIONS, Operation
from intaglio.study.bits import Bits
from intaglio.study.low_rank import LowRank
from intaglio.study.sources import StudyPart
from intaglio.study.training_options import TrainingOptions


class FinetuneOptions(TrainingOptions):
    """Fine-tune a pretrained model on the task, in floating point."""

    stage: Literal["finetune"] = "finetune"
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="`auto` is bf16 mixed precision on a GPU that has it, else fp32."
    )
    low_rank: LowRank | None = Field(
        None,
        description="Train adapters of low rank and the classification head only, and merge the adapters into the "
        "weights at the end; `{}` takes the defaults, null trains all weights. A learning rate of about 2e-4 suits it.",
    )


class Distillation(StudyPart):
    """The loss of a student: its teacher, and the weights of its terms."""

    teacher: str | None = Field(
        None,
        description="Variant whose model teaches; null is the model that `distil` starts from, and in other stages the "
        "recipe's own fine-tuned one.",
    )
    labels: float = Field(0.5, ge=0, description="Weight of the loss of the labels.")
    logits: float = Field(
        0.5,
        ge=0,
        description="Weight of the divergence from the teacher's probabilities; for regression, of the squared "
        "distance from its values.",
    )
    temperature: float = Field(2.0, gt=0, description="Temperature by which both logits are divided for that.")
    hidden: float = Field(
        0.0, ge=0, description="Weight of the mean squared distance of hidden states, layer by layer."
    )
    relations: float = Field(
        0.0, ge=0, description="Weight of the divergence of self-attention relations in the last layer (MiniLMv2)."
    )

    @model_validator(mode="after")
    def _some_loss(self) -> Self:
        if not self.labels + self.logits + self.hidden + self.relations:
            raise ValueError("every weight is zero: there is nothing to learn from")
        return self


class DistilOptions(TrainingOptions):
    """Train a student to do what the model before it does: fewer of its layers, or another pretrained model."""

    stage: Literal["distil"] = "distil"
    layers: int | None = Field(
        None,
        gt=0,
        description="Number of the student's layers, copied evenly spaced up to the last from the model before it, "
        "whatever model teaches; null is every other layer.",
    )
    student: str | None = Field(
        None, description="Another pretrained model with the same vocabulary, a name as in `models`, as student."
    )
    learning_rate: float = Field(5e-5, gt=0, description="Peak learning rate, decayed linearly after the warm-up.")
    distillation: Distillation = Field(default_factory=Distillation, description="What the student learns from.")

    @model_validator(mode="after")
    def _one_student(self) -> Self:
        if self.layers is not None and self.student is not None:
            raise ValueError("layers: a student that is another model brings its own; give one of `layers`, `student`")
        return self


# What `prune` and `cut` remove where the study names neither a sparsity nor a speed-up; also that of 2:4.
DEFAULT_SPARSITY = 0.5


class PruneOptions(TrainingOptions):
    """Set weights to zero, and train what is left."""

    stage: Literal["prune"] = "prune"
    structure: Literal["unstructured", "2:4"] = Field(
        "unstructured",
        description="`unstructured`: the smallest weights of the linear layers become zero. `2:4`: two of every four "
        "in a row do, which the tensor cores of NVIDIA GPUs skip.",
    )
    sparsity: float | None = Field(None, gt=0, lt=1, description="Share that is removed; null is 0.5.")
    scope: Literal["global", "layer"] = Field(
        "global", description="Whether all layers compete for what stays, or each gives up the same share."
    )
    schedule: Literal["one-shot", "gradual"] = Field(
        "gradual",
        description="`one-shot` removes before the first step; `gradual` on the way, by Zhu and Gupta's cubic "
        "schedule.",
    )
    pruning: float = Field(0.5, gt=0, le=1, description="Share of the steps in which a gradual schedule removes.")
    prunings: int = Field(10, gt=0, description="Number of removals in a gradual schedule.")
    distillation: Distillation | None = Field(
        None, description="Let a teacher help to recover; null learns from the labels alone."
    )

    @property
    def removed(self) -> float:
        """The share of weights to remove."""
        return DEFAULT_SPARSITY if self.sparsity is None else self.sparsity

    @model_validator(mode="before")
    @classmethod
    def _cutting_is_another_stage(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("structure") == "heads-and-neurons":
            rest = ", ".join(f"{name}: {values[name]}" for name in ("sparsity", "speedup", "scope") if name in values)
            new = ", ".join(filter(None, ["stage: cut", rest]))
            raise ValueError(f"heads and neurons are removed by a stage of its own; write {{{new}}}")
        if isinstance(values, dict) and values.get("speedup") is not None:
            raise ValueError("speedup: zeros make dense kernels no faster; give `sparsity`, or take {stage: cut}")
        return values

    @model_validator(mode="after")
    def _sparsity_fits_structure(self) -> Self:
        if self.structure == "2:4" and self.sparsity not in (None, DEFAULT_SPARSITY):
            raise ValueError("sparsity: 2:4 is a sparsity of 0.5; leave it out")
        return self


class CutOptions(TrainingOptions):
    """Cut attention heads and neurons of the feed-forward layers out, so every backend gets faster; then recover."""

    stage: Literal["cut"] = "cut"
    sparsity: float | None = Field(
        None, gt=0, lt=1, description="Share of heads and of neurons that goes; null is 0.5, unless `speedup` is given."
    )
    speedup: float | None = Field(
        None, gt=1, description="In place of `sparsity`: the wanted speed-up of the encoder's layers."
    )
    scope: Literal["global", "layer"] = Field(
        "global", description="Whether all layers compete for what stays, or each gives up the same share."
    )
    importance_examples: int = Field(
        256, gt=0, description="Training examples whose gradients measure the importance of heads and neurons."
    )
    distillation: Distillation | None = Field(
        None, description="Let a teacher help to recover; null learns from the labels alone."
    )

    @property
    def removed(self) -> float:
        """The share to remove if `speedup` does not determine it."""
        return DEFAULT_SPARSITY if self.sparsity is None else self.sparsity

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        if self.speedup is not None and self.sparsity is not None:
            raise ValueError("speedup: it decides the sparsity; give one of the two")
        return self


class ContinueOptions(TrainingOptions):
    """Train a float model on, on the labels alone: the control of a stage that trains longer than `float` does."""

    stage: Literal["continue"] = "continue"
    like: Literal["finetune", "distil", "prune", "cut", "quantize"] | None = Field(
        None,
        description="Stage whose budget, learning rate and other options of training this one takes, as the task and "
        "the study give them for it.",
    )


class QuantizeOptions(TrainingOptions):
    """Quantization-aware training of an integer-only encoder (I-BERT), from a fine-tuned float checkpoint."""

    stage: Literal["quantize"] = "quantize"
    integer: tuple[Operation, ...] = Field(
        OPERATIONS, description="Which operations run on integers; `linear` is the base of the others."
    )
    bits: Bits = Field(
        default_factory=Bits,
        description="Fewer bits for weights and embeddings, in a smaller file; train with `distillation` then.",
    )
    keep_float: tuple[Annotated[str, StringConstraints(pattern=r"^\d+\.(gelu|softmax)$")], ...] = Field(
        (), description="Operations of single layers that stay in floating point: `3.gelu`, `0.softmax`."
    )
    calibration_examples: int = Field(512, gt=0, description="Training examples whose activations set the ranges.")
    momentum: float = Field(0.95, gt=0, lt=1, description="Of the moving average of activation ranges.")
    freeze: float = Field(0.5, ge=0, le=1, description="Share of the steps after which ranges are frozen.")
    recalibrations: int = Field(5, ge=0, description="Number of updates of the ranges before they are frozen.")
    tolerance: float = Field(
        0.4,
        ge=0,
        le=1,
        description="Share of calibration examples whose prediction may change before training. The run fails where "
        "it is significantly larger: the lower bound of its exact binomial 95 % interval is above the tolerance.",
    )
    learning_rate: float = Field(2e-6, gt=0, description="Peak learning rate; a float-sized one makes tasks collapse.")

    distillation: Distillation | None = Field(
        None, description="Let a float teacher help the integer student; null learns from the labels alone."
    )

    @field_validator("integer")
    @classmethod
    def _in_order(cls, value: tuple[Operation, ...]) -> tuple[Operation, ...]:
        if "linear" not in value:
            raise ValueError("must contain 'linear': the other operations take the integers that linear layers make")
        return tuple(operation for operation in OPERATIONS if operation in value)


class Int8Options(StudyPart):
    """Post-training quantization of linear layers and embeddings to 8 bits; nothing is trained."""

    stage: Literal["int8"] = "int8"
    engine: Literal["onnxruntime", "openvino"] = Field(
        "onnxruntime",
        description="What runs the model. For `openvino`, NNCF quantizes it, with calibrated ranges and weights of "
        "7 bits, whose products are exact on CPUs without VNNI, too; `method`, `per_channel`, `calibration` and "
        "`percentile` are only of `onnxruntime`.",
    )
    method: Literal["dynamic", "static", "weights"] = Field(
        "dynamic",
        description="`dynamic`: ranges of activations are taken at every call, over the whole batch, so that a "
        "prediction depends a little on the others of its batch. `static`: ranges are calibrated. "
        "`weights`: only stored weights have 8 bits; ONNX Runtime makes them floating point when it opens the file.",
    )
    per_channel: bool = Field(True, description="One scale per output channel of linear weights, or one each.")
    calibration: Literal["min-max", "percentile", "mse"] = Field(
        "mse", description="Of `static`: the range of all values, of a share of them, or with the least squared error."
    )
    percentile: float = Field(99.99, gt=50, lt=100, description="Of `calibration: percentile`: that share.")
    calibration_examples: int = Field(128, gt=0, description="Training examples that ranges are calibrated on.")
    max_drop: float | None = Field(
        None,
        ge=0,
        lt=100,
        description="Of `openvino`: points of the task's metric on the validation split that may be lost (its unit, "
        "for a metric without points). Layers that "
        "cost more are left in floating point. Null quantizes every linear layer.",
    )
    tolerance: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Share of predictions on the validation split that may change. The run fails where the share is "
        "significantly larger: the lower bound of its exact binomial 95 % interval is above the tolerance, over all "
        "compared examples or over those that the float model assigns to one class (intervals of classes are "
        "corrected for their number). Each label of each example of a multi-label task counts; a value of a regression "
        "task has changed if it moves by more than a quarter of the targets' standard deviation.",
    )

    @model_validator(mode="after")
    def _options_of_the_engine(self) -> Self:
        others = {"onnxruntime": ["max_drop"], "openvino": ["method", "per_channel", "calibration", "percentile"]}
        for name in others[self.engine]:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name}: engine: {self.engine} does not have it; leave one of the two out")
        return self


AnyStage = FinetuneOptions | DistilOptions | PruneOptions | CutOptions | ContinueOptions | QuantizeOptions | Int8Options
Stage = Annotated[AnyStage, Field(discriminator="stage")]
STAGES: dict[str, type[AnyStage]] = {
    "finetune": FinetuneOptions,
    "distil": DistilOptions,
    "prune": PruneOptions,
    "cut": CutOptions,
    "continue": ContinueOptions,
    "quantize": QuantizeOptions,
    "int8": Int8Options,
}
