"""The study file: every key with its description, default and bounds.

The JSON schema in workflow/schemas and the reference in config/README.md are generated from this module.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from intaglio import catalogue
from intaglio.errors import nearest
from intaglio.study import recipes
from intaglio.study.choice import Constraints, ObjectiveName
from intaglio.study.options import Stage
from intaglio.study.profile import Profile
from intaglio.study.sources import Source, StudyPart
from intaglio.study.task import StageOptions, Task

# Names are used for folders and Snakemake wildcards.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


# Least number of tokens of a window of question answering: a third of it may be the question.
_SHORTEST_WINDOW = 16


class Pretrained(StudyPart):
    """A pretrained encoder."""

    source: Source

    @model_validator(mode="after")
    def _has_a_path(self) -> Self:
        if self.source.kind == "files" and self.source.path is None:
            raise ValueError("source: files need `path`, the model's folder")
        return self


class Resources(StudyPart):
    """What a job asks the cluster for. A further attempt asks for more memory and, if it cannot resume, more time."""

    train_minutes: int = Field(
        240, gt=0, description="Time of a training job. One that needs more saves, returns to the queue and goes on."
    )
    measure_minutes: int = Field(30, gt=0, description="Time of an evaluation, export or profiling job, first attempt.")
    max_minutes: int | None = Field(
        None, gt=0, description="Longest time to ask for. Null is the limit of the partition, as SLURM says it."
    )
    runs_per_allocation: int | None = Field(
        None,
        gt=0,
        description="Runs whose trainings, evaluations, exports and profiles are made one after another in one "
        "allocation: 1 for those of each run, more for many small runs. Null gives each job its own.",
    )
    memory_mb: int = Field(16000, gt=0, description="Memory of a GPU job, first attempt.")
    cpus: int = Field(4, gt=0, description="CPU cores of a GPU job.")
    train_tasks: int = Field(
        1, gt=0, description="Processes of a training; each takes a part of every batch, a GPU, `cpus` and `memory_mb`."
    )
    train_nodes: int = Field(1, gt=0, description="Nodes among which the processes of a training are divided.")
    gpus: Literal["gpus", "gres", "none"] = Field(
        "gpus", description="How a GPU is asked for: `--gpus=1`, `--gres=gpu:1`, or not at all: all computes on CPUs."
    )
    gpu_type: str | None = Field(None, min_length=1, description="Type of GPU, as the cluster names it: `a100`.")
    cpu_partition: str | None = Field(
        None,
        min_length=1,
        description="Partition of the jobs without a GPU, where the others are in one for GPUs only.",
    )

    @model_validator(mode="after")
    def _tasks_divide(self) -> Self:
        if self.train_tasks % self.train_nodes:
            raise ValueError(f"train_tasks: {self.train_tasks} do not divide among train_nodes: {self.train_nodes}")
        if self.train_tasks > 1 and self.runs_per_allocation is not None:
            raise ValueError("train_tasks: several; then give no runs_per_allocation, whose jobs are of one process")
        return self


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
    stores: list[str] = Field([], description="Stores of others (`results/store`); what they have is linked, not made.")
    bootstrap: int = Field(2000, ge=100, description="Resamples behind every confidence interval.")
    margin: float = Field(
        1.0,
        gt=0,
        description="Largest loss against `float` to accept, in points of the primary metric (in its unit, for a "
        "metric without points). The tables say whether each variant loses less, with 95 % confidence.",
    )
    constraints: Constraints = Field(
        default_factory=Constraints, description="What a variant has to meet to be recommended."
    )
    objective: ObjectiveName = Field(
        "latency",
        description="What the recommended variant is best in, of those that meet the constraints: the time of a call, "
        "the exported file, peak memory, the primary metric on the validation split, or the time of all its trainings.",
    )

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
        return catalogue.complete_all(info.field_name, entries, known)

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
    def _windows_fit(self) -> Self:
        """Check that the windows of question answering hold a question and a part of the context."""
        for name, task in self.tasks.items():
            if task.kind != "question_answering":
                continue
            if self.max_length < _SHORTEST_WINDOW:
                raise ValueError(
                    f"max_length: {self.max_length} tokens are too few for the windows of {name}, a task of question "
                    f"answering; give {_SHORTEST_WINDOW} at least"
                )
            if (task.stride or 0) > self.max_length // 3:
                raise ValueError(
                    f"tasks.{name}.stride: {task.stride} is more than a third of max_length, {self.max_length}; lower "
                    "it, or raise max_length"
                )
        return self

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
