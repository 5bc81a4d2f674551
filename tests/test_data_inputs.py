"""Files of data as users have them: what works, what causes a warning, and one-line messages for what does not."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from intaglio.store import open_artifact
from intaglio.study.task import Task
from intaglio.tasks.prepare import prepare_data
from refusals import refused
from study_on_files import ROOT

ROWS = [(f"a text, number {number}", ("ham", "spam")[number % 2]) for number in range(60)]
CSV = "text,label\n" + "".join(f'"{text}",{label}\n' for text, label in ROWS)
# By suffix.
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: pa.compress(data, "zstd", asbytes=True),
}


def task(path: Path, **options: Any) -> Task:
    source = {"kind": "files", "train": str(path)}
    columns = {"text": ["text"], "label": "label", "labels": ["ham", "spam"]}
    return Task.model_validate({"source": source, **columns, **options})


def prepared(path: Path, **options: Any) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return all examples in the order of the file, and the facts of the manifest."""
    output = path.parent / "out"
    prepare_data(task(path, **options), None, output)
    frames = [pd.read_parquet(file) for file in output.glob("*.parquet")]
    together = pd.concat(frames)
    return together.iloc[together["id"].astype(int).argsort()], open_artifact(output, "data")


def refusal(path: Path, **options: Any) -> str:
    return refused(prepare_data, task(path, **options), None, path.parent / "out")


@pytest.mark.parametrize(
    ("name", "content", "options"),
    [
        ("a.csv", CSV, {}),
        ("unnamed.csv", CSV.replace("\n", ",,\n"), {}),
        ("unused twice.csv", CSV.replace("\n", ",1,2\n").replace("label,1,2", "label,note,note"), {}),
        ("a.csv.gz", CSV, {}),
        ("a.csv.bz2", CSV, {}),
        ("a.CSV.XZ", CSV, {}),
        ("a.csv.zst", CSV, {}),
        ("semicolon.csv", CSV.replace('",', '";').replace("text,label", "text;label"), {"delimiter": ";"}),
        ("no header.csv", CSV.removeprefix("text,label\n"), {"columns": ["text", "label"]}),
        ("quoted.tsv", CSV.replace('",', '"\t').replace("text,label", '"text"\t"label"'), {"quotes": True}),
    ],
)
def test_what_is_read(tmp_path: Path, name: str, content: str, options: dict[str, Any]) -> None:
    compress = COMPRESS.get(Path(name).suffix.lower(), bytes)
    (tmp_path / name).write_bytes(compress(content.encode()))
    examples, about = prepared(tmp_path / name, **options)
    assert list(zip(examples["text_a"], examples["label"].map(["ham", "spam"].__getitem__), strict=True)) == ROWS
    assert about["warnings"] == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", CSV.replace('",', '";').replace("text,label", "text;label"), "set `delimiter: ';'`"),
        ("a.csv", "text;label\n" + "one;ham\ntwo;spam\n" * 9, "its only column is 'text;label'; if ';' delimits, set"),
        ("a.csv", CSV.removeprefix("text,label\n"), "if the file has no header line, name its columns by `columns`"),
        ("a.tsv", '"text"\t"label"\n' + '"one"\t"ham"\n"two"\t"spam"\n' * 9, "one in quotes; set `quotes: true`"),
        ("a.csv", CSV.replace("text,label", "text,label,text").replace("m\n", "m,x\n"), "two columns are named 'text'"),
        ("a.xlsx", "PK", "a.xlsx: a spreadsheet; save it as CSV"),
        ("a.csv", "", "a.csv: an empty file"),
        ("a.csv.gz", CSV, "a.csv.gz: not readable as gzip"),
        ("a.csv.bz2", CSV, "a.csv.bz2: not readable as bzip2"),
        ("a.csv.xz", CSV, "a.csv.xz: not readable as xz"),
        ("a.csv.zst", CSV, "a.csv.zst: not readable as zstd"),
        ("a.parquet.gz", CSV, "a.parquet.gz: Parquet is compressed within; decompress the file"),
        ("a.tgz", CSV, "a.tgz: an archive; extract the file from it"),
    ],
)
def test_what_is_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    assert message in refusal(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"PAR1" + bytes(9), "a.csv: a Parquet file by its content; rename it to end in .parquet"),
        ("a.csv", gzip.compress(CSV.encode()), "a.csv: compressed by gzip; rename it to end in .gz"),
        ("a.csv", b"PK\x03\x04" + bytes(9), "a.csv: a spreadsheet or an archive by its content"),
        ("a.csv", CSV.encode("utf-16"), "a.csv: UTF-16; save it as UTF-8"),
        ("a.csv", b"<!DOCTYPE html>\n<html>\n", "a.csv: a web page, not the data; download the file itself"),
        ("a.csv", b"version https://git-lfs.github.com/spec/v1\n", "a.csv: a pointer of Git LFS, not the data"),
        ("a.csv", bz2.compress(CSV.encode()), "a.csv: compressed by bzip2; rename it to end in .bz2"),
        ("a.csv", lzma.compress(CSV.encode()), "a.csv: compressed by xz; rename it to end in .xz"),
        ("a.csv", pa.compress(CSV.encode(), "zstd", asbytes=True), "a.csv: compressed by zstd; rename it to end in"),
        *(
            (f"a.csv{suffix}", compress(CSV.encode())[:-9], f"a.csv{suffix}: not readable as")
            for suffix, compress in COMPRESS.items()
        ),
        ("a.csv", b"# by hand\n" + CSV.encode(), "line 2: 2 fields instead of 1 (line 1 names one column, '# by hand'"),
        (
            "a.json",
            pd.DataFrame(ROWS, columns=["text", "label"]).to_json().encode(),
            "column 'text' holds {'0': 'a text",
        ),
    ],
)
def test_files_of_another_kind(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    said = refusal(tmp_path / name)
    assert message in said
    assert len(said) < len(str(tmp_path)) + 200


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "a.csv").mkdir()
    assert "a.csv: a folder; name the file in it" in refusal(tmp_path / "a.csv")


