"""The rows of a file, in parts that fit into memory; the columns keep their order and, in Parquet, their types."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from intaglio.errors import UserError, first_line, nearest, shown
from intaglio.reading.raw_table import CHUNK, RawTable, missing
from intaglio.reading.read import PARQUET, read_raw_table
from intaglio.suffixes import data_suffix

# Values of a column: as Python objects, or of a Parquet file as Arrow's array.
Column: TypeAlias = Sequence[Any] | pa.Array


class Part(NamedTuple):
    """Successive rows of a file.

    Attributes:
        numbers: one per row, as the file's reader counts them: lines of text, or rows of Parquet.
        columns: all columns of the file.
    """

    numbers: Sequence[int]
    columns: list[Column]


class FileRows:
    """A file of CSV, TSV, JSON Lines or Parquet.

    A file of text is read through once when it is opened: so a malformed line is found before anything is predicted,
    and the number of rows and all columns are known.

    Args:
        path: the file; text may be compressed.
        delimiter: of a delimited file; by default its suffix decides.
        quotes: whether double quotes enclose fields; by default they do unless tabs delimit.

    Attributes:
        names: of the columns.
        count: number of rows.
        unit: of the rows' numbers, `line` or `row`.
        types: the schema of a Parquet file; None for text.

    Raises:
        UserError: the file is missing, of an unknown format, damaged, or malformed.
    """

    def __init__(self, path: Path, delimiter: str | None = None, quotes: bool | None = None) -> None:
        self.path, self._options = path, (None, delimiter, quotes)
        if not path.exists():
            raise UserError(f"{path}: no such file (looked from {Path.cwd()})")
        if not path.stat().st_size:
            raise UserError(f"{path}: an empty file")
        table = self._table()
        self.types = None
        if delimiter is None and data_suffix(path) in PARQUET:
            try:
                file = pq.ParquetFile(path)
            except (pa.ArrowException, OSError) as error:
                raise self._unreadable(error) from error
            self.types = file.schema_arrow.remove_metadata()
            self.names, self.count, self.unit = list(self.types.names), file.metadata.num_rows, "row"
            return
        self.count = sum(1 for _ in table.rows())
        self.names, self.unit = table.header, table.unit

    def _table(self) -> RawTable:
        return read_raw_table([self.path], str(self.path), *self._options)

    def parts(self) -> Iterator[Part]:
        """Yield the rows in their order.

        Raises:
            UserError: the file is damaged.
        """
        if self.types is not None:
            yield from self._of_parquet()
            return
        rows = self._table().rows()
        while some := list(islice(rows, CHUNK)):
            columns: list[Column] = list(zip_longest(*(row for _, row in some)))
            columns += [[None] * len(some)] * (len(self.names) - len(columns))
            yield Part([number for number, _ in some], columns)

    def _of_parquet(self) -> Iterator[Part]:
        first = 1
        try:
            for batch in pq.ParquetFile(self.path).iter_batches(CHUNK):
                batch.validate(full=True)  # of texts, that they are UTF-8
                yield Part(range(first, first + batch.num_rows), batch.columns)
                first += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> UserError:
        return UserError(f"{self.path}: not readable as Parquet ({first_line(error)}); is the file whole?")

    def positions(self, columns: Sequence[str]) -> list[int]:
        """Return the positions of columns with these names.

        Raises:
            UserError: a column is missing, or two have its name.
        """
        for name in columns:
            if name not in self.names:
                raise UserError(
                    f"{self.path}: no column {name!r}, {nearest(name, filter(None, self.names))} "
                    "(--columns names the columns of the texts)"
                )
            if self.names.count(name) > 1:
                raise UserError(f"{self.path}: two columns are named {name!r}; rename one")
        return [self.names.index(name) for name in columns]


def as_objects(column: Column) -> list[Any]:
    """Return a column as Python objects; times as text, which holds any of their precisions."""
    if not isinstance(column, pa.Array):
        return list(column)
    if pa.types.is_temporal(column.type):
        column = column.cast(pa.string())
    values: list[Any] = column.to_pylist()
    return values


def usable_texts(
    part: Part, positions: Sequence[int], names: Sequence[str], required: int
) -> tuple[list[Any], list[str | None]]:
    """Return the texts of a part's rows, and why those of a row cannot be used.

    Args:
        part: the rows.
        positions: of the column of texts, or of two columns for pairs.
        names: of these columns.
        required: number of texts that may not be missing.

    Returns:
        For each row the text, or a tuple of two; and the reason, None for usable ones.
    """
    columns = [as_objects(part.columns[at]) for at in positions]
    reasons: list[str | None] = [None] * len(part.numbers)
    for number, (name, column) in enumerate(zip(names, columns, strict=True)):
        for row, value in enumerate(column):
            if missing(value):
                column[row] = ""
                if number < required:
                    reasons[row] = f"no text in column {name!r}"
            elif not isinstance(value, str):
                column[row] = ""
                reasons[row] = f"column {name!r} holds {shown(value)}, not a text"
    return (columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))), reasons
