"""Files of examples against what wrote them: pandas for the formats, the sentence itself for every refusal."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intaglio.errors import UserError
from intaglio.reading.raw_table import missing
from intaglio.reading.read import read_raw_table

TRICKY = [
    "plain",
    "a, b; c",
    'she said "no"',
    "two\nlines",
    "naïve ☕ 日本",
    "NA",
    "null",
    "0",
    " padded ",
    "tab\there",
]
FRAME = pd.DataFrame({"text": TRICKY, "label": ["pos", "neg"] * 5})


def read(path: Path, *shards: Path, **options):
    """Return all that is read: columns, numbers, places, warnings and the number of blank rows."""
    table = read_raw_table([path, *shards], path.name, **options)
    chunks = list(table.chunks())
    return SimpleNamespace(
        columns={name: [value for chunk in chunks for value in chunk.columns[name]] for name in table.columns},
        numbers=[number for chunk in chunks for number in chunk.numbers],
        places=[chunk.where(row) for chunk in chunks for row in range(len(chunk.numbers))],
        warnings=table.warnings,
        blank=table.blank,
    )


def test_csv_as_pandas_writes_it(tmp_path):
    FRAME.to_csv(tmp_path / "a.csv", index=False)
    table = read(tmp_path / "a.csv")
    assert table.columns == {"text": TRICKY, "label": list(FRAME.label)}
    # Numbers are those of an editor: the row after the one with a line break begins two lines further down.
    assert list(table.numbers) == [2, 3, 4, 5, 7, 8, 9, 10, 11, 12]
    assert table.places[4] == "a.csv, line 7"


def test_parquet_and_json_lines_as_pandas_writes_them(tmp_path):
    FRAME.to_parquet(tmp_path / "a.parquet")
    FRAME.to_json(tmp_path / "a.jsonl", orient="records", lines=True, force_ascii=False)
    for name, first in (("a.parquet", 1), ("a.jsonl", 1)):
        table = read(tmp_path / name)
        assert table.columns == {"text": TRICKY, "label": list(FRAME.label)}
        assert list(table.numbers) == list(range(first, 11))


def test_tsv_takes_quotes_as_characters_unless_told(tmp_path):
    (tmp_path / "a.tsv").write_text('text\tlabel\n"Tis fine, he said\tpos\nsay "no"\tneg\n')
    assert read(tmp_path / "a.tsv").columns["text"] == ['"Tis fine, he said', 'say "no"']
    assert read(tmp_path / "a.tsv").warnings == ()
    FRAME.drop(index=3).to_csv(tmp_path / "b.tsv", index=False, sep="\t")
    with pytest.raises(UserError, match=r"b.tsv, line 10: 3 fields instead of 2.*`quotes: true`"):
        read(tmp_path / "b.tsv")
    assert read(tmp_path / "b.tsv", quotes=True).columns["text"] == TRICKY[:3] + TRICKY[4:]
    (tmp_path / "c.tsv").write_text('text\tlabel\n"she said ""no"""\tpos\n')
    (warning,) = read(tmp_path / "c.tsv").warnings
    assert warning == "c.tsv, line 2: looks quoted; if so, set `quotes: true`"


fields = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(str.strip)


@settings(max_examples=50, deadline=None)
@given(rows=st.lists(st.tuples(fields, fields), min_size=1, max_size=5), delimiter=st.sampled_from(",;\t|"))
def test_any_text_survives(tmp_path_factory, rows, delimiter):
    folder = tmp_path_factory.mktemp("any")
    with (folder / "a.txt").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    table = read(folder / "a.txt", columns=["a", "b"], delimiter=delimiter, quotes=True)
    assert list(zip(table.columns["a"], table.columns["b"], strict=True)) == rows
    (folder / "a.jsonl").write_text("".join(json.dumps({"a": a, "b": b}, ensure_ascii=False) + "\n" for a, b in rows))
    table = read(folder / "a.jsonl")
    assert list(zip(table.columns["a"], table.columns["b"], strict=True)) == rows


