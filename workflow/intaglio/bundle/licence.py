"""The licence of a pretrained model, where its own files state one."""

from __future__ import annotations

import json
import re
import tarfile
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from intaglio.planning.jobs import STORE
from intaglio.reading.sources import archive_of
from intaglio.store import open_artifact

# In the head of a model card, between lines of three hyphens.
_IN_CARD = re.compile(r"\A---\n(?:.*\n)*?license:[ \t]*(?P<licence>[^\n#]+?)[ \t]*\n", re.IGNORECASE)
_IN_METADATA = re.compile(r"^License(?:-Expression)?:[ \t]*(?P<licence>\S[^\n]*)$", re.MULTILINE)


def licence_of(source: Mapping[str, Any]) -> str | None:
    """Return the licence that a model's card, configuration or package states; None if none does.

    Args:
        source: the model's source, as in a study.
    """
    if source["kind"] == "files":
        return _of_folder(Path(source["path"]))
    for folder in sorted((STORE / "fetch").glob("model-*")):
        about = open_artifact(folder, "source")
        if all(about.get(name) == source[name] for name in ("repo", "revision", "requirement") if name in source):
            return _of_folder(folder) if source["kind"] == "hub" else _of_archive(archive_of(folder))
    return None


def _of_folder(folder: Path) -> str | None:
    card, config = folder / "README.md", folder / "config.json"
    found = _IN_CARD.search(card.read_text(errors="replace")) if card.is_file() else None
    if found:
        return found["licence"].strip("'\" ")
    with suppress(OSError, ValueError):
        licence = json.loads(config.read_text()).get("license")
        return licence if isinstance(licence, str) else None
    return None


def _of_archive(archive: Path) -> str | None:
    """Return the licence in the metadata of a Python package, a wheel or a source archive."""
    with suppress(OSError, KeyError, zipfile.BadZipFile, tarfile.TarError):
        found = _IN_METADATA.search(_metadata(archive))
        return found["licence"].strip() if found and found["licence"].strip() != "UNKNOWN" else None
    return None


def _metadata(archive: Path) -> str:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as wheel:
            names = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
            return wheel.read(names[0]).decode(errors="replace") if names else ""
    with tarfile.open(archive) as tar:
        members = [member for member in tar if member.name.count("/") == 1 and member.name.endswith("/PKG-INFO")]
        stream = tar.extractfile(members[0]) if members else None
        return stream.read().decode(errors="replace") if stream else ""
