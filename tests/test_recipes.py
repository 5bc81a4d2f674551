"""Recipes: which stages can follow which, who teaches whom, and what two recipes share."""

from pathlib import Path
from typing import Any

import pytest

from intaglio.errors import UserError
from intaglio.planning.plan import make_plan
from intaglio.study.load import load
from intaglio.summary.controls import control_of
from test_study import SMALL, jobs, read

FINETUNE, DISTIL, INT, INT8 = ({"stage": name} for name in ("finetune", "distil", "quantize", "int8"))
WEIGHTS, PATTERN = ({"stage": "prune", "structure": name} for name in ("unstructured", "2:4"))
CUT: dict[str, Any] = {"stage": "cut"}
OTHER = {"stage": "distil", "student": "minilm"}
ON: dict[str, Any] = {"stage": "continue", "like": "quantize"}


def study(**variants: list[dict[str, Any]] | None) -> dict[str, Any]:
    return {**SMALL, "seeds": [1], "variants": {"float": None, **variants}}


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        ([DISTIL, FINETUNE], "finetune can only be the first stage"),
        ([INT, INT8], "quantized once"),
        ([INT8, INT], "quantized once"),
        ([INT8, INT8], "quantized once"),
        ([INT, WEIGHTS], "prune cannot follow quantize"),
        ([INT, DISTIL], "distil cannot follow quantize"),
        ([INT8, CUT], "cut cannot follow int8"),
        ([INT8, OTHER], "distil cannot follow int8"),
        ([WEIGHTS, DISTIL], "distil to fewer layers cannot follow prune"),
        ([CUT, DISTIL], "distil to fewer layers cannot follow prune"),
        ([WEIGHTS, CUT], "cut first"),
        ([PATTERN, CUT], "cut first"),
        ([CUT, CUT], "cut once"),
        ([WEIGHTS, WEIGHTS], "pruned once"),
        ([WEIGHTS, PATTERN], "pruned once"),
        ([WEIGHTS, ON], "continue cannot follow prune"),
        ([INT, ON], "continue cannot follow quantize"),
        ([INT8, ON], "continue cannot follow int8"),
    ],
)
def test_a_recipe_that_cannot_be_made_is_refused_with_the_reason(recipe: list[dict[str, Any]], reason: str) -> None:
    with pytest.raises(UserError, match=reason) as caught:
        load(study(own=recipe))
    assert str(caught.value).startswith("variants: own: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "compressed", [[], [DISTIL], [WEIGHTS], [CUT], [ON], [DISTIL, WEIGHTS], [DISTIL, CUT, PATTERN]]
)
@pytest.mark.parametrize("quantized", [[], [INT], [INT8]])
def test_every_composition_of_the_issue_is_a_recipe(
    compressed: list[dict[str, Any]], quantized: list[dict[str, Any]]
) -> None:
    run = make_plan(load(study(own=[*compressed, *quantized]))).runs[-1]
    assert [stage["stage"] for stage in run.recipe[1:]] == [stage["stage"] for stage in [*compressed, *quantized]]
    assert len(run.stages) == len(run.recipe)


def test_another_pretrained_student_may_learn_from_a_pruned_teacher() -> None:
    plan = make_plan(load(study(own=[CUT, WEIGHTS, OTHER, WEIGHTS])))
    (distil,) = plan.jobs["distil"].values()
    (model,) = plan.jobs["model"].values()
    assert distil.inputs["student"] == model.output
    assert distil.inputs["parent"] in {job.output for job in plan.jobs["prune"].values()}


