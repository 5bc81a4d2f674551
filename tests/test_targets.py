"""Targets of multi-label and regression tasks: read from every form of file, split, counted, and refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from intaglio.catalogue import KNOWN_TASKS
from intaglio.errors import UserError
from intaglio.store import open_artifact
from intaglio.study.load import load
from intaglio.study.task import Task
from intaglio.tasks.prepare import prepare_data
from refusals import refused

SETS = [["joy"], [], ["joy", "fear"], ["fear"], ["anger"], ["anger", "joy"]] * 20
LABELS = ["joy", "fear", "anger"]


def frame() -> pd.DataFrame:
    rows = [{"text": f"text {at}", "emotions": labels} for at, labels in enumerate(SETS)]
    table = pd.DataFrame(rows)
    for label in LABELS:
        table[label] = [int(label in labels) for labels in SETS]
    return table.assign(rating=[round(at * 0.37 - 4, 2) for at in range(len(SETS))])


def task(file: Path, **given: Any) -> Task:
    return Task.model_validate({"source": {"kind": "files", "train": str(file)}, "text": ["text"], **given})


def written(folder: Path, form: str) -> tuple[Path, dict[str, Any]]:
    """Write the same label sets in one of the forms; return the file and what the task says of it."""
    path, table = folder / f"data.{form.split('-')[0]}", frame()
    lists = {"label": "emotions", "labels": LABELS}
    if form == "csv-columns":
        table.drop(columns="emotions").to_csv(path, index=False)
        return path, {"label": LABELS}
    if form == "csv-delimiter":
        table.assign(emotions=[" | ".join(labels) for labels in SETS])[["text", "emotions"]].to_csv(path, index=False)
        return path, {**lists, "label_delimiter": "|"}
    if form == "jsonl-lists":
        path.write_text("".join(json.dumps(row) + "\n" for row in table[["text", "emotions"]].to_dict("records")))
        return path, lists
    if form == "parquet-numbers":
        numbers = [[LABELS.index(label) for label in labels] for labels in SETS]
        table.assign(emotions=numbers)[["text", "emotions"]].to_parquet(path, index=False)
        return path, {**lists, "label_values": ["0", "1", "2"]}
    table.assign(**{label: table[label].astype(bool) for label in LABELS})[["text", *LABELS]].to_parquet(path)
    return path, {"label": LABELS, "labels": ["Joy", "Fear", "Anger"]}


@pytest.mark.parametrize("form", ["csv-columns", "csv-delimiter", "jsonl-lists", "parquet-numbers", "parquet-booleans"])
def test_label_sets_are_read_from_every_form(form: str, tmp_path: Path) -> None:
    path, given = written(tmp_path, form)
    prepare_data(task(path, kind="multi_label", **given), None, tmp_path / "data")
    facts = json.loads((tmp_path / "data/task.json").read_text())
    assert facts["kind"] == "multi_label_classification" and facts["metric"] == "jaccard"
    assert [label.lower() for label in facts["labels"]] == LABELS
    expected = {f"text {at}": [int(label in labels) for label in LABELS] for at, labels in enumerate(SETS)}
    found = {}
    for split in ("train", "validation", "test"):
        rows = pq.read_table(tmp_path / f"data/{split}.parquet").to_pylist()
        found |= {row["text_a"]: row["label"] for row in rows}
        counts = open_artifact(tmp_path / "data", "data")["splits"][split]
        assert counts["examples"] == len(rows)
        names = facts["labels"]
        assert [counts["labels"][name] for name in names] == np.sum([row["label"] for row in rows], axis=0).tolist()
    assert found == expected


def test_a_rare_label_is_in_every_split(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    table = pd.DataFrame(random.random((300, 3)) < np.array([0.5, 0.4, 0.0]), columns=LABELS).astype(int)
    table.loc[[3, 50, 120, 200, 280], "anger"] = 1
    table.insert(0, "text", [f"text {at}" for at in range(300)])
    table.to_csv(tmp_path / "data.csv", index=False)
    for seed in range(5):
        asked = task(tmp_path / "data.csv", kind="multi_label", label=LABELS, split_seed=seed)
        prepare_data(asked, None, tmp_path / f"data-{seed}")
        splits = open_artifact(tmp_path / f"data-{seed}", "data")["splits"]
        assert all(splits[split]["labels"]["anger"] for split in ("train", "validation", "test"))
        shares = [splits[split]["labels"]["joy"] / splits[split]["examples"] for split in ("train", "test")]
        assert shares[0] == pytest.approx(shares[1], abs=0.12)


def test_numbers_are_read_and_split_alike(tmp_path: Path) -> None:
    frame()[["text", "rating"]].to_csv(tmp_path / "data.csv", index=False)
    prepare_data(task(tmp_path / "data.csv", kind="regression", label="rating"), None, tmp_path / "data")
    splits = {split: pd.read_parquet(tmp_path / f"data/{split}.parquet") for split in ("train", "validation", "test")}
    together = pd.concat(splits.values()).set_index("text_a")["label"]
    assert together.to_dict() == dict(zip(frame()["text"], frame()["rating"], strict=True))
    means = [part["label"].mean() for part in splits.values()]
    assert np.ptp(means) < 0.25 * frame()["rating"].std()
    facts = json.loads((tmp_path / "data/task.json").read_text())
    assert (facts["kind"], facts["labels"], facts["metric"]) == ("regression", ["rating"], "pearson")
    assert facts["mean"] == pytest.approx(splits["train"]["label"].mean())
    assert facts["deviation"] == pytest.approx(splits["train"]["label"].std(ddof=0))
    values = open_artifact(tmp_path / "data", "data")["splits"]["train"]["values"]
    assert values["most"] == splits["train"]["label"].max()


@pytest.mark.parametrize(
    ("content", "given", "words"),
    [
        ("text,y\ngood,1\nbad,nan\n", {"kind": "regression", "label": "y"}, "line 3: column 'y' holds 'nan'"),
        ("text,y\ngood,inf\nbad,1\n", {"kind": "regression", "label": "y"}, "line 2: column 'y' holds 'inf'"),
        ("text,y\ngood,1\nbad,two\n", {"kind": "regression", "label": "y"}, "needs a number"),
        ("text,y\ngood,1\nbad,1\n", {"kind": "regression", "label": "y"}, "have the value 1.0; nothing to tell apart"),
        ("text,a,b\ngood,1,0\nbad,2,0\n", {"kind": "multi_label", "label": ["a", "b"]}, "line 3: column 'a' holds '2'"),
        ("text,a,b\ngood,1,0\nbad,,0\n", {"kind": "multi_label", "label": ["a", "b"]}, "where 1 or 0"),
        (
            "text,y\ngood,a|b\nbad,a|c\n",
            {"kind": "multi_label", "label": "y", "labels": ["a", "b"], "label_delimiter": "|"},
            "line 3: label 'c' is not declared",
        ),
        (
            "text,y\ngood,a|b\nbad,a\n",
            {"kind": "multi_label", "label": "y", "labels": ["a", "b"]},
            "name what separates labels by `label_delimiter`",
        ),
        (
            "text,a,b\ngood,0,0\nbad,0,0\n",
            {"kind": "multi_label", "label": ["a", "b"]},
            "have the labels []; nothing to tell apart",
        ),
    ],
)
def test_a_wrong_value_is_one_line_with_its_row(
    content: str, given: dict[str, Any], words: str, tmp_path: Path
) -> None:
    (tmp_path / "data.csv").write_text(content)
    message = refused(prepare_data, task(tmp_path / "data.csv", **given), None, tmp_path / "data")
    assert words in message and ("data.csv" in message or "train:" in message)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"label": ["a", "b"], "labels": ["a", "b"]}, "several columns are for `kind: multi_label`"),
        ({"label": "y"}, "labels: at least two are needed"),
        ({"kind": "regression", "label": "y", "labels": ["a", "b"]}, "regression has numbers"),
        (
            {"kind": "regression", "label": "y", "metric": "f1_macro"},
            "f1_macro is not a metric of regression; take one",
        ),
        ({"kind": "multi_label", "label": ["a", "b"], "metric": "accuracy"}, "take one of f1_macro, jaccard,"),
        ({"kind": "multi_label", "label": ["a", "b"], "labels": ["x"]}, "labels: "),
        ({"kind": "multi_label", "label": ["a", "b"], "class_weights": "inverse"}, "is only for `kind: single_label`"),
        ({"kind": "multilabel", "label": "y"}, "unknown value 'multilabel', did you mean 'multi_label'"),
        ({"label": 5, "labels": ["a", "b"]}, "label: 5 is read as a number; put it in quotes"),
    ],
)
def test_a_task_that_does_not_fit_its_kind_is_refused(given: dict[str, Any], words: str) -> None:
    source = {"kind": "files", "train": "x.csv"}
    study = {"study": "s", "seeds": [1], "models": {"minilm": {}}, "variants": {"float": None}}
    message = refused(load, {**study, "tasks": {"mine": {"source": source, "text": ["text"], **given}}})
    assert words in message and message.startswith("tasks.mine")


def test_known_tasks_with_numbers() -> None:
    tasks = {name: Task.model_validate(KNOWN_TASKS[name]) for name in ("stsb", "movie-rating", "tweets-rating")}
    assert {of.kind for of in tasks.values()} == {"regression"}
    assert tasks["stsb"].text == ["sentence1", "sentence2"] and tasks["stsb"].metric == "pearson"
    with pytest.raises(UserError, match="unknown name 'stbs', did you mean 'stsb'"):
        load({"study": "s", "seeds": [1], "models": {"minilm": {}}, "variants": {"float": None}, "tasks": {"stbs": {}}})
