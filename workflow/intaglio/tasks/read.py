"""Reading a file of examples as a table: CSV and other delimited text, JSON Lines, Parquet.

Nothing is guessed about values: in a text file every field is a string (`NA` and `null` are words like any other).
"""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from intaglio.errors import UserError

DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
JSON_LINES = {".jsonl", ".ndjson", ".json"}
PARQUET = {".parquet", ".pq"}


@dataclass(frozen=True)
class RawTable:
    """The rows of a data set, column by column, numbered as whoever opens the file would count them.

    Attributes:
        name: what the table is called in messages, a file's path mostly.
        unit: what `numbers` count: "line" of a text file (where the row begins) or "row" of a Parquet file, from 1.
        numbers: one a row, ascending.
        columns: values by column, in the file's own types; None where a value is missing.
        blank: rows without any value, which were left out.
    """

    name: str
    unit: str
    numbers: Sequence[int]
    columns: dict[str, list[Any]]
    blank: int = 0

    def where(self, row: int) -> str:
        """Name a row by its position in the table, for a message."""
        return f"{self.name}, {self.unit} {self.numbers[row]}"


def missing(value: Any) -> bool:
    """Tell whether a value is absent: null, not a number, or a string of white space only."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return True
    return isinstance(value, str) and not value.strip()


def read_raw_table(
    paths: Sequence[Path],
    name: str,
    columns: list[str] | None = None,
    delimiter: str | None = None,
    quotes: bool | None = None,
) -> RawTable:
    """Read one file, or the Parquet files that a table was cut into.

    Args:
        paths: one file of any format, or several Parquet files in order.
        name: what to call the table in messages.
        columns: names of the columns of a delimited file that has no header line.
        delimiter: of a delimited file; without it the suffix tells (.csv, .tsv, .tab).
        quotes: whether double quotes enclose fields; without it they do unless tabs delimit.

    Raises:
        UserError: no such file, an unknown suffix, or a malformed line, which is named.
    """
    path = paths[0]
    if not path.is_file():
        raise UserError(f"{path}: no such file (looked from {Path.cwd()}); check `source` in the study file")
    suffix = path.suffix.lower()
    if delimiter is None and suffix in JSON_LINES | PARQUET:
        if columns is not None:
            raise UserError(f"{name}: `columns` name the fields of a text file without a header; leave it out here")
        return _read_parquet(paths, name) if suffix in PARQUET else _read_json_lines(path, name)
    delimiter = delimiter or DELIMITERS.get(suffix)
    if delimiter is None:
        known = ", ".join([*DELIMITERS, *sorted(JSON_LINES | PARQUET)])
        raise UserError(f"{name}: unknown suffix {suffix!r} (known: {known}); rename the file or give its `delimiter`")
    return _read_delimited(path, name, columns, delimiter, delimiter != "\t" if quotes is None else quotes)


def _text(path: Path, name: str) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{name}, line {line}: not UTF-8; convert the file, as in `iconv -f ENCODING -t UTF-8 OLD > NEW`"
        ) from error


def _table(name: str, unit: str, names: Sequence[str], rows: Iterable[tuple[int, Sequence[Any]]]) -> RawTable:
    """Turn numbered rows into columns; rows without any value are left out and counted."""
    numbers, kept, blank = [], [], 0
    for number, row in rows:
        if all(missing(value) for value in row):
            blank += 1
        else:
            numbers.append(number)
            kept.append(row)
    return RawTable(name, unit, numbers, {column: [row[at] for row in kept] for at, column in enumerate(names)}, blank)


def _read_delimited(path: Path, name: str, columns: list[str] | None, delimiter: str, quotes: bool) -> RawTable:
    csv.field_size_limit(sys.maxsize)  # the module's default refuses texts of more than 128 KiB
    lines = io.StringIO(_text(path, name), newline="")
    try:
        reader = csv.reader(
            lines, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE, strict=True
        )
    except TypeError as error:
        raise UserError(f"{name}: delimiter {delimiter!r} is not one character") from error
    rows, begins = [], 1
    try:
        for row in reader:
            rows.append((begins, row))
            begins = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{name}, line {begins}: malformed ({error}); double a quote within a quoted field, or set `quotes: false`"
            " if quotes are ordinary characters here"
        ) from error
    if columns is None:
        header = next((row for _, row in rows if row), [])
        rows = rows[next((at + 1 for at, (_, row) in enumerate(rows) if row), 0) :]
        columns = [column.strip() for column in header]
    twice = [column for column in columns if columns.count(column) > 1]
    if twice:
        raise UserError(f"{name}: two columns are named {twice[0]!r}; rename one")
    rows = [(number, row or [""] * len(columns)) for number, row in rows]
    for number, row in rows:
        if len(row) != len(columns):
            hint = "; if fields stand in double quotes, set `quotes: true`" if not quotes else ""
            raise UserError(
                f"{name}, line {number}: {len(row)} fields instead of {len(columns)} (a stray delimiter?){hint}"
            )
    if not quotes:
        _warn_of_quoting(name, rows)
    return _table(name, "line", columns, rows)


def _warn_of_quoting(name: str, rows: Iterable[tuple[int, list[str]]]) -> None:
    """Warn where a file that is read without quoting looks as if it had been written with it."""
    for number, row in rows:
        if any(len(field) > 4 and field[0] == field[-1] == '"' and '""' in field[1:-1] for field in row):
            print(f"warning: {name}, line {number} looks quoted; if so, set `quotes: true`", file=sys.stderr)
            return


def _read_json_lines(path: Path, name: str) -> RawTable:
    records: list[tuple[int, dict[str, Any]]] = []
    for number, line in enumerate(_text(path, name).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{name}, line {number}: not JSON ({error.msg}); give one object a line") from error
        if not isinstance(record, dict):
            raise UserError(f"{name}, line {number}: a {type(record).__name__}, not an object; give one object a line")
        records.append((number, record))
    names = list(dict.fromkeys(key for _, record in records for key in record))
    return _table(name, "line", names, ((number, [record.get(key) for key in names]) for number, record in records))


def _read_parquet(paths: Sequence[Path], name: str) -> RawTable:
    try:
        table = pa.concat_tables([pq.ParquetFile(path).read() for path in paths])
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(
            f"{name}: not readable as Parquet ({str(error).splitlines()[0]}); is the file whole?"
        ) from error
    twice = [column for column in table.column_names if table.column_names.count(column) > 1]
    if twice:
        raise UserError(f"{name}: two columns are named {twice[0]!r}; rename one")
    values = [column.to_pylist() for column in table.columns]
    return _table(name, "row", table.column_names, enumerate(zip(*values, strict=True), start=1))
