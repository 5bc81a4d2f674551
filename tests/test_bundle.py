"""Bundles of finished runs: their predictions are the evaluation's, without torch, for texts and for files."""

import bz2
import csv
import gzip
import importlib.metadata
import io
import json
import lzma
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.special import expit, softmax

from encoders import integer_checkpoint
from intaglio.bundle.make import write_bundle
from intaglio.cli import main
from intaglio.export.export import export
from intaglio.measure.evaluate import evaluate
from intaglio.metrics import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from intaglio.predict.opened import Bundle, check_files
from intaglio.predict.stream import default_output, predict_file
from intaglio.study.task import Task
from intaglio.tasks.prepare import prepare_data
from refusals import refused
from tiny import tiny_checkpoint, tiny_data, tiny_sentences
from without_torch import run

MAX_LENGTH = 16
PROBABILITIES = {SINGLE_LABEL: lambda x: softmax(x, axis=1), MULTI_LABEL: expit, REGRESSION: lambda x: x[:, :0]}


def make_run(
    folder: Path, kind: str = SINGLE_LABEL, integer: bool = False, pair: bool = False, preprocess: Sequence[str] = ()
) -> Path:
    """Make a run of a study, as far as a bundle needs it; return the folder of the study's results.

    Its data is made, if it is not there yet.
    """
    labels = ("value",) if kind == REGRESSION else ("negative", "positive")
    data = folder / "data"
    if not data.exists():
        tiny_data(data, labels=labels, pair=pair, kind=kind, metric=METRICS[kind])
    checkpoint = folder / "checkpoint"
    if integer:
        integer_checkpoint(checkpoint)
    else:
        tiny_checkpoint(checkpoint, labels=labels, of=kind)
    record: dict[str, Any] = {"device": "a CPU", "total_train_seconds": 1.5, "machine": {"cpu": "a CPU", "cores": 2}}
    if kind == MULTI_LABEL:
        record["thresholds"] = {"negative": 0.45, "positive": 0.55}
    (checkpoint / "training.json").write_text(json.dumps(record))
    export(checkpoint, folder / "export")
    evaluate(checkpoint, data, MAX_LENGTH, folder / "evaluation")
    source = {"kind": "files", "train": "train.csv", "path": str(folder)}
    text = ["text", "other"] if pair else ["text"]
    task = {"source": source, "text": text, "metric": METRICS[kind], "language": "en", "preprocess": list(preprocess)}
    study = {
        "study": "tiny",
        "max_length": MAX_LENGTH,
        "models": {"bert": {"source": source}},
        "tasks": {"words": task},
    }
    runs = [
        {
            **{"task": "words", "model": "bert", "variant": variant, "seed": 1, "recipe": [{"stage": "finetune"}]},
            **{name: str(folder / name) for name in ("data", "checkpoint", "export", "evaluation")},
        }
        for variant in ("int", "int-linear")
    ]
    (folder / "results").mkdir()
    (folder / "results" / "plan.json").write_text(json.dumps({"study": study, "runs": runs}))
    return folder / "results"


