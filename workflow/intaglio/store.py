"""Artifacts: folders that are either complete or absent.

Every job writes its result as a folder with a manifest: its kind, the size of every file, and what making it took. The
folder is filled under a temporary name and renamed into place, so a killed job leaves nothing that looks like a result.
`open_artifact` refuses a folder whose files differ from the manifest.
"""

from __future__ import annotations

import errno
import glob
import json
import logging
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from intaglio.errors import UserError
from intaglio.ownership import sole_owner

_log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
# The manifest does not list itself, nor the file by which Snakemake dates an output folder.
_UNLISTED = {MANIFEST, ".snakemake_timestamp"}


def _sizes(folder: Path) -> dict[str, int]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.stat().st_size for path in files if path.name not in _UNLISTED}


def _draft(path: Path) -> Path:
    """Return a name beside `path` that no other living process has, on whatever node."""
    return path.parent / f".{path.name}.{socket.gethostname()}-{os.getpid()}.part"


def _remove_drafts(path: Path) -> None:
    """Remove what killed processes of this node left of `path`."""
    for suffix in (".part", ".old"):
        for draft in path.parent.glob(f".{glob.escape(path.name)}.{socket.gethostname()}-*{suffix}"):
            process = draft.stem.rpartition("-")[2]
            if process == str(os.getpid()) or not psutil.pid_exists(int(process)):
                shutil.rmtree(draft, ignore_errors=True)


def _share(folder: Path) -> None:
    """Let those read and write whom the umask lets: some libraries write files for their owner only."""
    for path in folder.rglob("*"):
        if not path.is_symlink():
            _open_to_group(path)


def _open_to_group(path: Path) -> None:
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(path.stat().st_mode | (0o777 if path.is_dir() else 0o666) & ~umask)


def _put(draft: Path, path: Path, aside: Path) -> None:
    """Rename a draft to its place; another process may do so with its own at the same time."""
    while True:
        # Aside first: whoever reads finds the old one, none or the new one, and at no time a part.
        with suppress(FileNotFoundError):
            path.rename(aside)
        try:
            draft.rename(path)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            _discard(aside)


def _discard(path: Path) -> None:
    """Remove a folder, or a link to one."""
    if path.is_symlink():
        path.unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)


def _made() -> dict[str, Any]:
    """Return the seconds since this process began, and the number of its SLURM job, if any."""
    return {
        "seconds": round(time.time() - psutil.Process().create_time(), 1),
        "allocation": os.environ.get("SLURM_JOB_ID"),
    }


@contextmanager
def new_artifact(path: Path, kind: str, about: dict[str, Any] | None = None) -> Iterator[Path]:
    """Yield an empty folder to fill; on leaving without an error it becomes `path`.

    Args:
        path: the folder of the artifact; an existing one is replaced.
        kind: `data`, `model`, `checkpoint`, `evaluation`, `profile`, ...; checked by `open_artifact`.
        about: facts for the manifest; the caller may add to it until leaving.
    """
    about = {} if about is None else about
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_drafts(path)
    draft = _draft(path)
    draft.mkdir()
    try:
        yield draft
        _share(draft)
        manifest = {"kind": kind, "files": _sizes(draft), "about": about, "made": _made()}
        (draft / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
        _put(draft, path, draft.with_suffix(".old"))
    finally:
        _discard(draft)
        _discard(draft.with_suffix(".old"))


def open_artifact(path: Path, *kinds: str) -> dict[str, Any]:
    """Check that a folder is a complete artifact and return the facts of its manifest.

    Args:
        path: the folder.
        kinds: what it may be; none for any.

    Raises:
        UserError: the artifact is missing or of another kind, or a file in it is missing or has another size.
    """
    if not (path / MANIFEST).is_file():
        raise UserError(
            f"{path}: not a finished {(kinds or ('result',))[0]} (no {MANIFEST}); delete the folder and run again"
        )
    manifest = json.loads((path / MANIFEST).read_text())
    if kinds and manifest["kind"] not in kinds:
        raise UserError(f"{path}: is a {manifest['kind']}, where a {kinds[0]} is needed")
    for name, size in manifest["files"].items():
        file = path / name
        found = file.stat().st_size if file.is_file() else None
        if found != size:
            state = "is missing" if found is None else f"has {found} bytes instead of {size}"
            raise UserError(f"{path}: damaged, {name} {state}; delete the folder and run again")
    about: dict[str, Any] = manifest["about"]
    return about


def is_artifact(path: Path, *kinds: str) -> bool:
    """Return whether a folder is a complete artifact, of one of these kinds if there are any."""
    try:
        open_artifact(path, *kinds)
    except (UserError, OSError, ValueError, LookupError):
        return False
    return True


def discard(path: Path) -> None:
    """Remove an artifact; at no time is a part of it under its name."""
    aside = _draft(path).with_suffix(".old")
    path.rename(aside)
    _discard(aside)


@contextmanager
def sole_maker(output: Path, kind: str, work: Path | None) -> Iterator[bool]:
    """Make an artifact as the only process that does so, by owning a folder of work, which is removed at the end.

    Args:
        output: the artifact.
        kind: its kind.
        work: the folder, of this artifact alone; None makes it without.

    Yields:
        Whether it is still to be made: another process, which was waited for, may have done so.
    """
    if work is None:
        yield True
        return
    with sole_owner(work) as waited:
        made = waited and is_artifact(output, kind)
        if made:
            _log.warning("%s is there: another process has made it", output)
        yield not made
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write; on leaving without an error it becomes `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = _draft(path)
    try:
        yield draft
        _open_to_group(draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
