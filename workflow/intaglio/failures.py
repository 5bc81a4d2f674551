"""Reasons of failed runs, from the records and logs of their jobs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from intaglio.ownership import is_owned
from intaglio.store import MANIFEST

_FAILURE = "failure.json"
_ENDED = "its job has ended without a result and without a word: stopped, or killed (for lack of memory?)"
# In the last line of a training that has saved its progress.
_GOES_ON = "run again to resume"
# Start of the last line of a failed command: Intaglio's own message, or an exception.
_ERROR = re.compile(r"intaglio \w+: |[\w.]*(Error|Exception)\b")


def reasons(run: Mapping[str, Any]) -> list[str]:
    """Return the reason of every job of a run of the plan that failed."""
    found = []
    for folder in (*run["before"], *run["work"]):
        if not (Path(folder) / MANIFEST).is_file():
            work = run["work"].get(folder)
            found.append(reason(Path(folder), work and Path(work)))
    return [error for error in found if error]


def reason(folder: Path, work: Path | None) -> str | None:
    """Return the error of the job that makes a folder, with the path of its log; None if it has not failed.

    A job with a work folder records it there; for any other job it is the last line of the log. One that was killed
    leaves no error, but does not own its work folder any more.
    """
    log = log_of(folder)
    error = (work and _recorded(work)) or last_error(log) or (work and _killed(log, work))
    return f"{error} ({log})" if error and log.is_file() else error or None


def log_of(folder: Path) -> Path:
    """Return the log of the job that makes a folder."""
    return Path("logs", folder.parent.name, f"{folder.name}.log")


def _recorded(work: Path) -> str | None:
    try:
        return str(json.loads((work / _FAILURE).read_text())["error"])
    except (OSError, ValueError, KeyError):
        return None


def last_error(log: Path) -> str | None:
    """Return the last line of a job's log if it is an error: `intaglio VERB: ...` for a mistake, or an exception."""
    last = _last_line(log) or ""
    return last if _ERROR.match(last) else None


def _last_line(log: Path) -> str | None:
    try:
        lines = log.read_text(errors="replace").split("\n")
    except OSError:
        return None
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _killed(log: Path, work: Path) -> str | None:
    """Return what there is to say of a job that has begun, has left neither a result nor an error, and does not run."""
    last = _last_line(log)
    return None if last is None or _GOES_ON in last or is_owned(work) else _ENDED
