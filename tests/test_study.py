"""The study file: what it accepts, what it says of mistakes, and the plan that it makes."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from intaglio.errors import UserError
from intaglio.study.load import load
from intaglio.study.plan import make_plan
from intaglio.study.reference import write_reference, write_schema

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
    assert all(len(plan.jobs[rule]) == expected for rule in ("evaluate", "export", "profile"))


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


def test_a_profile_is_of_the_exported_checkpoint() -> None:
    plan = make_plan(load(SMALL))
    exports = {job.output: job for job in plan.jobs["export"].values()}
    profiles = {job.output: job for job in plan.jobs["profile"].values()}
    for run in plan.runs:
        assert dict(exports[run.export].inputs) == {"checkpoint": run.checkpoint}
        assert dict(profiles[run.profile].inputs) == {"checkpoint": run.checkpoint, "export": run.export}


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
        from intaglio.study.identity import file_digest

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