METRICS = {SINGLE_LABEL: "accuracy", MULTI_LABEL: "jaccard", REGRESSION: "pearson"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an integer run, with its bundle."""
    folder = tmp_path_factory.mktemp("integer")
    (folder / "README.md").write_text("---\nlanguage: en\nlicense: mit\n---\n\n# A model\n")
    write_bundle(make_run(folder, integer=True), "words/bert/int/1", folder / "bundle")
    return folder


@pytest.fixture(scope="module")
def bundle(made: Path) -> Bundle:
    return Bundle(made / "bundle", threads=1)


def evaluated(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "evaluation" / "predictions.parquet")


@pytest.mark.parametrize("form", ["native", "onnx"])
def test_integers_give_the_logits_of_the_evaluation_without_torch(made: Path, form: str, tmp_path: Path) -> None:
    output = tmp_path / "out.parquet"
    words = ("--columns", "text_a", "--output", output, "--form", form, "--threads", "1", "--logits")
    assert "32 rows in" in run(made / "bundle", made / "data" / "test.parquet", *words)
    found, expected = pq.read_table(output).to_pandas(), evaluated(made)
    logits = found[["logit_negative", "logit_positive"]].to_numpy()
    assert logits.dtype == np.float32
    np.testing.assert_array_equal(logits, np.stack(expected["logits"]))
    assert found["id"].tolist() == expected["id"].tolist()
    labels = np.array(["negative", "positive"])
    assert found["prediction"].tolist() == labels[expected["prediction"]].tolist()
    shares = found[["probability_negative", "probability_positive"]].to_numpy()
    np.testing.assert_allclose(shares, softmax(logits.astype(float), axis=1), rtol=1e-12)
    assert found["problem"].isna().all()


def test_its_example_runs_without_torch(made: Path) -> None:
    printed = run(made / "bundle", program="example.py")
    assert "words/bert/int/1" in printed and printed.count("->") == 2
    assert len((made / "bundle" / "example.py").read_text().splitlines()) <= 22


def test_a_text_is_answered_by_label_and_probabilities(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--text", "the film was good.")
    answer = json.loads(run(made / "bundle", *words))
    assert answer["prediction"] == max(answer["probabilities"], key=answer["probabilities"].get)
    assert sum(answer["probabilities"].values()) == pytest.approx(1)
    assert main(["predict", str(made / "bundle"), *words]) == 0
    assert json.loads(capsys.readouterr().out) == answer


@pytest.mark.parametrize("form", ["native", "onnx"])
def test_integers_do_not_depend_on_the_batch(made: Path, form: str) -> None:
    bundle = Bundle(made / "bundle", form, threads=1)
    texts = pd.read_parquet(made / "data" / "test.parquet")["text_a"].tolist()
    alone = np.concatenate([bundle.logits([text]) for text in texts])
    np.testing.assert_array_equal(bundle.logits(texts), alone)
    np.testing.assert_array_equal(bundle.logits(texts[::-1])[::-1], alone)
    assert bundle.logits([]).shape == (0, 2)


@pytest.mark.parametrize(("kind", "pair"), [(SINGLE_LABEL, True), (MULTI_LABEL, False), (REGRESSION, False)])
def test_every_kind_of_task_is_decoded_as_evaluated(kind: str, pair: bool, tmp_path: Path) -> None:
    folder = write_bundle(make_run(tmp_path, kind, pair=pair), "words/bert/int/1", tmp_path / "bundle")
    bundle, expected = Bundle(folder, threads=1), evaluated(tmp_path)
    examples = pd.read_parquet(tmp_path / "data" / "test.parquet")
    texts: Sequence[Any] = examples["text_a"].tolist()
    if pair:
        texts = list(zip(texts, examples["text_b"], strict=True))
    stored = np.stack(expected["logits"])
    np.testing.assert_allclose(bundle.logits(texts), stored, atol=1e-4)
    answers, labels = bundle.answers(texts), np.array(bundle.facts["labels"])
    found = [answer["prediction"] for answer in answers]
    if kind == REGRESSION:
        np.testing.assert_allclose(found, expected["prediction"], atol=1e-4)
        assert "probabilities" not in answers[0]
    else:
        wanted = [
            labels[one].item() if kind == SINGLE_LABEL else labels[np.array(one) == 1].tolist()
            for one in expected["prediction"]
        ]
        assert found == wanted
        shares = [list(answer["probabilities"].values()) for answer in answers]
        np.testing.assert_allclose(shares, PROBABILITIES[kind](stored.astype(float)), atol=1e-4)
    assert "python predict.py --text" in (folder / "README.md").read_text()


@pytest.mark.parametrize("pair", [False, True])
def test_texts_are_changed_as_in_training(pair: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the user's own file to the evaluation's logits, where scikit-learn, which has the stop words, is absent."""
    steps = ("mask_urls", "mask_users", "lemmatize", "stop_words")
    for split, seed in (("train", 1), ("test", 2)):
        rows = tiny_sentences(40, 2, seed).assign(other=[f"films of @user{n}" if n % 3 else "" for n in range(40)])
        rows["text"] = [f"@ana the films were {text} www.x.org/{n}" for n, text in enumerate(rows["text"])]
        rows.loc[0, "text"] = "It is what it was."
        rows.assign(label=rows["label"].map({0: "negative", 1: "positive"})).to_csv(tmp_path / f"{split}.csv")
    source = {"kind": "files", "train": str(tmp_path / "train.csv"), "test": str(tmp_path / "test.csv")}
    columns = {"text": ["text", "other"] if pair else ["text"], "label": "label", "labels": ["negative", "positive"]}
    prepare_data(Task.model_validate({"source": source, **columns, "preprocess": steps}), None, tmp_path / "data")
    results = make_run(tmp_path, integer=True, pair=pair, preprocess=steps)
    folder = write_bundle(results, "words/bert/int/1", tmp_path / "bundle")
    run(folder, tmp_path / "test.csv", "--output", tmp_path / "out.parquet", "--logits")
    logits = pd.read_parquet(tmp_path / "out.parquet")[["logit_negative", "logit_positive"]].to_numpy()
    np.testing.assert_array_equal(logits, np.stack(evaluated(tmp_path)["logits"]))
    assert "numpy simplemma==" in (folder / "README.md").read_text()
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "0.1")
    assert "which is 0.1 here; pip install simplemma==" in refused(Bundle, folder)


