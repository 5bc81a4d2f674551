"""What makes a result: hashes of options, of the user's files, and of the code of a stage."""

from __future__ import annotations

import ast
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[1]
# Rooms whose code decides what comes out of a stage; the study room is left out, for the options it makes are hashed
# themselves, and so is the ground floor, which only stores, describes and reports.
ROOMS = (
    "arithmetic",
    "encoder",
    "execution",
    "onnx",
    "checkpoint",
    "tasks",
    "training",
    "stages",
    "export",
    "measure",
    "tables",
)
LENGTH = 12


def digest(value: Any) -> str:
    """Return a short hash of what JSON can write."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:LENGTH]


@cache
def file_digest(path: str) -> str:
    """Return the SHA-256 of a file, or of the names and contents of a folder's files; "absent" if there is none."""
    root = Path(path)
    if root.is_dir():
        files = sorted(file for file in root.iterdir() if file.is_file())
        return digest([[file.name, file_digest(str(file))] for file in files])
    if not root.is_file():
        return "absent"
    with root.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _module_file(module: str) -> Path | None:
    path = PACKAGE.joinpath(*module.split(".")[1:])
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def _imports(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
    return {name for name in names if name.startswith(tuple(f"intaglio.{room}" for room in ROOMS))}


def _without_docstrings(tree: ast.AST) -> ast.AST:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) or not node.body:
            continue
        first = node.body[0]
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            node.body = node.body[1:]
    return tree


@cache
def code(module: str) -> str:
    """Return a hash of a module and of all it imports from the rooms above, whatever their comments and layout."""
    seen: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        file = _module_file(name)
        if file is None or str(file.relative_to(PACKAGE)) in seen:
            continue
        tree = ast.parse(file.read_text())
        waiting.extend(_imports(tree))
        seen[str(file.relative_to(PACKAGE))] = ast.dump(_without_docstrings(tree))
    return digest(seen)
