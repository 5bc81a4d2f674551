"""From the label column to targets, by the labels or bins of the task; error messages name file, row and value."""

from __future__ import annotations

import math
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Protocol

import pyarrow as pa

from intaglio.errors import UserError, nearest, shown
from intaglio.reading.raw_table import Chunk, missing
from intaglio.study.task import Bins, Task
from intaglio.tasks.answers import Answers

# Whether a row has the label of a column.
_YES_OR_NO = {"1": 1, "true": 1, "0": 0, "false": 0}


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
    if task.kind == "regression":
        return _Values(task)
    if task.kind == "question_answering":
        return Answers(task)
    if task.kind == "multi_label":
        return _LabelColumns(task) if len(task.label_columns) > 1 else _Lists(task)
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
        (self._column,) = task.label_columns
        self._key = "labels" if task.label_values is None else "label_values"
        self._values = task.label_values or task.labels
        self._position = {unicodedata.normalize("NFC", value): at for at, value in enumerate(self._values)}
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
        raise UserError(f"{where}: {what}{more}; {nearest(found, self._values)} (`{self._key}` in the study file)")


def _label(value: Any) -> str:
    if missing(value):
        return ""
    return spelled(value) if isinstance(value, list | dict) else _SPELLED(value)


class _Binned:
    """Targets from a column of numbers, by the intervals into which they fall."""

    type = pa.int64()

    def __init__(self, task: Task, bins: Bins) -> None:
        (self._column,) = task.label_columns
        self._bins, self._labels = bins, task.labels

    def of(self, chunk: Chunk) -> list[int | None]:
        """Return the target of every row, None where its bin has no label."""
        names = [self._bin(number) for number in _numbers(chunk, self._column, "`bins` need a number")]
        return [None if name is None else self._labels.index(name) for name in names]

    def _bin(self, number: float) -> str | None:
        # On an edge, bisect_left and bisect_right differ: a number is dropped if either neighbor has no label;
        # otherwise it belongs to the interval above.
        bins = self._bins
        below, above = bins.labels[bisect_left(bins.edges, number)], bins.labels[bisect_right(bins.edges, number)]
        return None if below is None else above

    def check(self) -> None:
        """Do nothing: wrong values have been refused."""


class _Values:
    """Targets from a column of numbers, as they are."""

    type = pa.float64()

    def __init__(self, task: Task) -> None:
        (self._column,) = task.label_columns

    def of(self, chunk: Chunk) -> list[float]:
        """Return the number of every row."""
        return list(_numbers(chunk, self._column, "`kind: regression` needs a number"))

    def check(self) -> None:
        """Do nothing: wrong values have been refused."""


def _numbers(chunk: Chunk, column: str, needs: str) -> Iterator[float]:
    for row, value in enumerate(chunk.columns[column]):
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise UserError(f"{chunk.where(row)}: column {column!r} holds {shown(value)}, where {needs}")
        yield number


class _LabelColumns:
    """Targets from a column of 1 and 0 for every label."""

    type = pa.list_(pa.int8())

    def __init__(self, task: Task) -> None:
        self._columns = task.label_columns

    def of(self, chunk: Chunk) -> list[list[int]]:
        """Return 1 for each label that a row has, else 0."""
        return [list(row) for row in zip(*(self._decided(name, chunk) for name in self._columns), strict=True)]

    def _decided(self, column: str, chunk: Chunk) -> Iterator[int]:
        for row, value in enumerate(chunk.columns[column]):
            known = None if missing(value) else _YES_OR_NO.get(_label(value).lower())
            if known is None:
                raise UserError(
                    f"{chunk.where(row)}: column {column!r} holds {shown(value)}, where 1 or 0 (or true or false) "
                    "belongs, as `label` names a column for every label"
                )
            yield known

    def check(self) -> None:
        """Do nothing: wrong values have been refused."""


class _Lists:
    """Targets from a column of lists of declared labels; in a text file, of labels with a delimiter between them."""

    type = pa.list_(pa.int8())

    def __init__(self, task: Task) -> None:
        (self._column,) = task.label_columns
        self._delimiter = task.label_delimiter
        self._key = "labels" if task.label_values is None else "label_values"
        self._values = task.label_values or task.labels
        self._position = {unicodedata.normalize("NFC", value): at for at, value in enumerate(self._values)}

    def of(self, chunk: Chunk) -> list[list[int]]:
        """Return 1 for each label that a row has, else 0."""
        return [self._set(value, chunk, row) for row, value in enumerate(chunk.columns[self._column])]

    def _set(self, value: Any, chunk: Chunk, row: int) -> list[int]:
        target = [0] * len(self._values)
        for item in self._items(value, chunk, row):
            name = _label(item)
            if name not in self._position:
                raise UserError(
                    f"{chunk.where(row)}: label {shown(name)} is not declared; {nearest(name, self._values)} "
                    f"(`{self._key}` in the study file)"
                )
            target[self._position[name]] = 1
        return target

    def _items(self, value: Any, chunk: Chunk, row: int) -> Sequence[Any]:
        if self._delimiter is not None and (value is None or isinstance(value, str)):
            return [item for item in (value or "").split(self._delimiter) if item.strip()]
        if not isinstance(value, list | tuple):
            advice = (
                "write an empty list for none"
                if missing(value)
                else "in a text file, name what separates labels by `label_delimiter`"
            )
            what = f"column {self._column!r} holds {shown(value)}, where a list of labels belongs"
            raise UserError(f"{chunk.where(row)}: {what}; {advice}")
        return value

    def check(self) -> None:
        """Do nothing: wrong values have been refused."""
