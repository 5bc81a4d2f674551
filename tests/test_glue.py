"""The known tasks of GLUE against its card on the hub, on Parquet of that form, and against the official metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from intaglio import catalogue
from intaglio.kinds import classes_of, kind_of
from intaglio.store import new_artifact
from intaglio.study.task import Task
from intaglio.tasks.prepare import prepare_data
from intaglio.tasks.stored import read_task

PAIR = ("sentence1", "sentence2")
ENTAILMENT = ("entailment", "not_entailment")
# From the card of nyu-mll/glue: columns of text, and names of the labels in the order of their numbers.
CARD = {
    "cola": (("sentence",), ("unacceptable", "acceptable")),
    "sst2": (("sentence",), ("negative", "positive")),
    "mrpc": (PAIR, ("not_equivalent", "equivalent")),
    "qqp": (("question1", "question2"), ("not_duplicate", "duplicate")),
    "mnli": (("premise", "hypothesis"), ("entailment", "neutral", "contradiction")),
    "qnli": (("question", "sentence"), ENTAILMENT),
    "rte": (PAIR, ENTAILMENT),
    "wnli": (PAIR, ("not_entailment", "entailment")),
}


def official(name: str, targets: Any, predictions: Any) -> dict[str, float]:
    """Return what the metric `glue` of the library evaluate returns for a task, under our names."""
    if name == "cola":
        return {"matthews": matthews_corrcoef(targets, predictions)}
    accuracy = {"accuracy": accuracy_score(targets, predictions)}
    return {**accuracy, "f1": f1_score(targets, predictions)} if name in ("mrpc", "qqp") else accuracy


def write_configuration(folder: Path, name: str) -> dict[str, pd.DataFrame]:
    """Write the Parquet files of a configuration, with the types of the hub; return its splits."""
    columns, labels = CARD[name]
    types = {column: datasets.Value("string") for column in columns}
    types |= {"label": datasets.ClassLabel(names=list(labels)), "idx": datasets.Value("int32")}
    matched = ("_matched", "_mismatched") if name == "mnli" else ("",)
    sizes = {"train": 60, **{f"validation{end}": 12 for end in matched}, **{f"test{end}": 9 for end in matched}}
    splits = {}
    for split, size in sizes.items():
        texts = {column: [f"{name} {split} {column} {row}" for row in range(size)] for column in columns}
        # The labels of the test splits are hidden.
        numbers = [-1] * size if split.startswith("test") else [row % len(labels) for row in range(size)]
        rows = {**texts, "label": numbers, "idx": range(size)}
        data = datasets.Dataset.from_dict({key: list(value) for key, value in rows.items()}, datasets.Features(types))
        data.to_parquet(folder / name / f"{split}-00000-of-00001.parquet")
        splits[split] = pd.DataFrame(rows)
    return splits


@pytest.mark.parametrize("name", CARD)
def test_columns_labels_and_metrics(name: str, tmp_path: Path) -> None:
    columns, labels = CARD[name]
    with new_artifact(tmp_path / "source", "source") as draft:
        (draft / name).mkdir()
        splits = write_configuration(draft, name)
    task = Task.model_validate(catalogue.KNOWN_TASKS[name])
    assert task.source.config == name
    prepare_data(task, tmp_path / "source", tmp_path / "data")
    described = read_task(tmp_path / "data")
    assert described["labels"] == list(labels)
    ends = ("_matched", "_mismatched") if name == "mnli" else ("",)
    assert described["test_sets"] == [f"test{end}" for end in ends]
    expected = {"train": splits["train"], **{f"test{end}": splits[f"validation{end}"] for end in ends}}
    for split, frame in expected.items():
        kept = [split, "validation"] if split == "train" else [split]
        found = pd.concat(pd.read_parquet(tmp_path / f"data/{part}.parquet") for part in kept)
        texts = [f"text_{letter}" for letter in "ab"[: len(columns)]]
        rows = set(found[[*texts, "label"]].itertuples(index=False, name=None))
        assert rows == set(frame[[*columns, "label"]].itertuples(index=False, name=None))
    random = np.random.default_rng(0)
    targets, predictions = random.integers(0, len(labels), (2, 200))
    kind, classes = kind_of(described), classes_of(described)
    judged = kind.judged(targets, np.eye(len(labels))[predictions])
    computed = {metric.name: metric.compute(judged, classes) for metric in kind.metrics(classes)}
    reference = official(name, targets, predictions)
    assert described["metric"] in reference
    assert {metric: computed[metric] for metric in reference} == pytest.approx(reference)
