"""Rows as they are in a file, read in chunks, with the numbers that an editor or a spreadsheet would show."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from typing import Any

# Number of rows in memory at once.
CHUNK = 2_000

# A row's number and its values, one per column.
NumberedRow = tuple[int, Sequence[Any]]


@dataclass(frozen=True)
class Chunk:
    """Successive rows of a table.

    Attributes:
        table: the table.
        numbers: one per row, ascending.
        columns: values by column, in the file's own types; None for a missing value.
    """

    table: RawTable
    numbers: Sequence[int]
    columns: dict[str, Sequence[Any]]

    def where(self, row: int) -> str:
        """Return the place of a row, given its position in the chunk, for a message."""
        return f"{self.table.name}, {self.table.unit} {self.numbers[row]}"


class RawTable:
    """The rows of a data set, which are read in chunks, once.

    What is known of the table grows while it is read: the columns with the first chunk (with every chunk of JSON
    Lines), the rest with the last one.

    Attributes:
        name: name in messages, usually the file's path.
        unit: unit of the rows' numbers: "line" of a text file (on which the row begins) or "row" of a Parquet file,
            from 1.
        header: all names as they stand in the file, one per value of a row.
        columns: names of the columns. Columns without a name, and those with a duplicate name, are left out.
        twice: duplicate column names.
        delimiter: of a delimited file whose first line names the columns.
        blank: number of rows without any value, which are left out.
    """

    def __init__(self, name: str, unit: str, read: Callable[[RawTable], Iterator[NumberedRow]]) -> None:
        """Make a table from a function that yields its rows; it calls `begin` before the first one."""
        self.name, self.unit = name, unit
        self.header: list[str] = []
        self.columns: list[str] = []
        self.twice: frozenset[str] = frozenset()
        self.delimiter: str | None = None
        self.blank = 0
        self._positions: dict[str, int] = {}
        self._warnings: dict[str, tuple[int, int]] = {}
        self._rows = read(self)

    def begin(self, names: Sequence[str], delimiter: str | None = None) -> None:
        """Set the names of the columns; later ones may be added."""
        self.header, counts = list(names), Counter(names)
        self.twice = frozenset(name for name in names if name and counts[name] > 1)
        self.delimiter = delimiter
        self._positions = {name: at for at, name in enumerate(names) if name and counts[name] == 1}
        self.columns = list(self._positions)

    def warn(self, number: int, what: str) -> None:
        """Add a warning about a row; equal warnings are merged, which name the first row and count the others."""
        first, count = self._warnings.get(what, (number, 0))
        self._warnings[what] = first, count + 1

    @property
    def warnings(self) -> tuple[str, ...]:
        """Suspicious places that can be read nevertheless."""
        return tuple(
            f"{self.name}, {self.unit} {first}: {what}" + (f" (and {count - 1} rows more)" if count > 1 else "")
            for what, (first, count) in self._warnings.items()
        )

    def rows(self) -> Iterator[NumberedRow]:
        """Return all rows as they are, in place of `chunks`; rows before a name first occurs in JSON Lines are shorter.

        Raises:
            UserError: the file cannot be read, or a row is malformed.
        """
        return self._rows

    def chunks(self) -> Iterator[Chunk]:
        """Yield the rows that have any value.

        Raises:
            UserError: the file cannot be read, or a row is malformed.
        """
        while rows := list(islice(self._rows, CHUNK)):
            # Rows before a name first occurs in JSON Lines are shorter.
            columns = list(zip_longest(*(row for _, row in rows)))
            blank = set(range(len(rows)))
            for column in columns:
                blank &= {row for row, value in enumerate(column) if missing(value)}
                if not blank:
                    break
            self.blank += len(blank)
            numbers = [number for number, _ in rows]
            if blank:
                kept = [row for row in range(len(rows)) if row not in blank]
                numbers = [numbers[row] for row in kept]
                columns = [tuple(column[row] for row in kept) for column in columns]
            if numbers:
                yield Chunk(self, numbers, {name: columns[at] for name, at in self._positions.items()})


def missing(value: Any) -> bool:
    """Return whether a value is missing: null, not a number, or a string of white space only."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and math.isnan(value))
