"""The order of stages in a recipe: which can follow which, and why others cannot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from intaglio.study.options import AnyStage, DistilOptions


def refusal(recipe: Sequence[AnyStage]) -> str | None:
    """Return why a recipe is not possible, as a sentence for the user; None if it is."""
    before: list[AnyStage] = []
    for options in recipe:
        reason = _after(before, options)
        if reason:
            return reason
        before.append(options)
    return None


def _after(before: Sequence[AnyStage], options: Any) -> str | None:
    """Return why a stage cannot follow these; None if it can."""
    stages = [earlier.stage for earlier in before]
    if options.stage == "finetune":
        return "finetune can only be the first stage; distil, prune and cut train what they leave" if before else None
    if options.stage in ("quantize", "int8") and {"quantize", "int8"} & set(stages):
        return "a model is quantized once; leave one of these stages out"
    if "int8" in stages:
        return f"{options.stage} cannot follow int8, which leaves a graph that nothing can train"
    if "quantize" in stages:
        return f"{options.stage} cannot follow quantize, whose integers are final; put quantize last"
    if options.stage == "continue" and "prune" in stages:
        return "continue cannot follow prune: training would fill what was removed; let it follow finetune or distil"
    if options.stage == "distil":
        return _distil_after(before, options)
    return _removal_after(before, options) if options.stage in ("prune", "cut") else None


def _distil_after(before: Sequence[AnyStage], options: DistilOptions) -> str | None:
    if options.student is None and any(earlier.stage in ("prune", "cut") for earlier in before):
        return "distil to fewer layers cannot follow prune or cut: training would fill what was removed; distil first"
    return None


def _removal_after(before: Sequence[AnyStage], options: AnyStage) -> str | None:
    done = [earlier.stage for earlier in _since_student(before)]
    if options.stage == "cut" and "prune" in done:
        return "cut cannot follow prune: cutting would change the sparsity of the weights; cut first"
    if options.stage in done:
        removed = "heads and neurons are cut" if options.stage == "cut" else "weights are pruned"
        return f"{removed} once; give that stage the whole sparsity"
    return None


def _since_student(before: Sequence[AnyStage]) -> Sequence[AnyStage]:
    """Return the stages that made the present model: those since its student was another pretrained model."""
    for position in range(len(before) - 1, -1, -1):
        if student_of(before[position]) is not None:
            return before[position:]
    return before


def teacher_of(options: AnyStage) -> str | None:
    """Return the name of the variant that teaches in a stage; None if none is named."""
    distillation = getattr(options, "distillation", None)
    return None if distillation is None else distillation.teacher


def student_of(options: AnyStage) -> str | None:
    """Return the name of the pretrained model that is the student of a stage; None if none is named."""
    return options.student if isinstance(options, DistilOptions) else None


def is_taught(options: AnyStage) -> bool:
    """Return whether a stage needs a teacher."""
    return getattr(options, "distillation", None) is not None
