"""From a table to examples, by the task's columns and labels; error messages name file, row and value."""

from __future__ import annotations

import math
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from intaglio.errors import UserError, nearest
from intaglio.reading.delimited import other_delimiter
from intaglio.reading.raw_table import RawTable, missing
from intaglio.study.task import Bins, Task

T = TypeVar("T")
# Characters of a value that a message shows.
_SHOWN = 60
ID_COLUMNS = ("id", "idx")


@dataclass(frozen=True)
class Examples:
    """Examples of one split; all columns have the same length.

    Attributes:
        ids: unique within their table.
        texts: one column, or two for pairs of texts.
        labels: indices into the task's labels.
    """

    ids: list[str]
    texts: list[list[str]]
    labels: list[int]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Sequence[int]) -> Examples:
        """Return the examples at these positions, in this order."""
        return Examples(_take(self.ids, rows), [_take(text, rows) for text in self.texts], _take(self.labels, rows))

    def contents(self) -> Iterator[tuple[str, ...]]:
        """Yield the text, or the pair of texts, of each example."""
        return zip(*self.texts, strict=True)


def _take(values: Sequence[T], rows: Sequence[int]) -> list[T]:
    return [values[row] for row in rows]


def read_examples(task: Task, table: RawTable) -> tuple[Examples, int]:
    """Return the examples of a table, and the number of rows dropped because their bin has no label.

    Raises:
        UserError: a column is missing, a text is empty or not a string, or a label is not declared.
    """
    for column in [*task.text, task.label]:
        if column not in table.columns:
            raise UserError(f"{table.name}: {_absent(column, table)}")
    names = _declared(task, table) if task.bins is None else _binned(task.label, task.bins, table)
    index = {label: position for position, label in enumerate(task.labels)}
    rows = [row for row, name in enumerate(names) if name is not None]
    texts = [_take(_texts(column, table, at > 0), rows) for at, column in enumerate(task.text)]
    labels = [index[name] for name in names if name is not None]
    return Examples(_take(_ids(task, table), rows), texts, labels), len(names) - len(rows)


def _absent(column: str, table: RawTable) -> str:
    """Return why a column is missing: another delimiter, quotes, no header line, or another name."""
    if column in table.twice:
        return f"two columns are named {column!r}; rename one"
    what, names = f"no column {column!r}", list(table.columns)
    if table.delimiter is not None:
        other = other_delimiter(names)
        if other is not None:
            return f"{what}, its only column is {names[0]!r}; if {other!r} delimits, set `delimiter: {other!r}`"
        if f'"{column}"' in names:
            return f"{what}, but one in quotes; set `quotes: true`"
    close = f"{what}, {nearest(column, names)}"
    if table.delimiter is not None and not close.endswith("?"):
        close += "; if the file has no header line, name its columns by `columns`"
    return close


def _texts(column: str, table: RawTable, optional: bool = False) -> list[str]:
    values = ["" if optional and missing(value) else value for value in table.columns[column]]
    for row, value in enumerate(values):
        if missing(value) and not optional:
            raise UserError(f"{table.where(row)}: no text in column {column!r}; fill it in or delete the row")
        if not isinstance(value, str):
            raise UserError(f"{table.where(row)}: column {column!r} holds {value!r}, not a text; check `text`")
    return values


def _spelled(value: Any) -> str:
    """Return a label value as it is written in a study file: 1 for 1.0, true for True."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return unicodedata.normalize("NFC", str(value).strip())


def _declared(task: Task, table: RawTable) -> list[str | None]:
    """Return the label of every row, from the declared values."""
    values = task.labels if task.label_values is None else task.label_values
    label_of: dict[str, str | None] = dict(
        zip((unicodedata.normalize("NFC", value) for value in values), task.labels, strict=True)
    )
    found = ["" if missing(value) else _spelled(value) for value in table.columns[task.label]]
    strange = [row for row, value in enumerate(found) if value not in label_of]
    if strange:
        row = strange[0]
        more = f" (and {len(strange) - 1} rows more)" if len(strange) > 1 else ""
        name = found[row] if len(found[row]) <= _SHOWN else f"{found[row][:_SHOWN]}..."
        what = f"label {name!r} is not declared" if name else f"no label in column {task.label!r}"
        key = "labels" if task.label_values is None else "label_values"
        raise UserError(f"{table.where(row)}: {what}{more}; {nearest(name, values)} (`{key}` in the study file)")
    return [label_of[value] for value in found]


def _binned(column: str, bins: Bins, table: RawTable) -> list[str | None]:
    """Return the label of the interval of each row's number; None if its bin has no label."""
    return [_bin(bins, _number(value, table, row, column)) for row, value in enumerate(table.columns[column])]


def _bin(bins: Bins, number: float) -> str | None:
    # On an edge, bisect_left and bisect_right differ: a number is dropped if either neighbor has no label; otherwise it
    # belongs to the interval above.
    below, above = bins.labels[bisect_left(bins.edges, number)], bins.labels[bisect_right(bins.edges, number)]
    return None if below is None else above


def _number(value: Any, table: RawTable, row: int, column: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{table.where(row)}: column {column!r} holds {value!r}, where `bins` need a number")
    return number


def _ids(task: Task, table: RawTable) -> list[str]:
    """Return the table's own identifiers if they are unique, or else the row numbers."""
    for column in ID_COLUMNS:
        if column in table.columns and column not in [*task.text, task.label]:
            values = table.columns[column]
            ids = [_spelled(value) for value in values]
            if len(set(ids)) == len(ids) and not any(missing(value) for value in values):
                return ids
    return [str(number) for number in table.numbers]
