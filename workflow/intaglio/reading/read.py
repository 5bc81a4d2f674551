"""Reading a file of examples as a table: CSV and other delimited text, JSON Lines, Parquet.

Values are not interpreted: in a text file every field is a string (including `NA` and `null`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from intaglio.errors import UserError, shown
from intaglio.reading.delimited import read_delimited
from intaglio.reading.raw_table import CHUNK, NumberedRow, RawTable
from intaglio.reading.text import open_text
from intaglio.suffixes import COMPRESSIONS, data_suffix

DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
JSON_LINES = {".jsonl", ".ndjson", ".json"}
PARQUET = {".parquet", ".pq"}
_SPREADSHEETS = {".xlsx", ".xls", ".ods"}
_ARCHIVES = {".zip", ".7z", ".tar", ".tgz"}
_COMPRESSED = "compressed by {}; rename it to end in {}, after the suffix that tells its format"
# First bytes of a file, the suffixes that fit them, and the message for any other suffix.
_OTHERS = (
    ((b"PAR1",), PARQUET, "a Parquet file by its content; rename it to end in .parquet"),
    ((b"\x1f\x8b",), {".gz"}, _COMPRESSED.format("gzip", ".gz")),
    ((b"BZh91AY&SY",), {".bz2"}, _COMPRESSED.format("bzip2", ".bz2")),
    ((b"\xfd7zXZ\x00",), {".xz"}, _COMPRESSED.format("xz", ".xz")),
    ((b"\x28\xb5\x2f\xfd",), {".zst"}, _COMPRESSED.format("zstd", ".zst")),
    ((b"PK\x03\x04",), set[str](), "a spreadsheet or an archive by its content; save it as CSV in UTF-8"),
    ((b"\xff\xfe", b"\xfe\xff"), set[str](), "UTF-16; save it as UTF-8"),
    ((b"<!DOCTYPE", b"<!doctype", b"<html"), set[str](), "a web page, not the data; download the file itself"),
    ((b"version https://git-lfs",), set[str](), "a pointer of Git LFS, not the data; run `git lfs pull`"),
)
# Half of a surrogate pair: JSON can contain one alone, but no encoding of Unicode can.
_HALF_PAIR = re.compile("[\ud800-\udfff]")


def read_raw_table(
    paths: Sequence[Path],
    name: str,
    columns: list[str] | None = None,
    delimiter: str | None = None,
    quotes: bool | None = None,
) -> RawTable:
    """Read one file, or the Parquet files of one table.

    Args:
        paths: one file of any format, or several Parquet files in order.
        name: name of the table in messages.
        columns: names of the columns, for a delimited file without a header line.
        delimiter: of a delimited file; by default the suffix decides (.csv, .tsv, .tab, or these and a compression's).
        quotes: whether double quotes enclose fields; by default they do unless tabs delimit.

    Returns:
        The table. Reading it raises a UserError that names the line if a line is malformed.

    Raises:
        UserError: there is no such file, or its suffix is unknown.
    """
    path = paths[0]
    _check_file(path, name)
    compressed = path.suffix.lower() in COMPRESSIONS
    suffix = data_suffix(path).removesuffix(path.suffix.lower() if compressed else "")
    if compressed and suffix in PARQUET:
        raise UserError(f"{name}: Parquet is compressed within; decompress the file")
    if delimiter is None and suffix in JSON_LINES | PARQUET:
        if columns is not None:
            raise UserError(f"{name}: `columns` name the fields of a text file without a header; leave it out here")
        return _read_parquet(paths, name) if suffix in PARQUET else _read_json_lines(path, name)
    delimiter = delimiter or DELIMITERS.get(suffix)
    if delimiter is None:
        known = ", ".join([*DELIMITERS, *sorted(JSON_LINES | PARQUET)])
        raise UserError(f"{name}: unknown suffix {suffix!r} (known: {known}); rename the file or give its `delimiter`")
    return read_delimited(path, name, columns, delimiter, delimiter != "\t" if quotes is None else quotes)


def _check_file(path: Path, name: str) -> None:
    if path.is_dir():
        raise UserError(f"{name}: a folder; name the file in it")
    if not path.is_file():
        raise UserError(f"{path}: no such file (looked from {Path.cwd()}); check `source` in the study file")
    if path.suffix.lower() in _SPREADSHEETS:
        raise UserError(f"{name}: a spreadsheet; save it as CSV in UTF-8 and name that file")
    if path.suffix.lower() in _ARCHIVES:
        raise UserError(f"{name}: an archive; extract the file from it (it may be compressed: .gz, .bz2, .xz, .zst)")
    try:
        with path.open("rb") as file:
            begin = file.read(64)
    except OSError as error:
        raise UserError(f"{name}: not readable ({error.strerror})") from error
    suffixes = {suffix.lower() for suffix in path.suffixes}
    for signs, suffix, what in _OTHERS:
        if begin.startswith(signs) and not suffix & suffixes:
            raise UserError(f"{name}: {what}")
    if not path.stat().st_size:
        raise UserError(f"{name}: an empty file; check `source` in the study file")


def _read_json_lines(path: Path, name: str) -> RawTable:
    def read(table: RawTable) -> Iterator[NumberedRow]:
        names = dict[str, None]()
        with open_text(path, name) as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                record = _record(line, f"{name}, line {number}")
                if "\\u" in line:
                    whole = _whole(record)
                    if whole != record:
                        table.warn(number, "half a surrogate pair is no character; it became U+FFFD")
                    record = whole
                if not record.keys() <= names.keys():
                    names |= dict.fromkeys(record)
                    table.begin(list(names))
                yield number, [record.get(key) for key in names]
        if not names:
            raise UserError(f"{name}: no line with an object; check `source` in the study file")

    return RawTable(name, "line", read)


def _whole(value: Any) -> Any:
    """Return a value of JSON with U+FFFD for every half of a surrogate pair."""
    if isinstance(value, str):
        return _HALF_PAIR.sub("\N{REPLACEMENT CHARACTER}", value)
    if isinstance(value, list):
        return [_whole(item) for item in value]
    if isinstance(value, dict):
        return {_whole(key): _whole(item) for key, item in value.items()}
    return value


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON, in which no key occurs twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _TwiceError(next(name for name in names if names.count(name) > 1))
    return found


class _TwiceError(Exception):
    """A key that occurs twice in an object of JSON."""


_DECODER = json.JSONDecoder(object_pairs_hook=_distinct)


def _record(line: str, where: str) -> dict[str, Any]:
    try:
        record = _DECODER.decode(line)
    except _TwiceError as error:
        raise UserError(f"{where}: the key {shown(str(error))} occurs twice in an object; leave one of them") from error
    except (ValueError, RecursionError) as error:  # a number of too many digits is a ValueError
        what = error.msg if isinstance(error, json.JSONDecodeError) else error
        raise UserError(f"{where}: not JSON ({what}); give one object a line") from error
    if not isinstance(record, dict):
        raise UserError(f"{where}: a {type(record).__name__}, not an object; give one object a line")
    return record


def _read_parquet(paths: Sequence[Path], name: str) -> RawTable:
    def read(table: RawTable) -> Iterator[NumberedRow]:
        number = 0
        try:
            for path in paths:
                file = pq.ParquetFile(path)
                names = file.schema_arrow.names
                if path is paths[0]:
                    table.begin(names)
                elif names != pq.ParquetFile(paths[0]).schema_arrow.names:
                    raise UserError(f"{name}: {path.name} has other columns than {paths[0].name}; fetch them again")
                for batch in file.iter_batches(CHUNK):
                    for row in zip(*map(_values, batch.columns), strict=True):
                        number += 1
                        yield number, row
        except UnicodeDecodeError as error:
            raise UserError(f"{name}, after row {number}: a text is not UTF-8; write the file again") from error
        except (pa.ArrowException, OSError) as error:
            raise UserError(
                f"{name}: not readable as Parquet ({str(error).splitlines()[0]}); is the file whole?"
            ) from error

    return RawTable(name, "row", read)


def _values(column: pa.Array) -> list[Any]:
    try:
        return list(column.to_pylist())
    except OverflowError:  # times beyond Python's; nobody may need the column
        return list(column.cast(pa.int64()).to_pylist())
