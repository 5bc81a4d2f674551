"""Reading of `data` artifacts, and of `tokens`, which have the same files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from intaglio.errors import UserError, nearest
from intaglio.store import open_artifact


def open_data(data: Path) -> dict[str, Any]:
    """Check a [data] or [tokens] artifact and return the facts of its manifest.

    Raises:
        UserError: the artifact is missing or damaged.
    """
    return open_artifact(data, "data", "tokens")


def split_file(data: Path, split: str) -> Path:
    """Return the Parquet file of a split, of a [data] or [tokens] artifact.

    Raises:
        UserError: the artifact is damaged or has no such split.
    """
    open_data(data)
    path = data / f"{split}.parquet"
    if not path.is_file():
        raise UserError(f"{data}: no split {split!r}, {nearest(split, (file.stem for file in data.glob('*.parquet')))}")
    return path


def read_split(data: Path, split: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Return a split of a [data] or [tokens] artifact as stored.

    Args:
        data: the artifact.
        split: name of the split.
        columns: of id, text_a, (text_b,) label, those to read; None for all.

    Raises:
        UserError: the artifact is damaged or has no such split.
    """
    return pq.ParquetFile(split_file(data, split)).read(columns)


def read_task(data: Path) -> dict[str, Any]:
    """Return the content of task.json in a [data] or [tokens] artifact: labels, metric, test_sets, pair."""
    open_data(data)
    task: dict[str, Any] = json.loads((data / "task.json").read_text())
    return task
