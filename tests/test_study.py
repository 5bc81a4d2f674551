"""The study file: accepted files, messages for mistakes, and the plan of a study."""

import ast
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from intaglio.catalogue import KNOWN_MODELS, KNOWN_TASKS
from intaglio.errors import UserError
from intaglio.planning import versions
from intaglio.planning.identity import file_digest
from intaglio.planning.plan import make_plan
from intaglio.reference import write_reference, write_schema
from intaglio.study.load import load

ROOT = Path(__file__).parents[1]
STUDIES = ["config.yaml", "config/demo.yaml", "config/sentiment.yaml", "config/compression.yaml"]
SMALL: dict[str, Any] = {
    "study": "small",
    "seeds": [1, 2],
    "tasks": {"movie": {}},
    "models": {"minilm": {}},
    "variants": {"float": None, "int": None, "int-linear": None},
}


def read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / name).read_text())
    return content


def changed(**changes: Any) -> dict[str, Any]:
    return {**SMALL, **changes}


def jobs(config: dict[str, Any]) -> dict[str, set[str]]:
    return {rule: set(named) for rule, named in make_plan(load(config)).jobs.items()}


@pytest.mark.parametrize("name", STUDIES)
def test_the_studies_that_come_with_it_are_sound(name: str) -> None:
    plan = make_plan(load(read(name)))
    study = plan.study
    expected = len(study.tasks) * len(study.models) * len(study.variants) * len(study.seeds)
    assert len(plan.runs) == expected
    assert all(len(plan.jobs[rule]) == expected for rule in ("evaluate", "export"))


