"""Reading a file of examples as a table: CSV and other delimited text, JSON Lines, Parquet.

Values are not interpreted: in a text file every field is a string (including `NA` and `null`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from intaglio.errors import UserError
from intaglio.reading.delimited import read_delimited
from intaglio.reading.raw_table import RawTable, TableBuilder, open_text
from intaglio.study.sources import data_suffix

DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
JSON_LINES = {".jsonl", ".ndjson", ".json"}
PARQUET = {".parquet", ".pq"}
_SPREADSHEETS = {".xlsx", ".xls", ".ods"}
_COMPRESSED = {".zip", ".bz2", ".xz", ".zst", ".7z", ".tar", ".tgz"}
# First bytes of a file, the suffixes that fit them, and the message for any other suffix.
_OTHERS = (
    ((b"PAR1",), PARQUET, "a Parquet file by its content; rename it to end in .parquet"),
    ((b"\x1f\x8b",), {".gz"}, "compressed by gzip; rename it to end in .gz, after the suffix that tells its format"),
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
        delimiter: of a delimited file; by default the suffix decides (.csv, .tsv, .tab, or these with .gz).
        quotes: whether double quotes enclose fields; by default they do unless tabs delimit.

    Raises:
        UserError: there is no such file, its suffix is unknown, or a line is malformed; names the line.
    """
    path = paths[0]
    _check_file(path, name)
    suffix = data_suffix(path).removesuffix(".gz")
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
    if path.suffix.lower() in _COMPRESSED:
        raise UserError(f"{name}: a compressed file; decompress it, or compress it by gzip, which is read as it is")
    with path.open("rb") as file:
        begin = file.read(64)
    suffixes = {suffix.lower() for suffix in path.suffixes}
    for signs, suffix, what in _OTHERS:
        if begin.startswith(signs) and not suffix & suffixes:
            raise UserError(f"{name}: {what}")
    if not path.stat().st_size:
        raise UserError(f"{name}: an empty file; check `source` in the study file")


def _read_json_lines(path: Path, name: str) -> RawTable:
    records: list[tuple[int, dict[str, Any]]] = []
    with open_text(path, name) as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                records.append((number, _record(line, f"{name}, line {number}")))
    names = list(dict.fromkeys(key for _, record in records for key in record))
    table = TableBuilder(name, "line", names)
    for number, record in records:
        row = [record.get(key) for key in names]
        for at, value in enumerate(row):
            if isinstance(value, str) and _HALF_PAIR.search(value):
                row[at] = _HALF_PAIR.sub("\N{REPLACEMENT CHARACTER}", value)
                table.warn(number, "half a surrogate pair is no character; it became U+FFFD")
        table.add(number, row)
    return table.finish()


def _record(line: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON ({error.msg}); give one object a line") from error
    if not isinstance(record, dict):
        raise UserError(f"{where}: a {type(record).__name__}, not an object; give one object a line")
    return record


def _read_parquet(paths: Sequence[Path], name: str) -> RawTable:
    try:
        content = pa.concat_tables([pq.ParquetFile(path).read() for path in paths])
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(
            f"{name}: not readable as Parquet ({str(error).splitlines()[0]}); is the file whole?"
        ) from error
    table = TableBuilder(name, "row", content.column_names)
    values = [column.to_pylist() for column in content.columns]
    for number, row in enumerate(zip(*values, strict=True), start=1):
        table.add(number, row)
    return table.finish()
