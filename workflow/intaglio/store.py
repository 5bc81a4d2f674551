"""Artifacts: folders that are either complete or absent.

Every job leaves its result as a folder with a manifest (what it is and the size of every file in it). The folder is
filled under another name and renamed into place, so a job that is killed leaves nothing that looks like a result, and
`open_artifact` refuses a folder whose files are not those that the manifest lists.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from intaglio.errors import UserError

MANIFEST = "manifest.json"
# Snakemake marks the age of an output folder with this file, after the job.
_NOT_OURS = {MANIFEST, ".snakemake_timestamp"}


def _sizes(folder: Path) -> dict[str, int]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.stat().st_size for path in files if path.name not in _NOT_OURS}


@contextmanager
def new_artifact(path: Path, kind: str, about: dict[str, Any] | None = None) -> Iterator[Path]:
    """Yield an empty folder to fill; on leaving without an error it becomes `path`, whole.

    Args:
        path: where the artifact shall stand; what stands there is replaced.
        kind: what it is (`data`, `model`, `checkpoint`, `evaluation`, `profile`, ...); checked by `open_artifact`.
        about: facts to keep in the manifest; the caller may still add to it before leaving.
    """
    about = {} if about is None else about
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.parent / f".{path.name}.{os.getpid()}.part"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    try:
        yield draft
        manifest = {"kind": kind, "files": _sizes(draft), "about": about}
        (draft / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
        if path.exists():
            shutil.rmtree(path)
        draft.rename(path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def open_artifact(path: Path, kind: str) -> dict[str, Any]:
    """Check that a folder is a complete artifact of this kind and return the facts of its manifest.

    Raises:
        UserError: it is missing, of another kind, or a file in it is missing or of another size.
    """
    if not (path / MANIFEST).is_file():
        raise UserError(f"{path}: not a finished {kind} (no {MANIFEST}); delete the folder and run again")
    manifest = json.loads((path / MANIFEST).read_text())
    if manifest["kind"] != kind:
        raise UserError(f"{path}: is a {manifest['kind']}, where a {kind} is needed")
    found = _sizes(path)
    for name, size in manifest["files"].items():
        if found.get(name) != size:
            state = "is missing" if name not in found else f"has {found[name]} bytes instead of {size}"
            raise UserError(f"{path}: damaged, {name} {state}; delete the folder and run again")
    about: dict[str, Any] = manifest["about"]
    return about


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write; on leaving without an error it becomes `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.parent / f".{path.name}.{os.getpid()}.part"
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
