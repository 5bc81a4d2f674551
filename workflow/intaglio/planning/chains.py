"""From recipes to chains of training jobs; recipes with a common beginning share its jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from intaglio.errors import UserError
from intaglio.planning.jobs import Job, Plan, deciding, dump
from intaglio.study import recipes
from intaglio.study.options import STAGES, AnyStage, ContinueOptions
from intaglio.study.schema import Study
from intaglio.study.task import StageOptions, Task
from intaglio.study.training_options import TrainingOptions

_DECIDES_NOTHING = ("checkpoint_minutes", "student", "like")


def resolve(study: Study, task: Task, variant: str) -> list[AnyStage]:
    """Return the options of each stage, merged from variant, task, study and defaults, in this order.

    `finetune` is added to a recipe that does not begin with it.

    Raises:
        UserError: the options of a stage do not fit together; names the variant.
    """
    recipe: list[Any] = study.variants[variant]
    stages = recipe if recipe and recipe[0].stage == "finetune" else [STAGES["finetune"](), *recipe]
    resolved = []
    for own in stages:
        levels = (study.stages, task.stages)
        try:
            given = _like(levels, own) if isinstance(own, ContinueOptions) else _merged(levels, own.stage)
            merged = {**given, **own.model_dump(exclude_unset=True), "stage": own.stage}
            resolved.append(STAGES[own.stage].model_validate(merged, context={"complete": True}))
        except ValidationError as error:
            reason = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise UserError(f"variants.{variant}: the options of {own.stage}, taken together: {reason}") from None
    return resolved


def _merged(levels: Iterable[StageOptions], stage: str) -> dict[str, Any]:
    """Return the options that the levels of the study file give for a stage; later levels win."""
    merged: dict[str, Any] = {}
    for level in levels:
        merged.update(getattr(level, stage).model_dump(exclude_unset=True))
    return merged


def _like(levels: Iterable[StageOptions], own: ContinueOptions) -> dict[str, Any]:
    """Return the options of training that a control takes from another stage, with that stage's defaults."""
    if own.like is None:
        return {}
    other = STAGES[own.like].model_validate({**_merged(levels, own.like), "stage": own.like})
    return other.model_dump(include=set(TrainingOptions.model_fields))


class ResolvedStage:
    """A stage of a resolved recipe.

    Attributes:
        options: its options.
        dumped: the same as JSON values, for commands and tables.
        content: those that decide its result.
    """

    def __init__(self, options: AnyStage) -> None:
        self.options, self.dumped, self.content = options, dump(options), _content(options)


