"""Old results found and removed: what no study here needs any more, and what dead processes left.

A study needs what its last start has planned. A change of the study, of Intaglio or of a library names results anew;
those under the old names stay in the store until somebody removes them.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from intaglio.cluster.leading import who_leads
from intaglio.errors import UserError
from intaglio.ownership import OWNER, myself, owner_in
from intaglio.planning.jobs import STORE, WORK, Job
from intaglio.rules.stored import StoredPlan, stored_plans
from intaglio.store import MANIFEST, discard

_RESULTS = STORE.parent
# A draft of a process on another node, or an owner there, is dead if nothing changed for so many seconds.
_DRAFT_SILENCE, _OWNER_SILENCE = 24 * 3600.0, 600.0
_DRAFT = re.compile(r"\..+\.(?P<host>[^/]+)-(?P<process>\d+)\.(part|old)")
# Behind the key, in the name of a profile that was measured again.
_FURTHER = re.compile(r"(?<=\.[0-9a-f]{12})-\d+$")
_LOGS = Path("logs")


@dataclass(frozen=True)
class Unneeded:
    """A file or folder that can go.

    Attributes:
        path: of it.
        why: in words.
        files: number of files in it.
        size: of them, bytes.
    """

    path: Path
    why: str
    files: int
    size: int


def clean(yes: bool) -> Iterator[str]:
    """Remove what can go if `yes`; yield a line for each entry, and one for all."""
    found = unneeded()
    for entry in found:
        yield f"{entry.size / 1e6:10.1f} MB  {entry.path}: {entry.why}"
        if yes:
            _remove(entry.path)
    files, size = sum(entry.files for entry in found), sum(entry.size for entry in found) / 1e9
    done = "removed" if yes else "--yes removes them" if found else "nothing to remove"
    yield f"{len(found)} entries, {files} files, {size:.2f} GB: {done}"


def unneeded() -> list[Unneeded]:
    """Return what can be removed below the working folder.

    Raises:
        UserError: it cannot be known: Snakemake runs here, a study has no stored plan, a job of no known plan is at
            work, or the store is a link, which others may share.
    """
    if not STORE.is_dir():
        return []
    if STORE.is_symlink():
        raise UserError(f"{STORE} is a link to {STORE.resolve()}, which others may use; clean it from there")
    if leaders := who_leads():
        raise UserError(f"{STORE}: Snakemake uses it: {leaders}; clean when it has ended")
    needed = {job.output: job for plan in _plans() for job in plan.all_jobs()}
    _refuse_unknown(needed)
    kept = {_first(folder) for folder in needed}
    found = [(path, "no study here needs it") for path in _results() if _first(str(path)) not in kept]
    works = {job.work for job in needed.values() if not Path(job.output, MANIFEST).is_file()}
    for path in _entries(WORK):
        if str(path) not in works and not _lives(path):
            found.append((path, "progress of a job that is done or not needed"))
    found += [(path, "left by a process that was killed") for path in _drafts()]
    gone = {str(path) for path, _ in found}
    logs = (log for rule in _entries(_LOGS) for log in rule.glob("*.log"))
    found += [(log, "log of it") for log in logs if str(STORE / log.parent.name / log.stem) in gone]
    return [Unneeded(path, why, *_measured(path)) for path, why in found]


def _remove(path: Path) -> None:
    if path.is_dir():
        discard(path)
    else:
        path.unlink(missing_ok=True)


def _plans() -> Iterator[StoredPlan]:
    """Yield the plans of all studies here."""
    for study in _entries(_RESULTS):
        if study == STORE:
            continue
        plans = stored_plans(study.name)
        if not plans:
            raise UserError(
                f"{study}: nothing says which results this study needs; run Snakemake on its study file once, or "
                "delete this folder"
            )
        yield from plans


def _refuse_unknown(needed: Mapping[str, Job]) -> None:
    """Refuse to clean while a job of another plan is at work, whose inputs are not known."""
    unknown = {str(path) for path in _entries(WORK) if _lives(path)} - {job.work for job in needed.values()}
    if unknown:
        raise UserError(f"{min(unknown)}: a job of another plan is at work; clean when it has ended")


def _first(folder: str) -> str:
    """Return the folder of a profile's first measurement: those that were disturbed count, too, when it is planned."""
    return _FURTHER.sub("", folder)


def _lives(work: Path) -> bool:
    """Return whether a process may work in a folder."""
    file = work / OWNER
    owner = owner_in(file)
    if owner is None or owner.ended(myself()):
        return False
    return owner.node == myself().node or _age(file) < _OWNER_SILENCE


def _results() -> Iterator[Path]:
    for rule in _entries(STORE):
        if rule != WORK:
            yield from _entries(rule)


def _drafts() -> Iterator[Path]:
    """Yield what killed processes left beside results."""
    places = [*_entries(STORE), *(study for study in _entries(_RESULTS) if study != STORE)]
    for path in (path for place in places for path in place.iterdir()):
        draft = _DRAFT.fullmatch(path.name)
        if draft is None:
            continue
        if draft["host"] == socket.gethostname():
            dead = not psutil.pid_exists(int(draft["process"]))
        else:
            dead = min(map(_age, (path, *path.rglob("*")))) > _DRAFT_SILENCE
        if dead:
            yield path


def _entries(folder: Path) -> list[Path]:
    """Return the folders in a folder, without hidden ones."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _measured(path: Path) -> tuple[int, int]:
    """Return the number of files and their bytes; a link to a result of others is one file, of no size."""
    if path.is_symlink():
        return 1, 0
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    return len(files), sum(file.stat().st_size for file in files)