def test_the_default_study_is_the_i_bert_study() -> None:
    plan = make_plan(load(read("config.yaml")))
    assert set(plan.study.tasks) == {"cola", "sst2", "rte", "mnli"}
    assert len(plan.study.variants) == 9
    assert len(plan.study.seeds) == 5
    # every variant of a seed starts from one float checkpoint
    assert len(plan.jobs["finetune"]) == 4 * 5
    assert len(plan.jobs["quantize"]) == 4 * 8 * 5
    assert plan.study.tasks["mnli"].splits["test_mismatched"] == "validation_mismatched"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tasks": {"movi": {}}}, ["tasks", "'movi'", "'movie'"]),
        ({"models": {"minilmm": {}}}, ["models", "'minilmm'", "'minilm'"]),
        ({"variants": {"itn": None}}, ["variants", "'itn'", "'int'"]),
        ({"sedes": [1]}, ["sedes", "unknown key", "'seeds'"]),
        ({"stages": {"finetune": {"lerning_rate": 1}}}, ["stages.finetune.lerning_rate", "'learning_rate'"]),
        ({"tasks": {"movie": {"metrik": "f1"}}}, ["tasks.movie.metrik", "'metric'"]),
        ({"tasks": {"movie": {"metric": "acuracy"}}}, ["tasks.movie.metric", "'acuracy'", "'accuracy'"]),
        ({"tasks": {"movie": {"metric": "f1"}}}, ["tasks.movie", "f1 is of one class: name it with `positive`"]),
        ({"tasks": {"mnli": {"metric": "f1"}}}, ["tasks.mnli", "f1 is for two classes, the task has 3", "f1_macro"]),
        ({"tasks": {"movie": {"metric": "f1", "positive": "positiv"}}}, ["positive", "did you mean 'positive'?"]),
        ({"variants": {"a": [{"stage": "quantise"}]}}, ["variants.a.0", "'quantise'", "'quantize'"]),
        ({"variants": {"a": [{"stage": "quantize", "integer": ["gelo"]}]}}, ["'gelo'", "'gelu'"]),
        ({"variants": {"a": [{"stage": "quantize", "integer": ["gelu"]}]}}, ["variants.a.0.integer", "'linear'"]),
        ({"variants": {"a": [{"stage": "quantize"}, {"stage": "finetune"}]}}, ["a: finetune", "first stage"]),
        ({"variants": {"a": [{"stage": "quantize"}, {"stage": "quantize"}]}}, ["a: ", "quantized once"]),
        ({"seeds": []}, ["seeds"]),
        ({"seeds": [1, 1]}, ["seeds", "twice"]),
        ({"seeds": ["one"]}, ["seeds.0", "'one'"]),
        ({"study": "a/b"}, ["study", "'a/b'"]),
        ({"models": {"m": {"source": {"kind": "files"}}}}, ["models.m", "path"]),
        ({"models": {"m": {"source": {"kind": "hub", "repo": "a/b", "revision": "main"}}}}, ["revision", "'main'"]),
        ({"models": {"m": {"source": {"kind": "pakage"}}}}, ["'pakage'", "'package'"]),
        ({"stages": {"quantize": {"learning_rate": -1}}}, ["stages.quantize.learning_rate", "greater than 0"]),
        ({"profile": {"headline": [3, 128]}}, ["profile", "headline"]),
        ({"tasks": "movie"}, ["tasks"]),
    ],
)
def test_a_mistake_is_one_clear_line(change: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        load(changed(**change))
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    for word in words:
        assert word in message


def test_a_missing_key_is_named() -> None:
    with pytest.raises(UserError, match="models: is missing"):
        load({name: value for name, value in SMALL.items() if name != "models"})


def test_options_come_from_the_recipe_then_the_task_then_the_study() -> None:
    config = changed(
        stages={"finetune": {"epochs": 7, "batch_size": 8}},
        tasks={"movie": {"stages": {"finetune": {"epochs": 5}}}},
        variants={"float": None, "own": [{"stage": "finetune", "learning_rate": 0.5}, {"stage": "quantize"}]},
    )
    runs = {run.variant: run for run in make_plan(load(config)).runs}
    first = runs["own"].recipe[0]
    assert (first["learning_rate"], first["epochs"], first["batch_size"]) == (0.5, 5, 8)
    assert runs["float"].recipe[0]["learning_rate"] != 0.5


def test_shared_prefixes_are_trained_once() -> None:
    plan = jobs(SMALL)
    assert len(plan["finetune"]) == 2
    assert len(plan["quantize"]) == 4


def test_a_change_touches_its_own_subtree_alone() -> None:
    before = jobs(SMALL)
    slower = {"int": [{"stage": "quantize", "learning_rate": 1e-6}]}
    after = jobs(changed(variants={**SMALL["variants"], **slower}))
    assert after["finetune"] == before["finetune"]
    assert len(after["quantize"] - before["quantize"]) == 2
    assert len(after["evaluate"] - before["evaluate"]) == 2


@pytest.mark.parametrize("variants", [SMALL["variants"], {"int": None}])
def test_a_profile_is_of_the_exported_checkpoint_and_of_its_float_model(variants: dict[str, Any]) -> None:
    plan = make_plan(load(changed(variants=variants)))
    exports = {job.output: job for job in plan.jobs["export"].values()}
    profiles = {job.output: job for job in plan.jobs["profile"].values()}
    for run in plan.runs:
        assert dict(exports[run.export].inputs) == {"checkpoint": run.checkpoint}
        if run.profile:
            expected = {"checkpoint": run.checkpoint, "export": run.export}
            if run.variant == "float":
                # To count the predictions that bf16 changes.
                expected["data"] = next(iter(plan.jobs["tokens"].values())).output
            else:
                # Also where no variant of the study is `float`: every recipe begins with its fine-tuning.
                baseline = run.stages[0]
                expected["baseline"] = baseline
                expected["baseline_export"] = next(
                    path for path, job in exports.items() if job.inputs["checkpoint"] == baseline
                )
            assert dict(profiles[run.profile].inputs) == expected


@pytest.mark.parametrize(("seeds", "measured"), [("first", 1), ("all", 2)])
def test_a_variant_is_measured_once_unless_its_shapes_depend_on_the_seed(seeds: str, measured: int) -> None:
    variants = {**SMALL["variants"], "cut": [{"stage": "cut"}, {"stage": "quantize"}]}
    plan = make_plan(load(changed(variants=variants, profile={"seeds": seeds})))
    counts = Counter(run.variant for run in plan.runs if run.profile)
    assert counts == {name: 2 if name == "cut" else measured for name in variants}
    # What another seed's profile holds is the same measurement, under the same key.
    first = {job.output for job in make_plan(load(SMALL)).jobs["profile"].values()}
    assert first <= {job.output for job in plan.jobs["profile"].values()}


def test_how_it_is_measured_is_no_reason_to_export_again() -> None:
    before, after = jobs(SMALL), jobs(changed(profile={"calls": 7}))
    assert after["export"] == before["export"]
    assert after["profile"].isdisjoint(before["profile"])


def test_more_seeds_tasks_and_variants_keep_what_is_there() -> None:
    before = jobs(SMALL)
    for change in (
        {"seeds": [1, 2, 3]},
        {"tasks": {"movie": {}, "nyt": {}}},
        {"variants": {**SMALL["variants"], "int-linear-gelu": None}},
    ):
        after = jobs(changed(**change))
        assert all(before[rule] <= after[rule] for rule in before)
        assert after["quantize"] > before["quantize"]


def test_how_often_a_job_can_resume_is_no_reason_to_train_again() -> None:
    other = changed(stages={"finetune": {"checkpoint_minutes": 3}, "quantize": {"checkpoint_minutes": 3}})
    assert jobs(other) == jobs(SMALL)


@pytest.mark.parametrize(
    "change",
    [
        {"study": "other", "description": "Other words.", "bootstrap": 500, "resources": {"cpus": 2}},
        {"variants": {"plain": [], "whole": [{"stage": "quantize"}], "int-linear": None}},
        {"tasks": {"mine": dict(KNOWN_TASKS["movie"])}},
        {"models": {"mine": dict(KNOWN_MODELS["minilm"])}},
        {"tasks": {"movie": {"metric": "accuracy", "split_seed": 0}}, "max_length": 128},
        {"stages": {"finetune": {"learning_rate": 2e-5}, "int8": {"tolerance": 0.1}}},
        {"profile": {"batch_sizes": [1, 8, 32], "calls": 30}},
    ],
)
def test_names_and_defaults_are_no_part_of_a_key(change: dict[str, Any]) -> None:
    assert jobs(changed(**change)) == jobs(SMALL)


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ({"max_length": 64}, {"tokens", "describe", "finetune", "quantize", "evaluate", "export", "profile"}),
        (
            {"tasks": {"movie": {"metric": "f1_macro"}}},
            {"data", "tokens", "describe", "finetune", "quantize", "evaluate", "export", "profile"},
        ),
        ({"stages": {"quantize": {"epochs": 1}}}, {"quantize", "evaluate", "export", "profile"}),
        ({"profile": {"calls": 31}}, {"profile"}),
        ({"profile": {"machine": "a100"}}, {"profile"}),
    ],
)
def test_what_decides_a_result_is_part_of_its_key(change: dict[str, Any], again: set[str]) -> None:
    before, after = jobs(SMALL), jobs(changed(**change))
    assert {rule for rule in before if before[rule] != after[rule]} == again