ROWS = [
    {"n": "1", "text": "the film was good.", "more": "a, b"},
    {"n": "2", "text": "", "more": "x"},
    {"n": "3", "text": "bad", "more": ""},
    {"n": "4", "text": " ".join(["long"] * 40), "more": "Ünïcode"},
]


def as_csv(delimiter: str) -> bytes:
    file = io.StringIO()
    writer = csv.DictWriter(file, list(ROWS[0]), delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    writer.writerows(ROWS)
    return file.getvalue().encode()


def write_rows(path: Path) -> None:
    if path.suffix == ".parquet":
        table = pa.table({name: [row[name] for row in ROWS] for name in ROWS[0]})
        return pq.write_table(table.set_column(0, "n", pa.array([1, 2, 3, 4], pa.int16())), path)
    text = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    content = text if ".jsonl" in path.name else as_csv("\t" if ".tsv" in path.name else ",")
    packed = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
    packed[".zst"] = lambda data: pa.compress(data, codec="zstd", asbytes=True)
    path.write_bytes(packed.get(path.suffix, bytes)(content))
    return None


def read_rows(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    with pa.input_stream(str(path), compression="detect") if path.suffix != ".xz" else lzma.open(path) as file:
        text = file.read().decode()
    if ".jsonl" in path.name:
        return [json.loads(line) for line in text.splitlines()]
    return list(csv.DictReader(io.StringIO(text), delimiter="\t" if ".tsv" in path.name else ","))


@pytest.mark.parametrize(
    "name", ["rows.csv", "rows.tsv", "rows.jsonl", "rows.parquet", "rows.csv.gz", "rows.jsonl.bz2", "rows.csv.xz"]
)
@pytest.mark.parametrize("ending", [None, ".jsonl", ".parquet", ".csv.zst"])
def test_rows_keep_order_and_columns_and_bad_ones_are_told(
    bundle: Bundle, name: str, ending: str | None, tmp_path: Path
) -> None:
    write_rows(tmp_path / name)
    output = None if ending is None else tmp_path / f"out{ending}"
    outcome = predict_file(bundle, tmp_path / name, output)
    assert outcome.output == output or outcome.output == default_output(tmp_path / name)
    assert (outcome.rows, outcome.bad, outcome.cut) == (4, 1, 1)
    line = {"csv": "line 3", "tsv": "line 3", "jsonl": "line 2", "parquet": "row 2"}[name.split(".")[1]]
    assert outcome.first == f"{line}: no text in column 'text'"
    found, missing = read_rows(outcome.output), None if ".csv" not in outcome.output.name else ""
    missing = "" if ".tsv" in outcome.output.name else missing
    wanted = bundle.answers([row["text"] or "x" for row in ROWS])
    for row, given, answer in zip(found, ROWS, wanted, strict=True):
        assert [str(row[column] if row[column] is not None else "") for column in given] == list(given.values())
        if given["text"]:
            assert row["prediction"] == answer["prediction"]
            for label, share in answer["probabilities"].items():
                assert float(row[f"probability_{label}"]) == share
            assert row["problem"] == missing
        else:
            assert (row["prediction"], row["probability_positive"]) == (missing, missing)
            assert row["problem"] == "no text in column 'text'"
    if name.endswith(".parquet") and outcome.output.suffix == ".parquet":
        assert pq.read_schema(outcome.output).field("n").type == pa.int16()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_many_rows_keep_their_order(bundle: Bundle, tmp_path: Path) -> None:
    texts = [f"{'good ' * (n % 7)}film {n}" for n in range(4500)]
    pd.DataFrame({"": range(4500), "text": texts}).to_csv(tmp_path / "rows.csv", index=False)
    outcome = predict_file(bundle, tmp_path / "rows.csv", with_logits=True)
    found = pd.read_csv(outcome.output)
    assert found["text"].tolist() == texts and found.iloc[:, 0].tolist() == list(range(4500))
    chosen = list(range(0, 4500, 450))
    logits = found[["logit_negative", "logit_positive"]].to_numpy(np.float32)[chosen]
    np.testing.assert_array_equal(logits, bundle.logits([texts[at] for at in chosen]))


def test_values_that_are_no_texts_are_told_and_kept(bundle: Bundle, tmp_path: Path) -> None:
    rows = [{"text": 12}, {"text": "good"}, {"text": None, "list": [1, 2]}, {"other": {"a": 1}}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    outcome = predict_file(bundle, tmp_path / "rows.jsonl")
    found = read_rows(outcome.output)
    assert [row["problem"] for row in found] == [
        "column 'text' holds 12, not a text",
        None,
        "no text in column 'text'",
        "no text in column 'text'",
    ]
    assert [found[0]["text"], found[2]["list"], found[3]["other"]] == [12, [1, 2], {"a": 1}]
    assert (outcome.rows, outcome.bad) == (4, 3)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("rows.csv", "a,b\n1,2\n", "no column 'text', known: a, b (--columns names"),
        ("rows.csv", "text,b\n1,2\n1,2,3\n", "rows.csv, line 3: 3 fields instead of 2"),
        ("rows.csv", "text,prediction\n1,2\n", "has a column 'prediction', which would be added; rename it"),
        ("rows.csv", "text,text\n1,2\n", "two columns are named 'text'; rename one"),
        ("rows.jsonl", '{"text": "a"}\n{"text"\n', "rows.jsonl, line 2: not JSON"),
        ("rows.parquet", "PAR1 and no more", "not readable as Parquet"),
        ("rows.xyz", "text\n", "unknown suffix '.xyz'"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_before_anything_is_written(
    bundle: Bundle, name: str, content: str, words: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    assert words in refused(predict_file, bundle, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_an_output_that_cannot_be_written_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.csv")
    for output, words in (
        (tmp_path / "rows.csv", "is the file to read; give another --output"),
        (tmp_path / "no" / "out.csv", "cannot be written (No such file or directory); give another --output"),
        (tmp_path / "out.xyz", "unknown suffix '.xyz'"),
    ):
        assert words in refused(predict_file, bundle, tmp_path / "rows.csv", output)


def test_a_changed_or_missing_file_is_named(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", made / "bundle", copy], check=True)
    check_files(copy)
    sums = json.loads((copy / "manifest.json").read_text())["about"]["sha256"]
    files = {str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file()}
    assert {file for file in files if "__pycache__" not in file} - {"manifest.json"} == set(sums)
    content = (copy / "tokenizer.json").read_bytes()
    (copy / "tokenizer.json").write_bytes(content[:-1] + b" ")
    assert main(["predict", str(copy), "--text", "good"]) == 2
    assert "damaged, tokenizer.json has changed since it was made" in capsys.readouterr().err
    (copy / "tokenizer.json").unlink()
    assert "damaged, tokenizer.json is missing" in refused(Bundle, copy)
    assert "not a bundle" in refused(Bundle, tmp_path)
    assert "is a export, where a bundle is needed" in refused(Bundle, made / "export")


def test_the_portable_form_runs_where_the_native_one_does_not(made: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", made / "bundle", copy], check=True)
    (copy / "native" / "libintaglio.so").write_bytes(b"of another machine")
    bundle = Bundle(copy, check=False)
    assert bundle.form == "onnx" and "its form 'native' does not run" in bundle.passed_over[0]
    assert "its form 'native' does not run" in refused(Bundle, copy, "native", None, False)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("words", "several runs have this name: words/bert/int/1, words/bert/int-linear/1; name one"),
        ("words/bert/itn/1", "no run of the study 'tiny', did you mean 'words/bert/int/1'?"),
        ("", "no run of the study"),
    ],
)
def test_a_name_of_no_run_or_of_several_is_refused(made: Path, name: str, words: str, tmp_path: Path) -> None:
    assert words in refused(write_bundle, made / "results", name, tmp_path / "out")


def test_a_folder_without_a_study_is_refused(tmp_path: Path) -> None:
    assert "no readable plan; give the folder of a study's results" in refused(write_bundle, tmp_path, "int", None)


def test_the_model_card_tells_what_is_known(made: Path) -> None:
    card = (made / "bundle" / "README.md").read_text()
    head, _, body = card.removeprefix("---\n").partition("\n---\n")
    assert "license: mit" in head.splitlines()
    for words in (
        "# words: bert, int",
        "one of these labels to a text: negative, positive",
        "linear, gelu, softmax, layernorm",
        "| test | accuracy |",
        "| positive |",
        "`native`, 32 test examples: largest difference of a logit",
        "`onnx`, 32 test examples",
        "Texts are cut at 16 tokens",
        "Licence: mit",
    ):
        assert words.lower() in body.lower(), words
    assert "\n\n\n" not in card and "{" not in body
