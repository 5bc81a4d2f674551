"""What a study wants of its pretrained models: one that cannot give it is refused before anything is trained."""

from __future__ import annotations

from typing import Any

from intaglio.planning.chains import resolve
from intaglio.study import recipes
from intaglio.study.options import AnyStage
from intaglio.study.schema import Study


def demands(study: Study, model: str) -> dict[str, Any]:
    """Return what the variants of a study want of a model, as JSON values.

    It decides no result, so it is in no key: variants can be added and renamed.

    Returns:
        `max_length`, `longest_profiled` (the largest of the profile's lengths), and `stages`: a list of `stage`, the
        options by which a model can be unfit for it, and `variants`, the names of those that have it.
    """
    wanted: dict[str, dict[str, Any]] = {}
    for task in study.tasks.values():
        for variant in study.variants:
            for demand in _of_recipe(resolve(study, task, variant), model, model in study.models):
                entry = wanted.setdefault(repr(demand), {**demand, "variants": []})
                if variant not in entry["variants"]:
                    entry["variants"].append(variant)
    longest = max(study.profile.lengths)
    return {"max_length": study.max_length, "longest_profiled": longest, "stages": list(wanted.values())}


def _of_recipe(stages: list[AnyStage], model: str, studied: bool) -> list[dict[str, Any]]:
    """Return what a recipe wants of a model that it starts from, or that it takes as student."""
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
    """Return what a stage wants of the model that it changes; nothing if it takes any."""
    demand: dict[str, Any] = {}
    if options.stage == "quantize":
        demand["integer"] = list(options.integer)
    elif options.stage == "distil" and options.student is None:
        demand["layers"] = options.layers
    elif options.stage == "prune":
        demand["structure"] = options.structure
    distillation = getattr(options, "distillation", None)
    if distillation is not None and (distillation.hidden or distillation.relations):
        demand["compares"] = True
    return {"stage": options.stage, **demand} if demand or options.stage == "cut" else {}