def test_a_teacher_and_a_student_count_by_what_they_are() -> None:
    def taught(teacher: str, student: str) -> dict[str, set[str]]:
        distil = {"stage": "distil", "student": student, "distillation": {"teacher": teacher}}
        models = {"minilm": {}, student: dict(KNOWN_MODELS["distilroberta-base"])}
        variants = {teacher: [{"stage": "finetune", "epochs": 9}], "small": [distil]}
        return jobs(changed(variants=variants, models=models))

    assert taught("long", "pupil") == taught("teacher", "other")


def test_a_named_machine_is_known_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    here, named = [], []
    for machine in ("login1", "login2"):
        monkeypatch.setenv("INTAGLIO_MACHINE", machine)
        here.append(jobs(SMALL)["profile"])
        named.append(jobs(changed(profile={"machine": "a100"}))["profile"])
    assert here[0].isdisjoint(here[1])
    assert named[0] == named[1]


@pytest.mark.parametrize(
    ("version", "kept"), [("2.13.9", True), ("2.13.0+cu130", True), ("2.14.0", False), ("3.13.0", False)]
)
def test_minor_versions_of_libraries_count(monkeypatch: pytest.MonkeyPatch, version: str, kept: bool) -> None:
    installed = importlib.metadata.version

    def trained(torch: str) -> set[str]:
        monkeypatch.setattr(importlib.metadata, "version", lambda name: torch if name == "torch" else installed(name))
        versions._minor.cache_clear()
        return jobs(SMALL)["finetune"]

    try:
        assert (trained("2.13.0") == trained(version)) is kept
    finally:
        versions._minor.cache_clear()


