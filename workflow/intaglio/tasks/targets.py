"""From the label column to targets, by the labels or bins of the task; error messages name file, row and value."""

from __future__ import annotations

import math
import unicodedata
from bisect import bisect_left, bisect_right
from functools import lru_cache
from typing import Any, Protocol

import pyarrow as pa

from intaglio.errors import UserError, nearest
from intaglio.reading.raw_table import Chunk, missing
from intaglio.study.task import Bins, Task

# Characters of a value that a message shows.
_SHOWN = 60


def shown(value: Any) -> str:
    """Return a value as messages show it."""
    text = value if isinstance(value, str) else repr(value)
    text = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
    return repr(text) if isinstance(value, str) else text


class TargetReader(Protocol):
    """Reads the targets of a table.

    Attributes:
        type: type of the targets' column in a `data` artifact.
    """

    type: pa.DataType

    def of(self, chunk: Chunk) -> list[Any]:
        """Return the target of every row; None for rows to leave out.

        Raises:
            UserError: a value is wrong; or `check` says so, if it has to be told how many are.
        """

    def check(self) -> None:
        """Raise a UserError if a value was wrong; called once all rows are read."""


def target_reader(task: Task) -> TargetReader:
    """Return what reads the targets of a task."""
    return _Declared(task) if task.bins is None else _Binned(task, task.bins)


def spelled(value: Any) -> str:
    """Return a label value as it is written in a study file: 1 for 1.0, true for True."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return unicodedata.normalize("NFC", str(value).strip())


# Types count: 1, 1.0 and True are equal, but spelled differently.
_SPELLED = lru_cache(maxsize=10_000, typed=True)(spelled)


class _Declared:
    """Targets from a column of declared labels."""

    type = pa.int64()

    def __init__(self, task: Task) -> None:
        self._column = task.label
        self._key = "labels" if task.label_values is None else "label_values"
        self._values = task.label_values or task.labels
        self._position = {unicodedata.normalize("NFC", value): at for at, value in enumerate(self._values)}
        self._strange: list[str] = []
        self._count = 0

    def of(self, chunk: Chunk) -> list[int | None]:
        """Return the target of every row, None where the label is not declared."""
        found = list(map(_label, chunk.columns[self._column]))
        targets = [self._position.get(value) for value in found]
        strange = [row for row, target in enumerate(targets) if target is None]
        if strange and not self._count:
            self._first = chunk.where(strange[0]), found[strange[0]]
        self._count += len(strange)
        return targets

    def check(self) -> None:
        """Raise an error if a label was not declared; all rows have to be read, since it counts them."""
        if not self._count:
            return
        where, found = self._first
        more = f" (and {self._count - 1} rows more)" if self._count > 1 else ""
        what = f"label {shown(found)} is not declared" if found else f"no label in column {self._column!r}"
        raise UserError(
            f"{where}: {what}{more}; {nearest(found[:_SHOWN], self._values)} (`{self._key}` in the study file)"
        )


def _label(value: Any) -> str:
    if missing(value):
        return ""
    return spelled(value) if isinstance(value, list | dict) else _SPELLED(value)


class _Binned:
    """Targets from a column of numbers, by the intervals into which they fall."""

    type = pa.int64()

    def __init__(self, task: Task, bins: Bins) -> None:
        self._column, self._bins, self._labels = task.label, bins, task.labels

    def of(self, chunk: Chunk) -> list[int | None]:
        """Return the target of every row, None where its bin has no label."""
        names = [self._bin(self._number(value, chunk, row)) for row, value in enumerate(chunk.columns[self._column])]
        return [None if name is None else self._labels.index(name) for name in names]

    def _bin(self, number: float) -> str | None:
        # On an edge, bisect_left and bisect_right differ: a number is dropped if either neighbor has no label;
        # otherwise it belongs to the interval above.
        bins = self._bins
        below, above = bins.labels[bisect_left(bins.edges, number)], bins.labels[bisect_right(bins.edges, number)]
        return None if below is None else above

    def _number(self, value: Any, chunk: Chunk, row: int) -> float:
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise UserError(
                f"{chunk.where(row)}: column {self._column!r} holds {shown(value)}, where `bins` need a number"
            )
        return number

    def check(self) -> None:
        """Do nothing: wrong values have been refused."""
