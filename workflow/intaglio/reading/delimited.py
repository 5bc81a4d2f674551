"""Delimited text as a table: fields are strings, and a row's number is the line on which it begins.

Nothing is guessed: if a file seems to have another format than the one it is read in, a message says so.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from intaglio.errors import UserError, shown
from intaglio.reading.raw_table import NumberedRow, RawTable
from intaglio.reading.text import open_text

# A field that spans more lines causes a warning: a stray quote may have opened it.
_LONG_FIELD = 20


def read_delimited(path: Path, name: str, columns: list[str] | None, delimiter: str, quotes: bool) -> RawTable:
    """Read a delimited file.

    Args:
        path: the file; compressed if its suffix says so.
        name: its name in messages.
        columns: names of the columns, for a file without a header line.
        delimiter: one character.
        quotes: whether double quotes enclose fields.

    Returns:
        The table. Reading it raises a UserError if the file is not UTF-8, or if a row is malformed or differs from the
        header in its number of fields.
    """

    def read(table: RawTable) -> Iterator[NumberedRow]:
        with open_text(path, name) as lines:
            rows = _rows(lines, name, delimiter, quotes)
            names = columns
            if names is None:
                names = [column.strip() for column in next((row for _, _, row in rows if row), [])]
            if not names:
                raise UserError(f"{name}: no line with a field; check `source` in the study file")
            table.begin(names, delimiter if columns is None else None)
            yield from _checked(table, names, rows, quotes)

    return RawTable(name, "line", read)


def _checked(
    table: RawTable, columns: list[str], rows: Iterator[tuple[int, int, list[str]]], quotes: bool
) -> Iterator[NumberedRow]:
    """Yield rows with as many fields as there are columns; other rows are refused, but for empty ones."""
    quoted = False
    empty = [""] * len(columns)
    for number, span, row in rows:
        if row and len(row) != len(columns):
            why = _why(columns, span, quotes)
            raise UserError(f"{table.name}, line {number}: {len(row)} fields instead of {len(columns)} {why}")
        if span > _LONG_FIELD:
            table.warn(number, f"a field spans {span} lines; if a quote is stray there, double it")
        if not quotes and not quoted and _looks_quoted(row):
            quoted = True
            table.warn(number, "looks quoted; if so, set `quotes: true`")
        yield number, row or empty


def _rows(lines: IO[str], name: str, delimiter: str, quotes: bool) -> Iterator[tuple[int, int, list[str]]]:
    """Yield the line on which a row begins, the number of lines that it spans, and its fields."""
    csv.field_size_limit(sys.maxsize)  # the module's default refuses texts of more than 128 KiB
    try:
        reader = csv.reader(
            lines, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE, strict=True
        )
    except TypeError as error:
        raise UserError(f"{name}: delimiter {delimiter!r} is not one character") from error
    begins, first = 1, list[str]()
    try:
        for row in reader:
            first = first or row
            yield begins, reader.line_num + 1 - begins, row
            begins = reader.line_num + 1
    except csv.Error as error:
        hint = _of_delimiter(first) or (
            "; double a quote within a quoted field, or set `quotes: false` if quotes are ordinary characters here"
        )
        raise UserError(f"{name}, line {begins}: malformed ({error}){hint}") from error


def _why(columns: list[str], span: int, quotes: bool) -> str:
    """Return a possible reason for the wrong number of fields."""
    if span > 1:
        return f"(a field spans {span} lines: a stray quote?)"
    if len(columns) == 1 and other_delimiter(columns) is None:
        return f"(line 1 names one column, {shown(columns[0])}; it should be the header line)"
    hint = "; if fields are in double quotes, set `quotes: true`" if not quotes else ""
    return f"(a stray delimiter?){_of_delimiter(columns) or hint}"


def _of_delimiter(header: list[str]) -> str:
    other = other_delimiter(header)
    return f"; if {other!r} delimits, set `delimiter: {other!r}`" if other else ""


def other_delimiter(columns: list[str]) -> str | None:
    """Return the delimiter that a header with a single field probably has; None if no other delimiter occurs in it."""
    return next((sign for sign in (";", "\t", "|", ",") if len(columns) == 1 and sign in columns[0]), None)


def _looks_quoted(row: list[str]) -> bool:
    return any(len(field) > 4 and field[0] == field[-1] == '"' and '""' in field[1:-1] for field in row)