def test_keys_do_not_come_from_the_code(tmp_path: Path) -> None:
    """A copy of the package whose functions stand in another order, under other names, finds the same folders."""
    copy = tmp_path / "intaglio"
    shutil.copytree(ROOT / "workflow" / "intaglio", copy, ignore=shutil.ignore_patterns("__pycache__"))
    for room in ("arithmetic", "training", "stages", "export", "measure", "onnx"):
        for file in (copy / room).rglob("*.py"):
            tree = ast.parse(file.read_text())
            helpers = {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name[0] == "_"}
            text = ast.unparse(tree)
            for name in helpers:
                text = re.sub(rf"\b{name}\b", f"{name}_renamed", text)
            body = ast.parse(text).body
            functions = [node for node in body if isinstance(node, ast.FunctionDef)]
            order = [node for node in body if node not in functions] + functions[::-1]
            file.write_text(ast.unparse(ast.Module(order, [])))
    program = (
        "import json, sys; from intaglio.study.load import load; from intaglio.planning.plan import make_plan\n"
        "plan = make_plan(load(json.loads(sys.argv[1])))\n"
        "print(json.dumps({rule: sorted(named) for rule, named in plan.jobs.items()}))"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", program, json.dumps(SMALL)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    assert {rule: set(named) for rule, named in json.loads(done.stdout).items()} == jobs(SMALL)


@pytest.mark.parametrize(
    ("read", "patterns"), [("config.json", True), ("model.safetensors", True), ("README.md", False), (".git", False)]
)
def test_only_files_that_are_read_count(tmp_path: Path, read: str, patterns: bool) -> None:
    for name in ("config.json", "model.safetensors", "vocab.txt"):
        (tmp_path / name).write_text(name)
    config = changed(models={"own": {"source": {"kind": "files", "path": str(tmp_path)}}})
    before = jobs(config)["model"]
    (tmp_path / read).write_text("another content")
    file_digest.cache_clear()
    assert (jobs(config)["model"] != before) is patterns


def test_an_archive_is_fetched_once_for_all_its_sets() -> None:
    plan = jobs(changed(tasks={"movie": {}, "nyt": {}, "tweets": {}}))
    assert len(plan["fetch"]) == 2
    assert len(plan["data"]) == 3


def test_files_of_the_user_are_known_by_their_content(tmp_path: Path) -> None:
    file = tmp_path / "train.csv"
    source = {"kind": "files", "train": str(file)}
    config = changed(tasks={"own": {"source": source, "text": ["t"], "label": "l", "labels": ["a", "b"]}})
    keys = []
    for content in ("t,l\nx,a\n", "t,l\ny,a\n"):
        file_digest.cache_clear()
        file.write_text(content)
        keys.append(jobs(config)["data"])
    assert keys[0] != keys[1]


def test_a_known_task_can_be_brought_in_as_files() -> None:
    files = {"kind": "files", "train": "train.parquet", "test": "test.parquet"}
    brought = load(changed(tasks={"cola": {"source": files}})).tasks["cola"]
    assert (brought.metric, brought.text, brought.label_values) == ("matthews", ["sentence"], ["0", "1"])
    own = {"source": files, "text": ["t"], "label": "l", "labels": ["a", "b"]}
    assert load(changed(tasks={"cola": own})).tasks["cola"].metric == "accuracy"


def test_schema_and_reference_are_up_to_date(tmp_path: Path) -> None:
    write_schema(tmp_path / "schema.json")
    write_reference(tmp_path / "reference.md")
    assert json.loads((ROOT / "workflow/schemas/study.schema.json").read_text()) == json.loads(
        (tmp_path / "schema.json").read_text()
    ), "run make schema"
    assert (ROOT / "config/README.md").read_text() == (tmp_path / "reference.md").read_text(), "run make schema"