class Recipes:
    """The resolved recipes of a study; each is resolved once for a task, and serves all seeds and models."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self._resolved: dict[tuple[str, str], list[ResolvedStage]] = {}

    def of(self, task: str, variant: str) -> list[ResolvedStage]:
        """Return the steps of a variant on a task.

        Raises:
            UserError: the options of a stage do not fit together.
        """
        if (task, variant) not in self._resolved:
            resolved = resolve(self.study, self.study.tasks[task], variant)
            self._resolved[task, variant] = [ResolvedStage(options) for options in resolved]
        return self._resolved[task, variant]


class Chains:
    """The chains of training jobs of one task and model.

    Args:
        plan: takes the jobs.
        recipes: of the study.
        task, model: their names.
        data: the job of the task's data.
        models: jobs of models by name.
        tokens: returns the job of the data in tokens of a model.
    """

    def __init__(
        self,
        plan: Plan,
        recipes: Recipes,
        task: str,
        model: str,
        data: Job,
        models: Mapping[str, Job],
        tokens: Callable[[Job], Job],
    ) -> None:
        self._plan, self._recipes, self._task, self._model = plan, recipes, task, model
        self._data, self._models, self._tokens = data, models, tokens
        self._made: dict[tuple[str, int], list[Job]] = {}
        # By the output folder of the job that is taught.
        self._teachers: dict[str, Job] = {}
        self._waiting: list[str] = []

    def steps(self, variant: str) -> list[ResolvedStage]:
        """Return the steps of a variant."""
        return self._recipes.of(self._task, variant)

    def of(self, variant: str, seed: int) -> list[Job]:
        """Add the jobs of a variant's stages and of its teachers; return those of the stages.

        Raises:
            UserError: the variant teaches itself, or its teacher is a graph that cannot teach.
        """
        if variant in self._waiting:
            raise UserError(f"variants.{variant}: it teaches itself, by {' and '.join(self._waiting)}")
        if (variant, seed) not in self._made:
            self._waiting.append(variant)
            self._made[variant, seed] = self._chain(variant, seed)
            self._waiting.pop()
        return self._made[variant, seed]

    def _chain(self, variant: str, seed: int) -> list[Job]:
        chain: list[Job] = []
        # The model whose tokenizer the checkpoint has.
        pretrained = self._models[self._model]
        for step in self.steps(variant):
            role, before = ("parent", chain[-1]) if chain else ("model", pretrained)
            needed = {role: before, **self._others(variant, step.options, chain, seed)}
            pretrained = needed.get("student", pretrained)
            chain.append(self._job(step, needed, seed, self._tokens(pretrained)))
            if "teacher" in needed:
                self._teachers[chain[-1].output] = needed["teacher"]
        return chain

    def teacher(self, variant: str, seed: int) -> Job:
        """Return the job of the model that taught a variant's last stage, or else of its fine-tuned model."""
        chain = self.of(variant, seed)
        if len(chain) > 1 and chain[-1].options["stage"] == "distil" and "teacher" not in chain[-1].inputs:
            return chain[-2]
        return self._teachers.get(chain[-1].output, chain[0])

    def _others(self, variant: str, options: AnyStage, chain: list[Job], seed: int) -> dict[str, Job]:
        """Return the other inputs of a stage: a teacher that is not its parent, a student."""
        others = {}
        teacher, student = recipes.teacher_of(options), recipes.student_of(options)
        if teacher is not None:
            if self.steps(teacher)[-1].options.stage == "int8":
                raise UserError(f"variants.{variant}: {teacher!r} is a graph of 8 bits and cannot teach")
            others["teacher"] = self.of(teacher, seed)[-1]
        elif recipes.is_taught(options) and options.stage != "distil":
            others["teacher"] = chain[0]
        if student is not None:
            others["student"] = self._models[student]
        return others

    def _job(self, step: ResolvedStage, needed: Mapping[str, Job], seed: int, tokens: Job) -> Job:
        options = step.options
        keys = {role: job.key for role, job in needed.items()}
        made_of = [step.content, self._data.key, keys, seed, self._plan.study.max_length]
        inputs = {"data": tokens.output, **{role: job.output for role, job in needed.items()}}
        parent = needed.get("parent")
        before = f"{self._data.name}.{needed['model'].name}." if parent is None else f"{_unseeded(parent.name)}-"
        name = f"{before}{options.stage}.s{seed}"
        gpu = isinstance(options, TrainingOptions)
        libraries: tuple[str, ...] = ("openvino", "nncf") if getattr(options, "engine", None) == "openvino" else ()
        if getattr(options, "low_rank", None) is not None:
            libraries = ("peft",)
        rest = {"inputs": inputs, "options": step.dumped, "seed": seed, "gpu": gpu}
        return self._plan.add(options.stage, name, made_of, libraries, **rest)


def _content(options: AnyStage) -> dict[str, Any]:
    """Return the options that decide a stage's result.

    Options for resuming decide nothing. Teacher and student count by their keys, not by their names; what a control
    takes from the stage that it is `like` stands in its options.
    """
    content = {name: value for name, value in deciding(options).items() if name not in _DECIDES_NOTHING}
    if content.get("distillation"):
        content["distillation"] = {name: value for name, value in content["distillation"].items() if name != "teacher"}
    return content


def _unseeded(name: str) -> str:
    return name.rpartition(".")[0]
