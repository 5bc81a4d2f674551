"""Checks of the files in a pretrained encoder's folder: configuration, weights, tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from intaglio.errors import UserError
from intaglio.study.sources import CONFIG_FILE, PICKLED_WEIGHTS, VOCABULARIES, WEIGHTS_FILE, WEIGHTS_INDEX


def check_model(folder: Path, name: str) -> str:
    """Check that a folder contains a usable encoder, and return its `model_type`.

    Raises:
        UserError: names the missing or invalid file, and what to do.
    """
    if not folder.is_dir():
        raise UserError(
            f"{name}: no such folder; a model is a folder with {CONFIG_FILE}, {WEIGHTS_FILE} and a tokenizer's files"
        )
    config = _json(folder / CONFIG_FILE, name)
    if not config.get("model_type"):
        raise UserError(
            f"{name}: {CONFIG_FILE} names no `model_type`; save the model with transformers' save_pretrained"
        )
    for weights in _weights(folder, name):
        _check_weights(weights, name)
    present = [file for file in VOCABULARIES if (folder / file).is_file()]
    if not present:
        raise UserError(
            f"{name}: no tokenizer (one of {', '.join(VOCABULARIES)}); copy its files there, or save it there with"
            " transformers' AutoTokenizer"
        )
    if present == ["vocab.json"] and not (folder / "merges.txt").is_file():
        raise UserError(f"{name}: vocab.json without merges.txt is half a tokenizer; copy merges.txt there, too")
    return str(config["model_type"])


def _json(path: Path, name: str) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(
            f"{name}: no {path.name}; a model is a folder with {CONFIG_FILE}, {WEIGHTS_FILE} and a tokenizer's files"
        )
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{name}: {path.name} is not JSON ({error}); copy it again") from error
    if not isinstance(content, dict):
        raise UserError(f"{name}: {path.name} is not a JSON object; copy it again")
    return content


def _weights(folder: Path, name: str) -> list[Path]:
    """Return the weights' files: a single one, or the shards that the index lists."""
    if (folder / WEIGHTS_FILE).is_file():
        return [folder / WEIGHTS_FILE]
    if (folder / WEIGHTS_INDEX).is_file():
        shards = sorted({str(shard) for shard in _json(folder / WEIGHTS_INDEX, name).get("weight_map", {}).values()})
        absent = [shard for shard in shards if not (folder / shard).is_file()]
        if absent or not shards:
            raise UserError(
                f"{name}: no weights: {WEIGHTS_INDEX} lists {absent[0] if absent else 'nothing'}, not there"
            )
        return [folder / shard for shard in shards]
    raise UserError(
        f"{name}: no weights; {WEIGHTS_FILE} is needed (or {WEIGHTS_INDEX} and its shards, or {PICKLED_WEIGHTS}); other"
        " formats are converted by transformers' save_pretrained"
    )


def _check_weights(path: Path, name: str) -> None:
    try:
        with safe_open(path, framework="numpy") as weights:
            empty = not weights.keys()
    except SafetensorError as error:
        raise UserError(
            f"{name}: {path.name} is not whole ({error}); fetch it again (a Git LFS pointer? then `git lfs pull`)"
        ) from error
    if empty:
        raise UserError(f"{name}: {path.name} holds no weights; fetch it again")
