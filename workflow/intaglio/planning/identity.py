"""Hashes of JSON values and of the user's files, for the keys of results."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

from intaglio.study.sources import files_to_read

LENGTH = 12


def digest(value: Any) -> str:
    """Return a short hash of a JSON value."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:LENGTH]


def folder_digest(path: Path, patterns: Sequence[str]) -> str:
    """Return a hash of the names and contents of a folder's files that are read; "absent" if there is no folder.

    Args:
        path: the folder.
        patterns: names of files that are read, with `*` as in a shell; other files are ignored.
    """
    if not path.is_dir():
        return "absent"
    files = sorted(file for file in path.iterdir() if any(fnmatch(file.name, pattern) for pattern in patterns))
    return digest([[file.name, file_digest(file)] for file in files])


@cache
def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file; "absent" if it does not exist."""
    if not path.is_file():
        return "absent"
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_digest(path: Path) -> str:
    """Return a hash of what is read of a user's own file or model folder; "absent" if it does not exist."""
    return folder_digest(path, files_to_read(path)) if path.is_dir() else file_digest(path)