def test_a_stray_quote_is_warned_of_and_named_where_fields_differ(tmp_path: Path) -> None:
    lines = ["text,label", *(f"text {number},{('ham', 'spam')[number % 2]}" for number in range(100))]
    lines[3], lines[80] = '"stray ' + lines[3], lines[80].replace(",", '",')
    path = tmp_path / "a.csv"
    path.write_text("\n".join(lines) + "\n")
    examples, about = prepared(path)
    assert len(examples) == 23
    assert about["warnings"] == [f"{path}, line 4: a field spans 78 lines; if a quote is stray there, double it"]
    path.write_text(path.read_text().replace('",', '",one,'))
    assert f"{path}, line 4: 3 fields instead of 2 (a field spans 78 lines: a stray quote?)" in refusal(path)


def test_a_label_in_another_unicode_form_is_the_same_label(tmp_path: Path) -> None:
    decomposed, composed = "cafe\u0301", "caf\u00e9"
    for written, declared in ((decomposed, composed), (composed, decomposed)):
        (tmp_path / "a.csv").write_text(CSV.replace(",ham", f",{written}"))
        examples, _ = prepared(tmp_path / "a.csv", labels=[declared, "spam"])
        assert list(examples["label"]) == [0, 1] * 30


def test_a_second_text_may_be_empty(tmp_path: Path) -> None:
    rows = [
        {"text": text, "more": "" if number % 3 else "more", "label": label}
        for number, (text, label) in enumerate(ROWS)
    ]
    path = tmp_path / "a.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    examples, about = prepared(path, text=["text", "more"])
    assert list(examples["text_b"]) == [row["more"] for row in rows]
    assert about["empty_second_texts"] == {"train": 40}
    pd.DataFrame(rows).to_csv(path, index=False)
    assert "line 3: no text in column 'more'" in refusal(path, text=["more", "text"])


def test_half_a_surrogate_pair_is_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.jsonl"
    lines = [json.dumps({"text": text, "label": label}) for text, label in ROWS]
    lines[4] = lines[4].replace("a text", "\\ud83d text")
    lines[5] = lines[5].replace("a text", "\\ud83d\\ude00 text")
    path.write_text("\n".join(lines))
    examples, about = prepared(path)
    assert examples["text_a"].iloc[4].startswith("\ufffd text")
    assert examples["text_a"].iloc[5].startswith("\U0001f600 text")
    warning = f"{path}, line 5: half a surrogate pair is no character; it became U+FFFD"
    assert about["warnings"] == [warning]
    assert capsys.readouterr().err == f"warning: {warning}\n"


def test_test_texts_in_the_training_data_are_warned_of(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(CSV)
    pd.DataFrame([*ROWS[:10], ("new", "ham")], columns=["text", "label"]).to_csv(tmp_path / "test.csv", index=False)
    source = {"kind": "files", "train": str(tmp_path / "a.csv"), "test": str(tmp_path / "test.csv")}
    prepare_data(task(tmp_path / "a.csv", source=source), None, tmp_path / "out")
    about = open_artifact(tmp_path / "out", "data")
    assert about["test_texts_in_training"] == {"test": 10}
    assert any("10 of 11" in warning for warning in about["warnings"])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process is read from Linux")
def test_a_large_file_is_held_in_less_than_three_times_its_size(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    rows = (f"{number} {'x' * 480},{('ham', 'spam')[number % 2]}\n" for number in range(60_000))
    # One character beyond the basic plane makes four bytes of each in a text that is read whole.
    path.write_text("text,label\n\U0001f600 first,ham\n" + "".join(rows))
    code = r"""if True:
        import re, sys
        from pathlib import Path
        from intaglio.study.task import Task
        from intaglio.tasks.prepare import prepare_data
        peaks = []
        for task in sys.argv[2:]:
            prepare_data(Task.model_validate_json(task), None, Path(sys.argv[1]))
            peaks.append(int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]))
        print(peaks[1] - peaks[0])
    """
    # A small file first: libraries and what they allocate for themselves are not what grows.
    (tmp_path / "small.csv").write_text(CSV)
    tasks = [task(file).model_dump_json() for file in (tmp_path / "small.csv", path)]
    command = [sys.executable, "-c", code, str(tmp_path / "out"), *tasks]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "workflow"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert 1024 * int(done.stdout) < 3 * path.stat().st_size
    assert len(pd.read_parquet(tmp_path / "out/train.parquet")) > 40_000
