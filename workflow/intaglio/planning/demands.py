"""The demands of a study on its pretrained models, checked before anything is trained."""

from __future__ import annotations

from typing import Any

from intaglio.planning.chains import Recipes
from intaglio.study import recipes
from intaglio.study.options import AnyStage

# Variants of a demand that are named. Demands are an argument of a command, whose length the system limits.
_NAMED = 5


def demands(resolved: Recipes, model: str) -> dict[str, Any]:
    """Return the demands of a study's variants on a model, as JSON values.

    Demands decide no result and are in no key, so variants can be added and renamed.

    Args:
        resolved: the study's recipes.
        model: its name.

    Returns:
        `max_length`, `longest_profiled` (the largest of the profile's lengths), and `stages`: a list of entries with
        `stage`, the options that a model may not support, and `variants`, the first names of the variants concerned
        and the number of the others in words; and `answers`, true, where a task is question answering.
    """
    study = resolved.study
    found: dict[str, tuple[dict[str, Any], dict[str, None]]] = {}
    for task in study.tasks:
        for variant in study.variants:
            stages = [step.options for step in resolved.of(task, variant)]
            for demand in _of_recipe(stages, model, model in study.models):
                found.setdefault(repr(demand), (demand, {}))[1][variant] = None
    entries = [{**demand, "variants": _named(list(variants))} for demand, variants in found.values()]
    asked = any(task.kind == "question_answering" for task in study.tasks.values())
    required = {"max_length": study.max_length, "longest_profiled": max(study.profile.lengths), "stages": entries}
    return required | ({"answers": True} if asked else {})


def _named(variants: list[str]) -> list[str]:
    others = len(variants) - _NAMED
    return [*variants[:_NAMED], f"{others} more"] if others > 1 else variants


def _of_recipe(stages: list[AnyStage], model: str, studied: bool) -> list[dict[str, Any]]:
    """Return the demands of a recipe on a model that it starts from or takes as a student."""
    found: list[dict[str, Any]] = []
    present = studied
    for options in stages:
        student = recipes.student_of(options)
        if student is not None:
            present = student == model
        demand = _of_stage(options)
        if present and demand:
            found.append(demand)
    return found


def _of_stage(options: Any) -> dict[str, Any]:
    """Return the demands of a stage on the model that it changes; empty if it takes any model."""
    demand: dict[str, Any] = {}
    if options.stage == "finetune" and options.low_rank is not None:
        demand["adapted"] = options.low_rank.targets
    elif options.stage == "quantize":
        demand["integer"] = list(options.integer)
    elif options.stage == "distil" and options.student is None:
        demand["layers"] = options.layers
    elif options.stage == "prune":
        demand["structure"] = options.structure
    distillation = getattr(options, "distillation", None)
    if distillation is not None and (distillation.hidden or distillation.relations):
        demand["compares"] = True
    return {"stage": options.stage, **demand} if demand or options.stage == "cut" else {}
