"""From a study to jobs: what depends on what."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from intaglio.store import new_file
from intaglio.study import catalogue, recipes
from intaglio.study.chains import Chains
from intaglio.study.identity import code, file_digest
from intaglio.study.jobs import Job, Plan, Run, dump
from intaglio.study.schema import Encoder, Study, Task
from intaglio.study.sources import FilesSource, PackageSource


def _fetch(plan: Plan, what: str, source: Any) -> tuple[dict[str, str], Any]:
    """Return the inputs that a source gives to whoever prepares it, and what identifies its content."""
    if isinstance(source, FilesSource):
        tests = source.test if isinstance(source.test, dict) else {"test": source.test}
        paths = [path for path in (source.path, source.train, *tests.values()) if path]
        files = {f"file{index}": path for index, path in enumerate(paths)}
        return files, [file_digest(path) for path in paths]
    # Where in an archive the wanted member lies is the reader's business: the archive is fetched once.
    told = dump(source)
    same = source.requirement if isinstance(source, PackageSource) else source.repo
    content = {name: value for name, value in told.items() if name != "path"}
    name = same.replace("==", "-").replace("/", "-")
    job = plan.add("fetch", f"{what}-{name}", [what, content], inputs={}, options={**told, "what": what})
    return {"source": job.output}, job.key


def _data(plan: Plan, name: str, task: Task) -> Job:
    inputs, content = _fetch(plan, "data", task.source)
    told = dump(task)
    told.pop("stages")
    return plan.add("data", name, [told, content, code("intaglio.tasks.prepare")], inputs=inputs, options=told)


def _model(plan: Plan, name: str, encoder: Encoder) -> Job:
    inputs, content = _fetch(plan, "model", encoder.source)
    told = dump(encoder)
    return plan.add("model", name, [told, content, code("intaglio.tasks.model")], inputs=inputs, options=told)


def _export(plan: Plan, names: str, checkpoint: Job) -> Job:
    made_of = [checkpoint.key, code("intaglio.export.export")]
    return plan.add("export", names, made_of, inputs={"checkpoint": checkpoint.output}, options={})


def _evaluation(plan: Plan, names: str, checkpoint: Job, data: Job) -> Job:
    made_of = [checkpoint.key, data.key, plan.study.max_length, code("intaglio.measure.evaluate")]
    inputs = {"checkpoint": checkpoint.output, "data": data.output}
    return plan.add("evaluate", names, made_of, inputs=inputs, options={})


def _profile(plan: Plan, names: str, checkpoint: Job, export: Job) -> Job:
    options = dump(plan.study.profile)
    made_of = [export.key, options, code("intaglio.measure.profile")]
    inputs = {"checkpoint": checkpoint.output, "export": export.output}
    return plan.add("profile", names, made_of, inputs=inputs, options=options)


def make_plan(study: Study) -> Plan:
    """Lay out every job of a study.

    Raises:
        UserError: options of a stage do not fit together, or a variant has itself for a teacher.
    """
    plan = Plan(study)
    data = {name: _data(plan, name, task) for name, task in study.tasks.items()}
    models = {name: _model(plan, name, encoder) for name, encoder in _encoders(study).items()}
    for task in study.tasks:
        for model in study.models:
            chains = Chains(plan, task, model, data[task], models)
            for variant in study.variants:
                for seed in study.seeds:
                    plan.runs.append(_run(plan, (task, model, variant, seed), chains, data[task]))
    return plan


def _encoders(study: Study) -> dict[str, Encoder]:
    """Return the study's models, and those that are students only."""
    named = {recipes.student_of(options) for stages in study.variants.values() for options in stages} - {None}
    students = {str(name): Encoder.model_validate(catalogue.MODELS[str(name)]) for name in named - set(study.models)}
    return {**study.models, **students}


def _run(plan: Plan, run: tuple[str, str, str, int], chains: Chains, data: Job) -> Run:
    task, model, variant, seed = run
    chain = chains.of(variant, seed)
    last = chain[-1]
    named = f"{task}.{model}.{variant}.s{seed}"
    export = _export(plan, named, last)
    return Run(
        task=task,
        model=model,
        variant=variant,
        seed=seed,
        recipe=[dump(options) for options in chains.stages(variant)],
        data=data.output,
        stages=[job.output for job in chain],
        checkpoint=last.output,
        evaluation=_evaluation(plan, named, last, data).output,
        teacher=_evaluation(plan, f"{task}.{model}.s{seed}", chains.teacher(variant, seed), data).output,
        export=export.output,
        profile=_profile(plan, named, last, export).output,
        work=[job.work for job in chain],
    )


def write_plan(plan: Plan, path: Path) -> None:
    """Write the study and its runs as JSON, for whoever gathers the results."""
    runs = [asdict(run) for run in plan.runs]
    with new_file(path) as draft:
        draft.write_text(json.dumps({"study": dump(plan.study), "runs": runs}, indent=1) + "\n")
