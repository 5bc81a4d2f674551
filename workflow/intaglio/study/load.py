"""Read a study file into its typed model; what is wrong in it becomes one clear line each."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from intaglio.errors import UserError, nearest
from intaglio.study.schema import Study


def load(config: Mapping[str, Any]) -> Study:
    """Validate a study as YAML or Snakemake gives it.

    Raises:
        UserError: one line for every mistake: the key, what is wrong with it, the nearest known name.
    """
    try:
        return Study.model_validate(dict(config))
    except ValidationError as error:
        raise UserError("\n".join(_line(item) for item in error.errors())) from None


def _line(error: Any) -> str:
    location: Sequence[Any] = error["loc"]
    where = ".".join(str(part) for part in _without_tags(location)) or "study"
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return f"{where}: unknown key, {nearest(str(location[-1]), _keys(location[:-1]))}"
    if kind == "union_tag_invalid":
        tag = context["discriminator"].strip("'")
        expected = [name.strip(" '") for name in context["expected_tags"].split(",")]
        return f"{where}: unknown {tag} {context['tag']!r}, {nearest(context['tag'], expected)}"
    if kind == "union_tag_not_found":
        return f"{where}: needs a {context['discriminator']}"
    if kind == "missing":
        return f"{where}: is missing"
    if kind == "literal_error":
        expected = [name.strip(" '") for name in context["expected"].replace(" or ", ",").split(",")]
        return f"{where}: unknown value {error['input']!r}, {nearest(str(error['input']), expected)}"
    message = error["msg"].removeprefix("Value error, ")
    given = "" if kind == "value_error" or isinstance(error["input"], dict | list) else f" (given: {error['input']!r})"
    return f"{where}: {message}{given}"


def _options(annotation: Any) -> list[Any]:
    """Return the types that an annotation allows, containers entered."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _options(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [inner for member in get_args(annotation) for inner in _options(member)]
    if origin in (dict, list, tuple):
        return _options(get_args(annotation)[-1])
    return [annotation]


def _tag(model: type[BaseModel]) -> str | None:
    """Return the value by which a discriminated union knows a model."""
    for name in ("kind", "stage"):
        if name in model.model_fields:
            return str(get_args(model.model_fields[name].annotation)[0])
    return None


def _walk(location: Sequence[Any]) -> tuple[list[type[BaseModel]], list[Any]]:
    """Follow an error's location through the models: those it ends in, and the parts that are keys of the file."""
    models: list[type[BaseModel]] = [Study]
    keys: list[Any] = []
    for part in location:
        tagged = [model for model in models if _tag(model) == part]
        if tagged:
            models = tagged
            continue
        keys.append(part)
        fields = [model.model_fields[part] for model in models if part in model.model_fields]
        if fields:
            inner = [option for field in fields for option in _options(field.annotation)]
            models = [option for option in inner if isinstance(option, type) and issubclass(option, BaseModel)]
    return models, keys


def _keys(location: Sequence[Any]) -> list[str]:
    return [name for model in _walk(location)[0] for name in model.model_fields]


def _without_tags(location: Sequence[Any]) -> list[Any]:
    return _walk(location)[1]
