"""The `model` step: a pretrained encoder's folder, checked and reduced to what is needed."""

from __future__ import annotations

import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from intaglio.errors import UserError
from intaglio.models.folder import check_model
from intaglio.store import new_artifact, open_artifact
from intaglio.study.schema import Pretrained
from intaglio.study.sources import MODEL_FILES, FilesSource, PackageSource
from intaglio.tasks.archive import extract
from intaglio.tasks.sources import archive_of


def prepare_model(encoder: Pretrained, source: Path | None, output: Path) -> None:
    """Check a pretrained encoder and leave it as a `model` artifact, a folder that transformers loads.

    Args:
        encoder: the encoder, as the study file has it.
        source: the fetched `source` artifact; None for the user's own folder.
        output: the artifact: config.json, model.safetensors (or its shards) and the tokenizer's files, nothing else.

    Raises:
        UserError: configuration, weights or tokenizer are missing, damaged or not in a form that can be used.
    """
    about: dict[str, Any] = {}
    with new_artifact(output, "model", about) as folder:
        work = folder / "work"
        given, name = _folder(encoder, source, work)
        about["model_type"] = check_model(given, name)
        for path in sorted(given.iterdir()):
            if path.is_file() and any(fnmatch(path.name, pattern) for pattern in MODEL_FILES):
                shutil.copyfile(path, folder / path.name)
        shutil.rmtree(work, ignore_errors=True)


def _folder(encoder: Pretrained, source: Path | None, work: Path) -> tuple[Path, str]:
    """Return the folder with the model's files, and what to call it in messages."""
    origin = encoder.source
    if isinstance(origin, FilesSource):
        if origin.path is None:
            raise UserError("source: files need `path`, the model's folder")
        return Path(origin.path).expanduser(), origin.path
    if source is None:
        raise UserError(f"source: kind {origin.kind!r} must be fetched first; give the fetched folder with --source")
    open_artifact(source, "source")
    if isinstance(origin, PackageSource):
        return extract(archive_of(source), origin.path, work), f"{origin.requirement} {origin.path}"
    return source, f"{origin.repo} at revision {origin.revision}"
