"""The study file: every key with its description, default and bounds.

The JSON schema in workflow/schemas and the reference in config/README.md are generated from this module.
"""

from __future__ import annotations

import unicodedata
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from intaglio import metrics
from intaglio.errors import nearest
from intaglio.study import catalogue, recipes
from intaglio.study.options import (
    CutOptions,
    DistilOptions,
    FinetuneOptions,
    Int8Options,
    PruneOptions,
    QuantizeOptions,
    Stage,
)
from intaglio.study.sources import Source, StudyPart

# Names are used for folders and Snakemake wildcards.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
# Splits become file names: `test` or `test_NAME`.
Split = Annotated[str, StringConstraints(pattern=r"^(train|test|test_[A-Za-z0-9][A-Za-z0-9_-]*)$")]

# What executes models; the first that runs a model on the CPU is what the others are compared with.
BackendName = Literal[
    "torch",
    "torch.compile",
    "torch.sparse",
    "onnxruntime",
    "openvino",
    "native",
    "torch-bf16",
    "torch.compile-bf16",
    "openvino-bf16",
]


class StageOptions(StudyPart):
    """Options by stage, for the whole study or for one task."""

    finetune: FinetuneOptions = Field(default_factory=FinetuneOptions)
    distil: DistilOptions = Field(default_factory=DistilOptions)
    prune: PruneOptions = Field(default_factory=PruneOptions)
    cut: CutOptions = Field(default_factory=CutOptions)
    quantize: QuantizeOptions = Field(default_factory=QuantizeOptions)
    int8: Int8Options = Field(default_factory=Int8Options)


class Bins(StudyPart):
    """Labels from a number: the label of the interval that it falls into.

    A number on an edge belongs to the interval above, but is dropped if either of its neighbors is dropped.
    """

    edges: list[float] = Field(min_length=1, description="Ascending bounds between the intervals.")
    labels: list[str | None] = Field(description="One label per interval; null drops its examples.")

    @model_validator(mode="after")
    def _one_label_an_interval(self) -> Self:
        if len(self.labels) != len(self.edges) + 1:
            raise ValueError(f"{len(self.edges)} edges make {len(self.edges) + 1} intervals: give as many labels")
        if list(self.edges) != sorted(self.edges):
            raise ValueError("edges must ascend")
        return self


