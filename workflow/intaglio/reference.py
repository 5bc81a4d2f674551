"""The JSON schema and the reference page of study files, generated from the typed models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from intaglio import catalogue
from intaglio.study.bits import Bits
from intaglio.study.choice import Constraints
from intaglio.study.options import (
    ContinueOptions,
    CutOptions,
    Distillation,
    DistilOptions,
    FinetuneOptions,
    Int8Options,
    PruneOptions,
    QuantizeOptions,
)
from intaglio.study.profile import Profile
from intaglio.study.schema import Pretrained, Resources, Study
from intaglio.study.sources import FilesSource, HubSource, PackageSource
from intaglio.study.task import Bins, StageOptions, Task

SECTIONS: tuple[tuple[str, type[BaseModel], str], ...] = (
    ("The study", Study, "The top level of the file."),
    ("A task", Task, "`tasks: {NAME: {...}}`."),
    ("Bins", Bins, "`bins` of a task."),
    ("A model", Pretrained, "`models: {NAME: {...}}`."),
    ("Source: hub", HubSource, "`source: {kind: hub, ...}` of a task or a model."),
    ("Source: package", PackageSource, "`source: {kind: package, ...}` of a task or a model."),
    ("Source: files", FilesSource, "`source: {kind: files, ...}` of a task or a model."),
    ("Options by stage", StageOptions, "`stages` of the study or of a task."),
    ("Stage: finetune", FinetuneOptions, "In `stages`, or in a recipe as `{stage: finetune, ...}`."),
    ("Stage: distil", DistilOptions, "In `stages`, or in a recipe as `{stage: distil, ...}`."),
    ("Distillation", Distillation, "`distillation` of the stages distil, prune, cut and quantize."),
    ("Stage: prune", PruneOptions, "In `stages`, or in a recipe as `{stage: prune, ...}`."),
    ("Stage: cut", CutOptions, "In `stages`, or in a recipe as `{stage: cut, ...}`."),
    ("Stage: continue", ContinueOptions, "In a recipe as `{stage: continue, ...}`; `stages` has no entry for it."),
    ("Stage: quantize", QuantizeOptions, "In `stages`, or in a recipe as `{stage: quantize, ...}`."),
    ("Bits", Bits, "`bits` of the stage quantize."),
    ("Stage: int8", Int8Options, "In `stages`, or in a recipe as `{stage: int8, ...}`."),
    ("Measurements", Profile, "`profile`."),
    ("Recommendation", Constraints, "`constraints`."),
    ("Requests to the cluster", Resources, "`resources`."),
)


def write_schema(path: Path) -> None:
    """Write the JSON schema."""
    path.write_text(json.dumps(Study.model_json_schema(), indent=1) + "\n")


def write_reference(path: Path) -> None:
    """Write the reference page, Markdown."""
    path.write_text("\n".join(_page()) + "\n")


def _page() -> Iterator[str]:
    yield "# The study file"
    yield ""
    yield "Generated from `workflow/intaglio/study` by `make schema`; a test fails when it is out of date."
    yield ""
    yield "An option of a stage is taken from the recipe, else from the task, else from the study, else its default."
    for title, names in (
        ("tasks", catalogue.KNOWN_TASKS),
        ("models", catalogue.KNOWN_MODELS),
        ("variants", catalogue.KNOWN_VARIANTS),
    ):
        yield ""
        yield f"Known {title}: {', '.join(f'`{name}`' for name in names)}."
    for heading, model, where in SECTIONS:
        yield from ("", f"## {heading}", "", where, "", "| key | type | default | meaning |", "|---|---|---|---|")
        for name, info in model.model_fields.items():
            yield f"| `{name}` | {_type(info)} | {_default(info)} | {info.description or ''} |"


def _type(info: FieldInfo) -> str:
    text = str(info.annotation) if not isinstance(info.annotation, type) else info.annotation.__name__
    for noise in (
        "typing.",
        "intaglio.study.schema.",
        "intaglio.study.sources.",
        "intaglio.study.options.",
        "intaglio.study.choice.",
    ):
        text = text.replace(noise, "")
    if "Annotated[" in text or "Source" in text:
        text = _short(text)
    return text.replace("|", "or").replace("NoneType", "null").replace("None", "null")


def _short(text: str) -> str:
    """Replace the annotation of a constrained type by words."""
    words = {
        "HubSource": "a source",
        "Task": "tasks by name",
        "Pretrained": "models by name",
        "FinetuneOptions": "recipes by name",
        "TestName": "a path, or paths by name",
        "StringConstraints": "str",
    }
    return next((word for mark, word in words.items() if mark in text), text)


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    value: Any = info.get_default(call_default_factory=True, validated_data={})
    if value is PydanticUndefined or isinstance(value, BaseModel):
        return ""
    return f"`{json.dumps(value)}`" if value != "" else ""
