"""Writing of rows as CSV, TSV, JSON Lines or Parquet, part by part."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from intaglio.errors import UserError
from intaglio.predict.rows import Column, as_objects
from intaglio.reading.read import DELIMITERS, JSON_LINES, PARQUET
from intaglio.suffixes import COMPRESSIONS, data_suffix

# Takes the columns of successive rows.
Write = Callable[[Sequence[Column]], None]
_TEXT = pa.string()
_COMPRESSORS: dict[str, Callable[[Path], Any]] = {
    ".gz": partial(gzip.open, mode="wb", compresslevel=6),
    ".bz2": partial(bz2.open, mode="wb"),
    ".xz": partial(lzma.open, mode="wb"),
    ".zst": partial(pa.output_stream, compression="zstd"),
}


@contextmanager
def new_table(path: Path, fields: Sequence[pa.Field], delimiter: str | None, quotes: bool | None) -> Iterator[Write]:
    """Yield a function that writes columns of successive rows; on leaving without an error the file is at `path`.

    Args:
        path: the file; its suffix tells the format, and the compression of text.
        fields: names and types of the columns; in Parquet they have these types.
        delimiter: of a file whose suffix does not tell it.
        quotes: whether fields are quoted where they have to be; by default they are unless tabs delimit.

    Raises:
        UserError: the suffix is unknown, the file cannot be written, or a value cannot be written in this format.
    """
    # Beside the file, so that it can be renamed; of this process alone.
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with _opened(path, draft, fields, delimiter, quotes) as write:
            yield write
        draft.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); give another --output") from error
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def _opened(
    path: Path, draft: Path, fields: Sequence[pa.Field], delimiter: str | None, quotes: bool | None
) -> Iterator[Write]:
    compression = path.suffix.lower() if path.suffix.lower() in COMPRESSIONS else ""
    suffix = data_suffix(path).removesuffix(compression)
    delimiter = DELIMITERS.get(suffix, delimiter)
    if suffix in PARQUET and not compression:
        schema = pa.schema(fields)
        with pq.ParquetWriter(draft, schema) as writer:
            yield lambda columns: writer.write_batch(_batch(columns, schema))
    elif suffix in JSON_LINES:
        with _text(draft, compression) as lines:
            names = [field.name for field in fields]
            yield lambda columns: lines.writelines(_objects(columns, names))
    elif delimiter is not None:
        with _text(draft, compression) as lines:
            yield _delimited(lines, path, [field.name for field in fields], delimiter, quotes)
    else:
        known = ", ".join([*DELIMITERS, *sorted(JSON_LINES | PARQUET)])
        raise UserError(f"{path}: unknown suffix {path.suffix!r} (known: {known}); give another --output")


def _text(draft: Path, compression: str) -> IO[str]:
    raw = _COMPRESSORS[compression](draft) if compression else draft.open("wb")
    return io.TextIOWrapper(raw, encoding="utf-8", newline="")


def _batch(columns: Sequence[Column], schema: pa.Schema) -> pa.RecordBatch:
    arrays = []
    for column, kind in zip(columns, schema.types, strict=True):
        if isinstance(column, pa.Array):
            arrays.append(column)
        else:
            arrays.append(pa.array([_plain(value) for value in column] if kind == _TEXT else column, kind))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _plain(value: Any) -> Any:
    """Return a value of JSON as text; what is no text as JSON."""
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _objects(columns: Sequence[Column], names: Sequence[str]) -> Iterator[str]:
    for row in zip(*map(as_objects, columns), strict=True):
        yield json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False, default=str) + "\n"


def _delimited(lines: IO[str], path: Path, names: Sequence[str], delimiter: str, quotes: bool | None) -> Write:
    if delimiter != "\t" if quotes is None else quotes:
        writer = csv.writer(lines, delimiter=delimiter, lineterminator="\n")
    else:
        writer = csv.writer(lines, delimiter=delimiter, lineterminator="\n", quoting=csv.QUOTE_NONE, quotechar=None)

    def write(columns: Sequence[Column]) -> None:
        try:
            writer.writerows(zip(*([_field(value) for value in as_objects(column)] for column in columns), strict=True))
        except csv.Error as error:
            raise UserError(f"{path}: a value holds a delimiter or a line break; write .csv or .jsonl") from error

    writer.writerow(names)
    return write


def _field(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | dict) else value
