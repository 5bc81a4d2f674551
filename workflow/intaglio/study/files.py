"""The study file as text: duplicate keys, line numbers for messages, and the user's files and results folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from intaglio.errors import UserError
from intaglio.store import new_file
from intaglio.study.schema import Study
from intaglio.study.sources import FilesSource

# In results/STUDY: path of the study file that these results belong to.
_OWNER = "study_file.txt"


class StudyFiles:
    """Locations of the keys of a study.

    Args:
        paths: the files, as given to Snakemake; later files override earlier ones.

    Raises:
        UserError: a file is not YAML, or has a duplicate key; names the file and the line.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._roots = [(path, _parsed(path)) for path in paths]

    def where(self, location: Sequence[Any]) -> str:
        """Return `FILE, line N: ` for a key, or for its nearest parent; empty if no file has either."""
        for depth in range(len(location), 0, -1):
            found = self._find(location[:depth])
            if found is not None:
                return f"{found[0]}, line {found[1]}: "
        return ""

    def text(self, location: Sequence[Any]) -> str | None:
        """Return a scalar value as written; None if it is not a scalar, or no file has it."""
        found = self._find(location)
        return found[2].value if found is not None and isinstance(found[2], yaml.ScalarNode) else None

    def _find(self, location: Sequence[Any]) -> tuple[Path, int, yaml.Node] | None:
        """Return the file, the line of the key, and the value."""
        for path, root in reversed(self._roots):
            line, node = 1, root
            for part in location:
                line, node = (line, None) if node is None else _child(node, part)
            if node is not None:
                return path, line, node
        return None


def _child(node: yaml.Node, part: Any) -> tuple[int, yaml.Node | None]:
    pairs: list[tuple[yaml.Node, yaml.Node]] = []
    if isinstance(node, yaml.MappingNode):
        pairs = [(key, value) for key, value in node.value if key.value == str(part)]
    elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
        pairs = [(value, value) for value in node.value[part : part + 1]]
    return (pairs[0][0].start_mark.line + 1, pairs[0][1]) if pairs else (0, None)


@lru_cache(maxsize=4)
def _composed(text: str) -> yaml.Node | None:
    """Return the nodes of a YAML text whose values can be read; parsing a long one takes seconds."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    yaml.safe_load(text)
    return root


def _parsed(path: Path) -> yaml.Node | None:
    try:
        text = path.read_text(encoding="utf-8")
        root = _composed(text)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8; save it as UTF-8") from error
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f", line {error.problem_mark.line + 1}"
        raise UserError(f"{path}{line}: not YAML: {_in_words(str(error.problem))}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML ({str(error).splitlines()[0]})") from error
    except ValueError as error:
        raise UserError(f"{path}: a value looks like a date and is none ({error}); put it in quotes") from error
    for key, first, second in _twice(root):
        raise UserError(f"{path}, line {second}: duplicate key {key!r}, also on line {first}; keep one")
    return root


def _in_words(problem: str) -> str:
    if "'\\t'" in problem:
        return "a tab; indent by spaces"
    if "mapping values are not allowed" in problem:
        return "a second colon; put a value that contains `: ` in quotes"
    return problem


def _twice(node: yaml.Node | None) -> Iterator[tuple[str, int, int]]:
    """Yield the duplicate keys of a mapping, with both lines."""
    if isinstance(node, yaml.SequenceNode):
        for child in node.value:
            yield from _twice(child)
    if isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in lines:
                    yield key.value, lines[key.value], line
                lines[key.value] = line
            yield from _twice(value)


def check_paths(study: Study, files: Sequence[Path] = ()) -> None:
    """Check that the user's own data files and model folders exist.

    Raises:
        UserError: one line for every path that is missing or of the other kind, with its key.
    """
    written = StudyFiles(files)
    found = []
    for group in ("tasks", "models"):
        for name, entry in getattr(study, group).items():
            if isinstance(entry.source, FilesSource):
                for key, path in _paths(entry.source):
                    wrong = _wrong(Path(path), key[0] == "path")
                    if wrong:
                        location = (group, name, "source", *key)
                        found.append(f"{written.where(location)}{'.'.join(location)}: {wrong}")
    if found:
        raise UserError("\n".join(found))


def _wrong(path: Path, of_model: bool) -> str:
    """Return what is wrong with a path, nothing if it is right."""
    if not path.exists():
        return f"no such file or folder: {path} (looked from {Path.cwd()})"
    if of_model and not path.is_dir():
        return f"{path} is a file; name the model's folder"
    if not of_model and path.is_dir():
        return f"{path} is a folder; name the file in it"
    return ""


def _paths(source: FilesSource) -> Iterator[tuple[tuple[str, ...], str]]:
    for key in ("path", "train", "test"):
        value = getattr(source, key)
        if isinstance(value, dict):
            yield from (((key, name), path) for name, path in value.items())
        elif value is not None:
            yield (key,), value


def check_owner(study: str, files: Sequence[Path], results: Path) -> None:
    """Check that a results folder does not belong to another study file with the same study name.

    A study file that was moved, or has a new study name, no longer owns the folder.

    Raises:
        UserError: an existing study file with this name owns the folder; names both files.
    """
    record = results / _OWNER
    if not files or not record.is_file():
        return
    # Relative to the results, so that copying or moving the whole folder keeps the owner.
    owner = results / record.read_text().strip()
    if not owner.is_file() or owner.resolve() == files[-1].resolve():
        return
    name = StudyFiles([owner]).text(["study"])
    if name == study:
        raise UserError(
            f"{files[-1]}: {results} holds the results of {owner.resolve()}, a study of the same name {study!r}; "
            "give `study` another name in one of the two files"
        )


def record_owner(files: Sequence[Path], results: Path) -> None:
    """Record which study file a results folder belongs to."""
    if files:
        with new_file(results / _OWNER) as draft:
            draft.write_text(f"{os.path.relpath(files[-1].resolve(), results.resolve())}\n")
