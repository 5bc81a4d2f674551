"""Reasons of failed runs, from the records and logs of their jobs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

from intaglio.store import MANIFEST

_FAILURE = "failure.json"
# Start of the last line of a failed command: Intaglio's own message, or an exception.
_ERROR = re.compile(r"intaglio \w+: |[\w.]*(Error|Exception)\b")


def reasons(run: Mapping[str, Any]) -> list[str]:
    """Return the error of every job of a run of the plan that failed, with the path of its log.

    A training records it in its work folder; for any other job it is the last line of the log.
    """
    folders = [*run["stages"], run["evaluation"], run["export"], run["profile"]]
    found = []
    for folder, work in zip_longest(folders, run.get("work", [])):
        if folder is None or (Path(folder) / MANIFEST).is_file():
            continue
        log = _log(Path(folder))
        error = (work and _recorded(Path(work))) or last_error(log)
        if error:
            found.append(f"{error} ({log})" if log.is_file() else error)
    return found


def _log(folder: Path) -> Path:
    """Return the log of the job that makes a folder."""
    return Path("logs", folder.parent.name, f"{folder.name}.log")


def _recorded(work: Path) -> str | None:
    try:
        return str(json.loads((work / _FAILURE).read_text())["error"])
    except (OSError, ValueError, KeyError):
        return None


def last_error(log: Path) -> str | None:
    """Return the last line of a job's log if it is an error: `intaglio VERB: ...` for a mistake, or an exception."""
    try:
        lines = log.read_text(errors="replace").split("\n")
    except OSError:
        return None
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return last if _ERROR.match(last) else None