def test_a_student_need_not_be_a_model_of_the_study() -> None:
    plan = make_plan(load(study(own=[{"stage": "distil", "student": "distilroberta-base"}])))
    assert len(plan.jobs["model"]) == 2
    assert {run.model for run in plan.runs} == {"minilm"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"stage": "distil", "layers": 3, "student": "minilm"}, ["layers", "one of `layers`, `student`"]),
        ({"stage": "distil", "student": "minilmm"}, ["own", "'minilmm'", "'minilm'"]),
        ({"stage": "distil", "distillation": {"teacher": "flaot"}}, ["own", "'flaot'", "'float'"]),
        ({"stage": "distil", "distillation": {"labels": 0, "logits": 0}}, ["every weight is zero"]),
        ({"stage": "prune", "structure": "2:4", "sparsity": 0.6}, ["2:4 is a sparsity of 0.5"]),
        ({"stage": "prune", "speedup": 2}, ["{stage: cut}"]),
        ({"stage": "cut", "speedup": 2, "sparsity": 0.5}, ["one of the two"]),
        (
            {"stage": "prune", "structure": "heads-and-neurons", "speedup": 2},
            ["a stage of its own", "{stage: cut, speedup: 2}"],
        ),
        ({"stage": "prune", "sparsity": 1.0}, ["sparsity", "less than 1"]),
        ({"stage": "prune", "structure": "heads"}, ["'heads'", "unstructured"]),
        ({"stage": "quantize", "bits": {"weights": 2}}, ["bits.weights", "known: 4, 8"]),
        ({"stage": "quantize", "bits": {"wieghts": 4}}, ["bits.wieghts", "'weights'"]),
        ({"stage": "int8", "methd": "static"}, ["methd", "method"]),
        ({"stage": "int8", "learning_rate": 1e-5}, ["learning_rate: unknown key"]),
    ],
)
def test_a_mistake_in_a_stage_is_one_clear_line(options: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        make_plan(load(study(own=[options])))
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_options_that_only_clash_together_are_named_with_their_variant() -> None:
    config = {**study(own=[PATTERN]), "stages": {"prune": {"sparsity": 0.6}}}
    with pytest.raises(UserError, match=r"variants\.own: the options of prune, taken together: sparsity: 2:4"):
        make_plan(load(config))


def taught(teacher: str | None = None, **options: Any) -> dict[str, Any]:
    return {"stage": "prune", **options, "distillation": {"teacher": teacher}}


def test_the_fine_tuned_model_teaches_unless_another_is_named() -> None:
    plan = make_plan(load(study(distilled=[DISTIL], own=[DISTIL, taught()], other=[DISTIL, taught("distilled")])))
    prune = {job.output: job for job in plan.jobs["prune"].values()}
    runs = {run.variant: run for run in plan.runs}
    assert prune[runs["own"].checkpoint].inputs["teacher"] == runs["float"].checkpoint
    assert prune[runs["other"].checkpoint].inputs["teacher"] == runs["distilled"].checkpoint
    assert "teacher" not in next(iter(plan.jobs["distil"].values())).inputs
    assert runs["own"].teacher == runs["distilled"].teacher == runs["float"].evaluation
    assert runs["other"].teacher == runs["distilled"].evaluation


def test_a_teacher_is_made_although_no_recipe_begins_with_it() -> None:
    better = [{"stage": "finetune", "epochs": 9}]
    plan = make_plan(load(study(better=better, own=[taught("better")])))
    assert len(plan.jobs["finetune"]) == 2
    (prune,) = plan.jobs["prune"].values()
    assert prune.inputs["teacher"] == next(run.checkpoint for run in plan.runs if run.variant == "better")


def test_a_variant_cannot_teach_itself() -> None:
    with pytest.raises(UserError, match=r"variants\.a: it teaches itself, by a and b"):
        make_plan(load(study(a=[taught("b")], b=[taught("a", sparsity=0.3)])))


def test_a_graph_cannot_teach() -> None:
    with pytest.raises(UserError, match=r"variants\.own: 'small' is a graph of 8 bits"):
        make_plan(load(study(small=[INT8], own=[taught("small")])))


def test_equal_recipes_are_made_and_measured_once() -> None:
    plan = make_plan(load(study(one=[WEIGHTS], two=[WEIGHTS])))
    one, two = (run for run in plan.runs if run.variant in ("one", "two"))
    assert (one.checkpoint, one.evaluation, one.export, one.profile) == (
        *(two.checkpoint, two.evaluation, two.export),
        two.profile,
    )


def test_prefixes_of_the_compression_study_are_trained_once() -> None:
    plan = make_plan(load(read("config/compression.yaml")))
    assert len(plan.runs) >= 12
    trained = {rule: len(plan.jobs[rule]) for rule in ("finetune", "distil", "prune", "cut", "quantize", "int8")}
    # Alone, every recipe would take a fine-tuning, and eight of them a distillation or a pruning more.
    assert trained == {"finetune": 1, "distil": 1, "prune": 5, "cut": 1, "quantize": 6, "int8": 6}
    assert sum(len(run.stages) for run in plan.runs) > 2 * sum(trained.values())


def test_a_stage_option_touches_what_follows_it_alone() -> None:
    recipes = {"pruned": [WEIGHTS], "both": [DISTIL, WEIGHTS], "small": [DISTIL, INT8]}
    before = jobs(study(**recipes))
    after = jobs({**study(**recipes), "stages": {"distil": {"epochs": 7}}})
    assert after["finetune"] == before["finetune"]
    assert len(after["prune"] & before["prune"]) == 1
    assert not after["int8"] & before["int8"]


def test_only_profiles_of_float_models_in_bf16_get_texts() -> None:
    recipes = {"pruned": [WEIGHTS], "small": [INT8]}

    def with_data(*backends: str) -> set[str]:
        plan = make_plan(load({**study(**recipes), "profile": {"backends": list(backends)}}))
        return {run.variant for run in plan.runs if "data" in plan.jobs["profile"][Path(str(run.profile)).name].inputs}

    assert with_data("torch", "onnxruntime", "openvino-bf16") == {"float", "pruned"}
    assert with_data("torch", "onnxruntime") == set()


def test_a_control_takes_the_training_of_the_stage_that_it_is_like() -> None:
    """The task's options go before the study's, which go before the stage's own defaults."""
    config = {
        **SMALL,
        "seeds": [1],
        "variants": {"float-continued": None, "own": [{**ON, "weight_decay": 0.3}]},
        "tasks": {"movie": {"stages": {"quantize": {"epochs": 2}}}},
        "stages": {"quantize": {"epochs": 5, "batch_size": 8, "freeze": 0.1}, "finetune": {"batch_size": 64}},
    }
    plan = make_plan(load(config))
    known, own = ({run.variant: run for run in plan.runs}[name].recipe[-1] for name in ("float-continued", "own"))
    assert (known["epochs"], known["batch_size"], known["learning_rate"]) == (2, 8, 2e-6)
    assert "freeze" not in known
    assert own == {**known, "weight_decay": 0.3}
    # What it is like decides nothing beside these options.
    explicit = {"stage": "continue", "epochs": 2, "batch_size": 8, "learning_rate": 2e-6}
    again = make_plan(load({**config, "variants": {"plain": [explicit]}}))
    assert set(again.jobs["continue"]) < set(plan.jobs["continue"])


def test_another_budget_of_the_stage_makes_its_control_again() -> None:
    controls = {
        budget: set(jobs({**study(own=[ON]), "stages": {"quantize": {"max_steps": budget}}})["continue"])
        for budget in (5, 6)
    }
    assert controls[5].isdisjoint(controls[6])


@pytest.mark.parametrize(
    ("variant", "control"),
    [
        ("float", None),
        ("int", "on"),
        ("pruned", None),
        ("small-int", "small-on"),
        ("small-cut-int", "on"),
        ("small", "like-distil"),
        ("small-int8", "like-distil"),
        ("int8", None),
        ("on", None),
    ],
)
def test_the_control_of_a_variant_trains_as_its_last_stage(variant: str, control: str | None) -> None:
    variants = {
        "int": [INT],
        "on": [ON],
        "like-distil": [{"stage": "continue", "like": "distil"}],
        "pruned": [WEIGHTS],
        "small": [DISTIL],
        "small-int": [DISTIL, INT],
        "small-on": [DISTIL, ON],
        "small-cut-int": [DISTIL, CUT, INT],
        "small-int8": [DISTIL, INT8],
        "int8": [INT8],
    }
    plan = make_plan(load(study(**variants)))
    assert control_of(variant, {run.variant: run.recipe for run in plan.runs}) == control
