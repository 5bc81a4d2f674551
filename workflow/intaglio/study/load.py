"""Validation of a study file; every mistake in it becomes one line."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from intaglio.errors import UserError, nearest
from intaglio.study.files import StudyFiles, check_paths
from intaglio.study.schema import Study

# What a pattern of names or pins requires, in words.
_WANTED = {
    r"^[A-Za-z0-9][A-Za-z0-9_-]*$": "a name has letters, digits, `-` and `_` only, and begins with a letter or digit",
    r"^(train|test|test_[A-Za-z0-9][A-Za-z0-9_-]*)$": "a split is called `train`, `test` or `test_NAME`",
    r"^[0-9a-f]{40}$": "give the commit, 40 hexadecimal digits: a branch or a tag can move",
    r"^[0-9a-f]{64}$": "give the SHA-256, 64 hexadecimal digits",
    r"^[A-Za-z0-9._-]+==[^=]+$": "give the package with its version, as in `name==1.0`",
}
_MAPPINGS = {
    "tasks": "tasks: {mine: {source: ...}}",
    "models": "models: {mine: {source: ...}}",
    "variants": "variants: {float: null}",
}
_EXAMPLES = {"source": "source: {kind: files, ...}"}


def read(path: Path) -> Study:
    """Read a study file and check it, the user's own files that it names included.

    Raises:
        UserError: as `load` and `check_paths`; for what is not YAML, too, where Snakemake names no file and no line.
    """
    StudyFiles([path])
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise UserError(f"{path}: holds {_kind(config)} where a study belongs, as in config/template.yaml")
    study = load(config, [path])
    check_paths(study, [path])
    return study


def load(config: Mapping[str, Any], files: Sequence[Path] = ()) -> Study:
    """Validate a study as read from YAML or by Snakemake.

    Args:
        config: the content of the study file.
        files: the files that it was read from, later ones overriding earlier ones; messages then name the line.

    Raises:
        UserError: one line for every mistake: the key, what is wrong, and the nearest known name.
    """
    written = StudyFiles(files)
    _check_names(config, written)
    try:
        return Study.model_validate(dict(config))
    except ValidationError as error:
        lines = [
            f"{written.where(_without_tags(item['loc']))}{_line(item, written)}" for item in _of_branch_taken(error)
        ]
        raise UserError("\n".join(lines)) from None


def _check_names(config: Mapping[str, Any], written: StudyFiles) -> None:
    """Refuse names of tasks, models and variants that YAML reads as something else, as `no` or `2024`."""
    for group in _MAPPINGS:
        names = config.get(group)
        for name in names if isinstance(names, Mapping) else ():
            if not isinstance(name, str):
                raise UserError(f"{written.where([group])}{group}: a name is read as {_kind(name)}; put it in quotes")


def _of_branch_taken(error: ValidationError) -> list[Any]:
    """Return the errors; where a text or names with values may stand, only those of what was meant."""
    found = []
    for item in error.errors():
        branch, given = str(item["loc"][-1:][0]) if item["loc"] else "", isinstance(item["input"], dict)
        if branch.startswith("list[") or (branch == "str" and (given or isinstance(item["input"], list))):
            continue
        if branch == "str":
            found.append({**item, "loc": item["loc"][:-1]})
        elif given or not branch.startswith("dict["):
            found.append(dict(item))
    return found


def _line(error: Any, written: StudyFiles) -> str:
    location: Sequence[Any] = error["loc"]
    where = ".".join(str(part) for part in _without_tags(location)) or "study"
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden" and location[-1] == "trust_remote_code":
        return f"{where}: code that comes with a model or data set is never run; leave this out"
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
    if kind == "string_pattern_mismatch" and context["pattern"] in _WANTED:
        return f"{where.removesuffix('.[key]')}: {_WANTED[context['pattern']]} (given: {error['input']!r})"
    if kind == "string_type":
        text = written.text(_without_tags(location)) or str("" if error["input"] is None else error["input"])
        if isinstance(error["input"], dict | list) or not text:
            return f"{where}: holds {_kind(error['input'])} where a text belongs"
        return f'{where}: {text} is read as {_kind(error["input"])}; put it in quotes: "{text}"'
    if kind in ("dict_type", "model_type", "model_attributes_type"):
        example = _MAPPINGS.get(where) or _EXAMPLES.get(location[-1] if location else "")
        if where.startswith("variants."):
            example = "{stage: quantize}"
        example = f", as in `{example}`" if example else ""
        return f"{where}: holds {_kind(error['input'])} where names with values belong{example}"
    if kind in ("list_type", "tuple_type"):
        return f"{where}: holds {_kind(error['input'])} where a list belongs, as in `[...]`"
    message = error["msg"].removeprefix("Value error, ")
    given = "" if kind == "value_error" or isinstance(error["input"], dict | list) else f" (given: {error['input']!r})"
    return f"{where}: {message}{given}"


def _kind(value: Any) -> str:
    names = {bool: "true or false", int: "a number", float: "a number", str: "a text", list: "a list", dict: "names"}
    return names.get(type(value), "nothing" if value is None else f"a {type(value).__name__}")


def _options(annotation: Any) -> list[Any]:
    """Return the types that an annotation allows, including those within containers."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _options(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [inner for member in get_args(annotation) for inner in _options(member)]
    if origin in (dict, list, tuple):
        return _options(get_args(annotation)[-1])
    return [annotation]


def _tag(model: type[BaseModel]) -> str | None:
    """Return the value that selects a model in a discriminated union."""
    for name in ("kind", "stage"):
        if name in model.model_fields:
            return str(get_args(model.model_fields[name].annotation)[0])
    return None


def _walk(location: Sequence[Any]) -> tuple[list[type[BaseModel]], list[Any]]:
    """Follow an error's location through the models; return those at its end, and the parts that are keys."""
    models: list[type[BaseModel]] = [Study]
    keys: list[Any] = []
    for part in location:
        tagged = [model for model in models if _tag(model) == part]
        if tagged:
            models = tagged
            continue
        if str(part).startswith(("dict[", "list[")):
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
