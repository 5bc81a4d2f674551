"""What is kept in memory of an example's texts, groups and times: hashes and numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, date, datetime, time
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from intaglio.errors import UserError, shown
from intaglio.reading.raw_table import Chunk, missing
from intaglio.study.task import Task
from intaglio.tasks.targets import spelled


def hashed(*columns: Sequence[str]) -> NDArray[np.uint64]:
    """Return a hash of every row, of 64 bits and the same in every process."""
    rows = np.zeros(len(columns[0]), np.uint64)
    for column in columns:
        hashes: Any = pd.util.hash_array(np.array(column, dtype=object), categorize=False)
        rows = rows * np.uint64(31) + hashes  # the factor: a pair differs from the same texts exchanged
    return rows


def unique(hashes: NDArray[np.uint64]) -> bool:
    """Return whether no hash occurs twice."""
    return len(np.unique(hashes)) == len(hashes)


class KeyReader:
    """Reads the column by which examples are split: groups as hashes, or times as numbers that ascend.

    A table from which nothing is split may lack the column or values of it; rows without one are a group of their own.
    """

    def __init__(self, task: Task, is_cut: bool = True) -> None:
        self._groups, self._is_cut = task.split_by is not None, is_cut
        self._kind: str | None = None
        self.column = str(task.split_by or task.split_by_time)

    def of(self, chunk: Chunk, rows: Sequence[int]) -> NDArray[Any]:
        """Return the keys of rows of a chunk: uint64 of groups, or float64 of times [rows].

        Raises:
            UserError: a value is missing, or is not a time.
        """
        values = chunk.columns.get(self.column, [None] * len(chunk.numbers))
        for row in rows:
            if self._is_cut and missing(values[row]):
                raise UserError(
                    f"{chunk.where(row)}: no value in column {self.column!r}, by which examples are split; fill it in"
                )
        if self._groups:
            return hashed(["" if missing(values[row]) else spelled(values[row]) for row in rows])
        return np.array([self._time(values[row], chunk.where(row)) for row in rows])

    def _time(self, value: Any, where: str) -> float:
        kind, instant = _instant(value)
        self._kind = self._kind or kind
        if kind is None or kind != self._kind:
            wanted = f"{self._kind or 'a number or a date'} (such as 2024-05-31, or with a time)"
            raise UserError(f"{where}: column {self.column!r} holds {shown(value)}, not {wanted}")
        return instant


def _instant(value: Any) -> tuple[str | None, float]:
    """Return the kind of a value and its position in time: of dates, in seconds, UTC unless they say otherwise."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            try:
                value = datetime.fromisoformat(value.strip())
            except ValueError:
                return None, 0.0
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime.combine(value, time.min)
    if isinstance(value, datetime):
        return "a date", (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return "a number", float(value)
    return None, 0.0
