"""Rows as they are in a file, with the numbers that an editor or a spreadsheet would show."""

from __future__ import annotations

import gzip
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from intaglio.errors import UserError


@dataclass(frozen=True)
class RawTable:
    """The rows of a data set by column, with the numbers that an editor or a spreadsheet would show.

    Attributes:
        name: name in messages, usually the file's path.
        unit: unit of `numbers`: "line" of a text file (on which the row begins) or "row" of a Parquet file, from 1.
        numbers: one per row, ascending.
        columns: values by column, in the file's own types; None for a missing value. Columns without a name, and those
            with a duplicate name, are left out.
        blank: number of rows without any value, which are left out.
        twice: duplicate column names.
        delimiter: of a delimited file whose first line names the columns.
        warnings: suspicious places that can be read nevertheless.
    """

    name: str
    unit: str
    numbers: Sequence[int]
    columns: dict[str, list[Any]]
    blank: int = 0
    twice: frozenset[str] = frozenset()
    delimiter: str | None = None
    warnings: tuple[str, ...] = ()

    def where(self, row: int) -> str:
        """Return the place of a row, given its position in the table, for a message."""
        return f"{self.name}, {self.unit} {self.numbers[row]}"


class TableBuilder:
    """Collects numbered rows as columns; leaves rows without any value out and counts them."""

    def __init__(self, name: str, unit: str, names: Sequence[str], delimiter: str | None = None) -> None:
        self._name, self._unit, self._delimiter = name, unit, delimiter
        self._twice = frozenset(column for column in names if column and names.count(column) > 1)
        kept = [(at, column) for at, column in enumerate(names) if column and column not in self._twice]
        self._columns: dict[str, list[Any]] = {column: [] for _, column in kept}
        self._targets = [(at, self._columns[column]) for at, column in kept]
        self._numbers: list[int] = []
        self._blank = 0
        self._warnings: dict[str, tuple[int, int]] = {}

    def add(self, number: int, row: Sequence[Any]) -> None:
        """Add a row, with one value per column."""
        if all(missing(value) for value in row):
            self._blank += 1
            return
        self._numbers.append(number)
        for at, column in self._targets:
            column.append(row[at])

    def warn(self, number: int, what: str) -> None:
        """Add a warning about a row; equal warnings are merged, which name the first row and count the others."""
        first, count = self._warnings.get(what, (number, 0))
        self._warnings[what] = first, count + 1

    def finish(self) -> RawTable:
        """Return the table."""
        warnings = tuple(
            f"{self._name}, {self._unit} {first}: {what}" + (f" (and {count - 1} rows more)" if count > 1 else "")
            for what, (first, count) in self._warnings.items()
        )
        return RawTable(
            self._name, self._unit, self._numbers, self._columns, self._blank, self._twice, self._delimiter, warnings
        )


def missing(value: Any) -> bool:
    """Return whether a value is missing: null, not a number, or a string of white space only."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return True
    return isinstance(value, str) and not value.strip()


def open_text(path: Path, name: str) -> IO[str]:
    """Open a text file in UTF-8 (compressed if it ends in `.gz`), after checking that all of it can be decoded.

    Raises:
        UserError: the file is not UTF-8, or not gzip.
    """
    opener = gzip.open if path.suffix.lower() == ".gz" else open
    line = 1
    try:
        with opener(path, "rb") as raw:
            for line, content in enumerate(raw, start=1):  # noqa: B007
                content.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{name}, line {line}: not UTF-8; convert the file, as in `iconv -f ENCODING -t UTF-8 OLD > NEW`"
        ) from error
    except (gzip.BadGzipFile, EOFError) as error:
        raise UserError(f"{name}: not readable as gzip ({error}); is the file whole?") from error
    return io.TextIOWrapper(opener(path, "rb"), encoding="utf-8-sig", newline="")
