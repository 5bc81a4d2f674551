"""Inputs that are wrong, one of each kind: every one is refused with one line that names the place.

Beside these: malformed lines in test_tasks_read.py, files of another kind in test_data_inputs.py, splits that overlap
in test_splits.py, models and tokenizers in test_models_step.py, revisions of a hub in test_tasks_fetch.py.
"""

from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from archives import tarred
from intaglio.store import new_artifact
from intaglio.study.load import load
from intaglio.study.task import Task
from intaglio.tasks.prepare import prepare_data
from refusals import refused

COLUMNS = {"text": ["text"], "label": "label", "labels": ["ham", "spam"]}
FRAME = pd.DataFrame({"text": [f"a text with number {row}" for row in range(60)], "label": ["ham", "spam"] * 30})
CSV = FRAME.to_csv(index=False)
PARQUET = FRAME.to_parquet()
BINS = {"edges": [0.5], "labels": ["ham", "spam"]}
SCORES = "text,label\n" + "".join(f"text {row},{row % 2}\n" for row in range(60))
JSON = '{"text": "one", "label": "ham"}\n{"text": "two", "label": %s}\n'


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return buffer.getvalue()


ZIP = zipped({"x/train.csv": CSV.encode()})


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        # Delimiters and columns.
        ({"train.csv": CSV.replace(",", ";")}, {}, "train.csv: no column 'text', its only column is 'text;label'; if"),
        ({"train.csv": CSV}, {"delimiter": ";"}, "train.csv: no column 'text', its only column is 'text,label'; if"),
        ({"train.csv": CSV.replace("text", "txt")}, {}, "train.csv: no column 'text', did you mean 'txt'?"),
        ({"train.csv": CSV.replace("label", "Label")}, {}, "train.csv: no column 'label', did you mean 'Label'?"),
        ({"train.csv": CSV.replace("text,label", "label,label")}, {}, "train.csv: no column 'text'"),
        ({"train.csv": CSV.replace("\n", ",x\n").replace(",x", ",label", 1)}, {}, "two columns are named 'label'"),
        ({"train.csv": CSV}, {"text": ["text", "more"]}, "train.csv: no column 'more', known: label, text"),
        ({"train.jsonl": JSON % '"spam"'}, {"text": ["text", "more"]}, "train.jsonl: no column 'more'"),
        ({"train.csv": f"{'x' * 10**6}\n1\n"}, {}, f"train.csv: no column 'text', known: '{'x' * 60}...'; if the file"),
        ({"train.csv": '"a\nb",c\n1,2\n'}, {}, r"train.csv: no column 'text', known: 'a\nb', c; if the file has"),
        (
            {"train.csv": ",".join(map(str, range(100, 1100))) + "\n"},
            {},
            "1034, 1035 and 960 more; if the file has",
        ),
        # Texts and labels.
        ({"train.csv": CSV.replace("a text with number 7,", ",")}, {}, "train.csv, line 9: no text in column 'text'"),
        ({"train.csv": CSV.replace("number 7", "für").encode("latin-1")}, {}, "train.csv, line 9: not UTF-8; convert"),
        (
            {"train.csv": CSV, "test.csv": "text,label\nnew,eggs\n"},
            {},
            "test.csv, line 2: label 'eggs' is not declared",
        ),
        ({"train.jsonl": JSON % "1"}, {}, "train.jsonl, line 2: label '1' is not declared; known: ham, spam"),
        ({"train.jsonl": JSON % '["spam"]'}, {}, "train.jsonl, line 2: label \"['spam']\" is not declared"),
        (
            {"train.jsonl": JSON % '"spam", "text": "three"'},
            {},
            "train.jsonl, line 2: the key 'text' occurs twice in an object; leave one of them",
        ),
        ({"train.jsonl": JSON.replace('"two"', "2") % '"spam"'}, {}, "line 2: column 'text' holds 2, not a text"),
        ({"train.csv": SCORES + "late,nan\n"}, {"bins": BINS}, "train.csv, line 62: column 'label' holds 'nan', where"),
        ({"train.csv": SCORES + "late,-inf\n"}, {"bins": BINS}, "line 62: column 'label' holds '-inf', where `bins`"),
        ({"train.jsonl": JSON % f"1{'0' * 400}"}, {"bins": BINS}, "train.jsonl, line 1: column 'label' holds 'ham'"),
        ({"train.csv": "text,label\none,ham\n" + "more,spam\n" * 9}, {}, "a single example of label 'ham' is left"),
        # Files and archives that are damaged, or something else.
        ({"train.csv": CSV.encode("utf-16-le")}, {}, "train.csv, line 1: a zero byte, which no text holds"),
        ({"train.csv": "\n\n"}, {}, "train.csv: no line with a field"),
        ({"train.jsonl.gz": gzip.compress(b"\n")}, {}, "train.jsonl.gz: no line with an object"),
        ({"train.parquet": PARQUET[:-20]}, {}, "train.parquet: not readable as Parquet"),
        ({"train.parquet": PARQUET[:100] + bytes(200) + PARQUET[300:]}, {}, "train.parquet: not readable as Parquet"),
        ({"train.csv.gz": gzip.compress(CSV.encode())[:-30]}, {}, "train.csv.gz: not readable as gzip"),
        (
            {"x.whl": ZIP[:-60]},
            {},
            "x.whl: neither a zip nor a tar archive, or a dam",
        ),
        ({"x.whl": ZIP[:60] + bytes(40) + ZIP[100:]}, {}, "x.whl: cannot be unpacked (Error -3 while decompressing"),
        (
            {"x.tar.gz": tarred({"x/train.csv": CSV.encode()})[:-60]},
            {},
            "x.tar.gz: cannot be unpacked (Compressed file",
        ),
        # Archives that would write elsewhere, or read what is elsewhere.
        ({"x.whl": zipped({"x/../../evil.csv": b"text"})}, {"path": "x"}, "member 'x/../../evil.csv' points outside"),
        ({"x.tar.gz": tarred({"x/../../evil.csv": b"text"})}, {"path": "x"}, "'x/../../evil.csv' points outside"),
        ({"x.tar.gz": tarred({"../evil.csv": b"text"})}, {"path": ".."}, "member '../evil.csv' points outside"),
        ({"x.tar.gz": tarred({"/evil.csv": b"text"})}, {"path": "/evil.csv"}, "x.tar.gz has no member 'evil.csv'"),
        ({"x.tar.gz": tarred({"/evil.csv": b"text"})}, {"path": "/"}, "member '/evil.csv' points outside"),
        ({"x.tar.gz": tarred({}, {"x/train.csv": "/etc/passwd"})}, {}, "x.tar.gz has no member 'x/train.csv'"),
    ],
)
def test_data(tmp_path: Path, files: dict[str, Any], options: dict[str, Any], message: str) -> None:
    own, source = tmp_path / "own", None
    own.mkdir()
    for name, content in files.items():
        (own / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    (name, *others), options = files, dict(options)
    entry: dict[str, Any] = {
        "kind": "files",
        "train": str(own / name),
        "test": str(own / others[0]) if others else None,
    }
    if name.startswith("x."):
        source = tmp_path / "source"
        with new_artifact(source, "source", {"archive": name}) as draft:
            (own / name).rename(draft / name)
        path = options.pop("path", "x/train.csv")
        entry = {"kind": "package", "requirement": "x==1", "sha256": "0" * 64, "path": path}
    task = Task.model_validate({"source": entry, **COLUMNS, **options})
    said = refused(prepare_data, task, source, tmp_path / "out")
    assert message in said
    assert len(said) < len(str(tmp_path)) + 400
    assert {path.name for path in tmp_path.iterdir()} <= {"own", "source"}


def test_code_of_a_model_is_never_run() -> None:
    entry = {"source": {"kind": "hub", "repo": "me/mine", "revision": "0" * 40}, "trust_remote_code": True}
    message = refused(
        load,
        {"study": "mine", "models": {"mine": entry}, "tasks": {"movie": {}}, "variants": {"float": None}, "seeds": [0]},
    )
    assert "models.mine.trust_remote_code: code that comes with a model or data set is never run" in message
