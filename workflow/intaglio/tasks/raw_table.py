"""Rows as they stand in a file, numbered as whoever opens it would count them."""

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
    """The rows of a data set, column by column, numbered as whoever opens the file would count them.

    Attributes:
        name: what the table is called in messages, a file's path mostly.
        unit: what `numbers` count: "line" of a text file (where the row begins) or "row" of a Parquet file, from 1.
        numbers: one a row, ascending.
        columns: values by column, in the file's own types; None where a value is missing. Columns without a name are
            left out, and those whose name stands there twice.
        blank: rows without any value, which were left out.
        twice: names of several columns, which say too little to be used.
        delimiter: of a delimited file whose first line named the columns.
        warnings: what looks wrong though it can be read.
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
        """Name a row by its position in the table, for a message."""
        return f"{self.name}, {self.unit} {self.numbers[row]}"


class TableBuilder:
    """Collects numbered rows as columns; rows without any value are left out and counted."""

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
        """Add a row of as many values as there are names."""
        if all(missing(value) for value in row):
            self._blank += 1
            return
        self._numbers.append(number)
        for at, column in self._targets:
            column.append(row[at])

    def warn(self, number: int, what: str) -> None:
        """Warn of a row; the first that a warning holds for is named, the others are counted."""
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
    """Tell whether a value is absent: null, not a number, or a string of white space only."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return True
    return isinstance(value, str) and not value.strip()


def open_text(path: Path, name: str) -> IO[str]:
    """Open a text file in UTF-8, compressed where it ends in `.gz`, after checking that all of it can be read.

    Raises:
        UserError: it is not UTF-8, or not gzip.
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
