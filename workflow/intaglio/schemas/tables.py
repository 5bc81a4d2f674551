"""Writing and reading tables, checked against their schema."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from intaglio.errors import UserError, first_line, nearest
from intaglio.schemas.fields import describe
from intaglio.store import new_file


def write_table(
    path: Path, rows: Sequence[Mapping[str, Any]] | Any, schema: Any, metadata: Mapping[str, Any] | None = None
) -> None:
    """Write a table atomically.

    Args:
        path: the Parquet file.
        rows: dicts (a nullable column may be left out), or a pyarrow.Table.
        schema: one of `intaglio.schemas`; only its columns are accepted.
        metadata: further schema metadata of the file; values other than strings are stored as JSON.

    Raises:
        UserError: a column is missing or unknown, has another type, or has nulls that its field excludes.
    """
    table = conform(rows if isinstance(rows, pa.Table) else _from_rows(rows, schema, path), schema, path)
    extra = {key: value if isinstance(value, str) else json.dumps(value) for key, value in (metadata or {}).items()}
    table = table.replace_schema_metadata({**schema.metadata, **extra})
    with new_file(path) as draft:
        # Most tables are small, and with zstd each column of each takes longer to read than its values.
        pq.write_table(table, draft, compression="snappy")


# Bytes of the rows that a growing table keeps in memory.
_KEPT = 16_000_000


class TableWriter:
    """A Parquet file that grows by batches of rows; at no time is it in memory as a whole.

    Args:
        path: the file.
        schema: one of `intaglio.schemas`.
    """

    def __init__(self, path: Path, schema: Any) -> None:
        self._path, self._schema = path, schema
        self._file = pq.ParquetWriter(path, schema, compression="zstd")
        self._waiting: list[Any] = []
        self._bytes = 0

    def add(self, rows: Sequence[Mapping[str, Any]] | Any) -> None:
        """Add rows, as `write_table` takes them.

        Raises:
            UserError: as `write_table`.
        """
        table = rows if isinstance(rows, pa.Table) else _from_rows(rows, self._schema, self._path)
        self._waiting.append(table)
        self._bytes += table.nbytes
        if self._bytes > _KEPT:
            self._write()

    def _write(self) -> None:
        if self._waiting:
            self._file.write_table(conform(pa.concat_tables(self._waiting), self._schema, self._path))
            self._waiting.clear()
            self._bytes = 0

    def close(self) -> None:
        """Write what is left."""
        self._write()
        self._file.close()


def read_table(path: Path, schema: Any, columns: Sequence[str] | None = None) -> Any:
    """Read a table and check it; the file's own metadata is kept in `table.schema.metadata`.

    Args:
        path: the Parquet file.
        schema: its schema.
        columns: of the schema, to be read alone.

    Raises:
        UserError: the file is missing, not Parquet, or does not have this schema.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such table; run the job that makes it")
    try:
        # Not pyarrow.parquet.read_table, which adds columns for parent folders named KEY=VALUE.
        table = pq.ParquetFile(path).read(columns=columns, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: no readable Parquet file ({first_line(error)}); delete it and run again") from error
    return conform(table, schema if columns is None else _chosen(schema, columns), path)


def _chosen(schema: Any, columns: Sequence[str]) -> Any:
    """Return the schema of some columns of a table."""
    return pa.schema([schema.field(name) for name in columns], metadata=schema.metadata)


def _from_rows(rows: Sequence[Mapping[str, Any]], schema: Any, path: Path) -> Any:
    names = [str(name) for name in schema.names]
    known = set(names)
    for number, row in enumerate(rows):
        for name in row.keys() - known:
            raise UserError(f"{path}: row {number}: unknown column {name!r}, {nearest(name, names)}")
    columns = []
    for field in schema:
        try:
            columns.append(pa.array([row.get(field.name) for row in rows], type=field.type))
        except (pa.ArrowException, TypeError, OverflowError) as error:
            raise UserError(f"{path}: column {field.name!r} must be {field.type}: {first_line(error)}") from error
    return pa.table(columns, schema=pa.schema([field.with_nullable(True) for field in schema]))


def as_array(column: Any) -> NDArray[Any]:
    """Return an Arrow column as an array, [rows], or [rows, items] where it holds lists of one length.

    Lists of structures, as accepted answers are, become lists of dictionaries in an array of objects, [rows].
    """
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if not pa.types.is_list(column.type):
        return np.asarray(column.to_numpy(zero_copy_only=False))
    rows = len(column)
    if pa.types.is_struct(column.type.value_type):
        lists = np.empty(rows, dtype=object)
        for row, of_row in enumerate(column.to_pylist()):
            lists[row] = of_row
        return lists
    return np.asarray(column.flatten().to_numpy(zero_copy_only=False)).reshape(rows, -1 if rows else 0)


def as_column(values: NDArray[Any], kind: Any) -> Any:
    """Return an array as an Arrow column of this type; [rows, items] becomes lists."""
    if values.ndim == 1:
        return pa.array(values, kind)
    offsets = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    return pa.ListArray.from_arrays(offsets, pa.array(values.ravel(), kind.value_type))


def conform(table: Any, schema: Any, path: Path) -> Any:
    """Return the table with the schema's columns in their order and types.

    Raises:
        UserError: a column is missing or unknown, cannot be cast without loss, or has nulls that its field excludes.
    """
    if table.schema.equals(schema):
        return table
    kind, names = schema.metadata[b"table"].decode(), list(schema.names)
    for name in table.column_names:
        if name not in names:
            raise UserError(f"{path}: not a {kind} table: unknown column {name!r}, {nearest(name, names)}")
    columns = []
    for field in schema:
        if field.name not in table.column_names:
            raise UserError(f"{path}: not a {kind} table: column {field.name!r} is missing; run the job that makes it")
        column = table.column(field.name)
        if not field.nullable and column.null_count:
            row = column.is_null().index(True).as_py()
            raise UserError(f"{path}: column {field.name!r} is empty in row {row}: {describe(schema)[field.name]}")
        try:
            columns.append(column if column.type == field.type else column.cast(field.type))
        except pa.ArrowException as error:
            raise UserError(f"{path}: column {field.name!r} must be {field.type}, not {column.type}") from error
    return pa.table(columns, schema=schema.with_metadata(table.schema.metadata))
