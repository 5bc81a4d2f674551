"""Weights that torch has pickled, converted to safetensors."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors.torch import save_file
from torch import Tensor

from intaglio.errors import UserError, first_line
from intaglio.study.sources import MODEL_FILES, PICKLED_WEIGHTS, WEIGHTS_FILE, files_to_read


def with_safetensors(folder: Path, converted: Path, name: str) -> Path:
    """Return a model's folder with its weights as safetensors.

    A folder that has none, but pytorch_model.bin, is converted. Only tensors are read from that file: torch refuses all
    else (`weights_only`), so no code in it is run.

    Args:
        folder: as transformers saves a model.
        converted: a new folder, written if the weights are converted; its other files are links to those of `folder`.
        name: name of the model in messages.

    Raises:
        UserError: pytorch_model.bin is damaged, or holds other things than tensors.
    """
    pickled = folder / PICKLED_WEIGHTS
    if PICKLED_WEIGHTS not in files_to_read(folder) or not pickled.is_file():
        return folder
    weights = _read(pickled, name)
    converted.mkdir(parents=True)
    for path in folder.iterdir():
        if any(fnmatch(path.name, pattern) for pattern in MODEL_FILES):
            (converted / path.name).symlink_to(path.resolve())
    # Some tensors share memory (tied weights), which safetensors refuses.
    save_file({key: tensor.clone().contiguous() for key, tensor in weights.items()}, converted / WEIGHTS_FILE)
    return converted


def _read(path: Path, name: str) -> dict[str, Tensor]:
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise UserError(
            f"{name}: {path.name} holds other things than tensors, or is damaged, and is not read; bring"
            f" {WEIGHTS_FILE}, which transformers' save_pretrained writes"
        ) from error
    except Exception as error:  # a damaged file fails in many ways
        raise UserError(
            f"{name}: {path.name} is not whole ({first_line(error)}); fetch it again (a Git LFS pointer? then `git lfs"
            " pull`)"
        ) from error
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise UserError(
            f"{name}: {path.name} is no state dict of a model; bring {WEIGHTS_FILE}, which transformers'"
            " save_pretrained writes"
        )
    return weights