class Task(StudyPart):
    """A text classification task: where its data is, what its columns mean, how it is judged."""

    source: Source
    columns: list[str] | None = Field(None, description="Column names of a file without a header line.")
    delimiter: str | None = Field(None, description="Delimiter of a text file, where its name does not tell.")
    quotes: bool | None = Field(
        None, description="Whether double quotes enclose fields of a text file; when null, unless tabs delimit."
    )
    text: list[str] = Field(min_length=1, max_length=2, description="Column of the text, or two for a pair of texts.")
    label: str = Field(description="Column of the label.")
    labels: list[str] = Field(min_length=2, description="The labels, in the order of the model's outputs.")
    label_values: list[str] | None = Field(
        None, description="Value in the label column for each label, if it is not the label's name."
    )
    bins: Bins | None = Field(None, description="Make the label of a numeric label column.")
    splits: dict[Split, str] = Field(
        default_factory=lambda: {"train": "train", "test": "test"},
        description="Splits of a hub data set: `train`, and `test` or several as `test_NAME`.",
    )
    metric: str = Field(
        "accuracy",
        description=f"The primary metric: {', '.join(metrics.KNOWN_METRICS)}.",
        json_schema_extra=lambda schema: schema.update(enum=list(metrics.KNOWN_METRICS)),
    )
    positive: str | None = Field(None, description="The one of two labels to which the metric f1 applies.")
    validation: float = Field(0.1, gt=0, lt=0.5, description="Share of the training data on which models are chosen.")
    test: float = Field(0.2, gt=0, lt=0.5, description="Share to test on, where the source has no test split.")
    split_seed: int = Field(0, ge=0, description="Seed of these splits; the same for every run.")
    max_train: int | None = Field(
        None, gt=1, description="Use so many training examples, those of the validation split included, at most."
    )
    max_test: int | None = Field(None, gt=1, description="Use so many test examples of each test set, at most.")
    stages: StageOptions = Field(default_factory=StageOptions, description="Options for this task.")

    @field_validator("metric")
    @classmethod
    def _metric_is_known(cls, name: str) -> str:
        if name not in metrics.KNOWN_METRICS:
            raise ValueError(f"unknown metric {name!r}, {nearest(name, metrics.KNOWN_METRICS)}")
        return name

    @model_validator(mode="after")
    def _metric_fits(self) -> Self:
        if self.positive is not None and self.positive not in self.labels:
            raise ValueError(f"positive: unknown label {self.positive!r}, {nearest(self.positive, self.labels)}")
        position = None if self.positive is None else self.labels.index(self.positive)
        reason = metrics.KNOWN_METRICS[self.metric].refusal(metrics.Classes(len(self.labels), position))
        if reason:
            raise ValueError(f"metric: {reason}")
        return self

    @model_validator(mode="after")
    def _labels_agree(self) -> Self:
        for key, values in (("labels", self.labels), ("label_values", self.label_values or [])):
            if len({unicodedata.normalize("NFC", value) for value in values}) != len(values):
                raise ValueError(f"{key}: a value occurs twice")
            if any(not value.strip() for value in values):
                raise ValueError(f"{key}: a value is empty")
        columns = [*self.text, self.label]
        again = [column for column in columns if columns.count(column) > 1]
        if again:
            raise ValueError(f"the column {again[0]!r} occurs twice among `text` and `label`")
        if self.delimiter is not None and len(self.delimiter) != 1:
            raise ValueError(f'delimiter: {self.delimiter!r} is not one character; a tab is "\\t" in double quotes')
        if "train" not in self.splits:
            raise ValueError("splits: `train` is missing")
        if self.label_values is not None and len(self.label_values) != len(self.labels):
            raise ValueError(f"label_values: {len(self.label_values)} values for {len(self.labels)} labels")
        if self.bins is not None:
            strange = sorted({label for label in self.bins.labels if label is not None} - set(self.labels))
            if strange:
                raise ValueError(f"bins: {strange[0]!r} is not among the labels {self.labels}")
        if isinstance(self.source, dict):
            return self
        if self.source.kind == "files" and self.source.train is None:
            raise ValueError("source: files need `train`, the training data")
        return self


class Pretrained(StudyPart):
    """A pretrained encoder."""

    source: Source

    @model_validator(mode="after")
    def _has_a_path(self) -> Self:
        if self.source.kind == "files" and self.source.path is None:
            raise ValueError("source: files need `path`, the model's folder")
        return self


class Profile(StudyPart):
    """What to measure for every model, and how."""

    batch_sizes: list[int] = Field(default_factory=lambda: [1, 8, 32], min_length=1, description="Batch sizes.")
    lengths: list[int] = Field(default_factory=lambda: [32, 128], min_length=1, description="Sequence lengths, tokens.")
    headline: tuple[int, int] = Field((1, 128), description="Batch size and length of the summary's latency.")
    warmup: int = Field(5, ge=1, description="Calls before timing.")
    calls: int = Field(30, ge=2, description="Calls that are timed, at each point of the grid.")
    threads: int = Field(2, ge=1, description="CPU threads.")
    seeds: Literal["first", "all"] = Field(
        "first",
        description="Which runs of a variant are measured. Times depend on shapes, not on seeds, so one run tells as "
        "much as all; variants with a `cut`, whose shapes depend on the seed, are measured for every seed.",
    )
    devices: tuple[Literal["cpu", "cuda"], ...] = Field(
        ("cpu", "cuda"), min_length=1, description="Devices; one that is absent is left out."
    )
    backends: tuple[BackendName, ...] = Field(
        ("torch", "onnxruntime", "openvino", "native", "torch-bf16", "openvino-bf16"),
        min_length=1,
        description="What executes the models: PyTorch as it is, PyTorch compiled (left out without a C++ compiler), "
        "PyTorch with 2:4 sparse kernels in 16 bits (of models with this pattern, on GPUs that have them), ONNX "
        "Runtime and OpenVINO (on the CPU), Intaglio's native library (integer models, on the CPU), and models in "
        "floating point in bf16 (left out where the processor has none). The tables' latency is that of the fastest.",
    )

    machine: str | None = Field(
        None,
        min_length=1,
        description="Name of the hardware that measures, where that is not the machine on which Snakemake runs, as on "
        "clusters: profiles are made again when it changes. Null is this machine, known by its processor, its GPU and "
        "the versions of what executes models.",
    )

    @field_validator("batch_sizes", "lengths")
    @classmethod
    def _positive(cls, sizes: list[int]) -> list[int]:
        if min(sizes) < 1:
            raise ValueError(f"{min(sizes)} is too small: give numbers from 1")
        return sizes

    @field_validator("devices", "backends")
    @classmethod
    def _named_once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) != len(names):
            raise ValueError("a name occurs twice")
        return names

    @model_validator(mode="after")
    def _headline_on_grid(self) -> Self:
        if self.headline[0] not in self.batch_sizes or self.headline[1] not in self.lengths:
            raise ValueError(f"headline {list(self.headline)} is not a point of batch_sizes x lengths")
        return self