def test_no_header_crlf_bom_and_blank_lines(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeff1\tgood\r\n\r\n2\tbad\r\n\t\r\n".encode())
    table = read(tmp_path / "a.txt", columns=["label", "text"], delimiter="\t")
    assert table.columns == {"label": ["1", "2"], "text": ["good", "bad"]}
    assert list(table.numbers) == [1, 3]
    assert table.blank == 2


def test_times_that_python_cannot_hold(tmp_path):
    when = pa.array([2**62, None], pa.timestamp("us"))
    pq.write_table(pa.table({"text": ["a", "b"], "when": when}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet").columns == {"text": ["a", "b"], "when": [2**62, None]}


def test_shards_are_one_table(tmp_path):
    paths = [tmp_path / f"train-0000{part}-of-00002.parquet" for part in range(2)]
    for part, path in enumerate(paths):
        pq.write_table(pa.table({"text": pa.array([f"text {part}"]).dictionary_encode()}), path)
    table = read(*paths)
    assert table.columns == {"text": ["text 0", "text 1"]}
    assert list(table.numbers) == [1, 2]


def test_nullable_integers_stay_integers(tmp_path):
    pq.write_table(pa.table({"label": pa.array([1, None, 0])}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet").columns["label"] == [1, 0]
    pq.write_table(pa.table({"x": ["a"] * 3, "label": pa.array([1, None, 0])}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet").columns["label"] == [1, None, 0]


def test_json_line_separators_within_texts(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a\u2028b\x85c", "label": 1}\n\n{"label": 0}\n', encoding="utf-8")
    table = read(tmp_path / "a.jsonl")
    assert table.columns == {"text": ["a\u2028b\x85c", None], "label": [1, 0]}
    assert list(table.numbers) == [1, 3]


def test_missing():
    assert all(missing(value) for value in (None, float("nan"), "", "  \n"))
    assert not any(missing(value) for value in (0, False, "0", "nan", "NA", 1.5))


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("a.xlsx", b"PK", {}, r"a.xlsx: a spreadsheet; save it as CSV"),
        ("a.csv", "text\nfür\n".encode("latin-1"), {}, r"a.csv, line 2: not UTF-8.*iconv"),
        ("a.csv", b"a,b\n1,2\n1,2,3\n", {}, r"a.csv, line 3: 3 fields instead of 2 \(a stray delimiter\?\)$"),
        ("a.csv", b"a,b\n1\n", {}, r"a.csv, line 2: 1 fields instead of 2"),
        ("a.csv", b'a,b\n1,2\n3,"open\n5,6\n', {}, r"a.csv, line 3: malformed.*`quotes: false`"),
        ("a.csv", b'a,b\n"x"y,2\n', {}, r"a.csv, line 2: malformed"),
        ("a.dat", b"a,b\n", {}, r"a.dat: unknown suffix '.dat' \(known: .csv.*`delimiter`"),
        ("a.csv", b"a,b\n", {"delimiter": "||"}, r"a.csv: delimiter '\|\|' is not one character"),
        ("a.jsonl", b'{"a": 1}\n{"a": \n', {}, r"a.jsonl, line 2: not JSON"),
        ("a.jsonl", b'[{"a": 1}]', {}, r"a.jsonl, line 1: a list, not an object"),
        ("a.jsonl", b"{}", {"columns": ["a"]}, r"a.jsonl: `columns` name the fields of a text file"),
        ("a.parquet", b"not parquet", {}, r"a.parquet: not readable as Parquet.*whole\?"),
        ("a.parquet", b"", {}, r"a.parquet: an empty file"),
    ],
)
def test_refusals_are_one_line(tmp_path, name, content, options, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path / name, **options)
    assert "\n" not in str(caught.value)


def test_no_such_file(tmp_path):
    with pytest.raises(UserError, match=r"absent.csv: no such file"):
        read(tmp_path / "absent.csv")