class Resources(StudyPart):
    """What a job asks the cluster for; memory and time double with each attempt."""

    train_minutes: int = Field(240, gt=0, description="Time of a training job, first attempt.")
    measure_minutes: int = Field(30, gt=0, description="Time of an evaluation or profiling job, first attempt.")
    memory_mb: int = Field(16000, gt=0, description="Memory of a GPU job, first attempt.")
    cpus: int = Field(4, gt=0, description="CPU cores of a GPU job.")


class Study(StudyPart):
    """A study: tasks x models x variants x seeds."""

    study: Name = Field(description="Name of the study; its tables and plots go to results/NAME.")
    description: str = Field("", description="A sentence for the report.")
    seeds: list[int] = Field(min_length=1, description="Seeds; every run is repeated for each of them.")
    max_length: int = Field(
        128, ge=8, description="Number of tokens at which texts are truncated, including those that the tokenizer adds."
    )
    tasks: dict[Name, Task] = Field(min_length=1, description="Tasks by name; `{}` takes a known task as it is.")
    models: dict[Name, Pretrained] = Field(min_length=1, description="Pretrained encoders by name.")
    variants: dict[Name, list[Stage]] = Field(
        min_length=1, description="Recipes by name, lists of stages; `null` takes a known variant as it is."
    )
    stages: StageOptions = Field(default_factory=StageOptions, description="Options for the whole study.")
    profile: Profile = Field(default_factory=Profile, description="The measurements.")
    resources: Resources = Field(default_factory=Resources, description="Requests to the cluster.")
    bootstrap: int = Field(2000, ge=100, description="Resamples behind every confidence interval.")

    @field_validator("seeds")
    @classmethod
    def _sound_seeds(cls, seeds: list[int]) -> list[int]:
        strange = [seed for seed in seeds if not 0 <= seed < 2**32]
        if strange:
            raise ValueError(f"{strange[0]} is no seed: give numbers from 0 to {2**32 - 1}")
        if len(set(seeds)) != len(seeds):
            raise ValueError("a seed occurs twice")
        return seeds

    @field_validator("tasks", "models", mode="before")
    @classmethod
    def _complete_known(cls, entries: Any, info: Any) -> Any:
        """Merge the study's tasks or models with the known ones of the same names."""
        known = catalogue.KNOWN_TASKS if info.field_name == "tasks" else catalogue.KNOWN_MODELS
        if not isinstance(entries, dict):
            return entries
        return {name: catalogue.complete(info.field_name, str(name), entry, known) for name, entry in entries.items()}

    @field_validator("variants", mode="before")
    @classmethod
    def _known_recipes(cls, entries: Any) -> Any:
        if not isinstance(entries, dict):
            return entries
        return {name: catalogue.recipe(str(name)) if recipe is None else recipe for name, recipe in entries.items()}

    @field_validator("variants")
    @classmethod
    def _sound_recipes(cls, entries: dict[str, list[Any]]) -> dict[str, list[Any]]:
        for name, stages in entries.items():
            reason = recipes.refusal(stages)
            if reason:
                raise ValueError(f"{name}: {reason}")
        return entries

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        """Check that teachers are variants and students are models."""
        for name, stages in self.variants.items():
            for options in stages:
                teacher = recipes.teacher_of(options)
                if teacher is not None and teacher not in self.variants:
                    raise ValueError(f"variants.{name}: unknown teacher {teacher!r}, {nearest(teacher, self.variants)}")
                student = recipes.student_of(options)
                known = {**self.models, **catalogue.KNOWN_MODELS}
                if student is not None and student not in known:
                    raise ValueError(f"variants.{name}: unknown student {student!r}, {nearest(student, known)}")
        return self
