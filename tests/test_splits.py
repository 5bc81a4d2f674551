"""Splits by group and by time, and duplicates: what the splits promise, on data where a random split would break it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from data_files import csv_task
from intaglio.store import open_artifact
from intaglio.tasks.prepare import prepare_data
from refusals import refused

ROWS = 600


def frame(**columns: Any) -> pd.DataFrame:
    labels = ["neg" if row % 3 else "pos" for row in range(ROWS)]
    return pd.DataFrame({"text": [f"text {row}" for row in range(ROWS)], "label": labels, **columns})


def splits(folder: Path, data: pd.DataFrame, test: pd.DataFrame | None = None, **options: Any) -> dict[str, list[int]]:
    """Return the rows of every split."""
    prepare_data(csv_task(folder, data, test, **options), None, folder / "out")
    names = ("train", "validation", "test")
    texts = {name: pd.read_parquet(folder / f"out/{name}.parquet")["text_a"] for name in names}
    return {name: [int(text.split()[1]) for text in column] for name, column in texts.items()}


@pytest.mark.parametrize("sizes", ["equal", "skewed"])
def test_no_group_is_in_two_splits(tmp_path: Path, sizes: str) -> None:
    random = np.random.default_rng(0)
    authors = random.integers(0, 60, ROWS) if sizes == "equal" else random.zipf(1.5, ROWS) % 200
    rows = splits(tmp_path, frame(author=authors), split_by="author")
    assert sorted(row for part in rows.values() for row in part) == list(range(ROWS))
    groups = {name: set(authors[part]) for name, part in rows.items()}
    assert not groups["train"] & groups["validation"]
    assert not (groups["train"] | groups["validation"]) & groups["test"]
    for name, share in (("test", 0.2), ("validation", 0.08)):
        assert abs(len(rows[name]) / ROWS - share) < 0.03
        assert abs(np.mean([row % 3 == 0 for row in rows[name]]) - 1 / 3) < 0.1
    assert rows == splits(tmp_path, frame(author=authors), split_by="author")
    assert rows != splits(tmp_path, frame(author=authors), split_by="author", split_seed=1)


@pytest.mark.parametrize("written", ["numbers", "dates", "times"])
def test_later_examples_are_validated_and_tested_on(tmp_path: Path, written: str) -> None:
    # Three rows share each time, and the file is not in their order.
    order = np.random.default_rng(0).permutation(ROWS) // 3
    days = pd.Timestamp("2024-01-01") + pd.to_timedelta(order, unit="D")
    column = {"numbers": order, "dates": days.strftime("%Y-%m-%d"), "times": days.strftime("%Y-%m-%dT%H:%M:%SZ")}
    rows = splits(tmp_path, frame(time=column[written]), split_by_time="time")
    assert [len(rows[name]) for name in ("train", "validation", "test")] == [432, 48, 120]
    assert max(order[rows["train"]]) < min(order[rows["validation"]])
    assert max(order[rows["validation"]]) < min(order[rows["test"]])


def test_groups_of_a_given_test_set_that_are_trained_on_are_a_warning(tmp_path: Path) -> None:
    data = frame(author=[f"a{row // 20}" for row in range(ROWS)])
    test = frame(author=["a3", "b1", "", ""] * 150)[:90].assign(text=[f"new {row}" for row in range(90)])
    for given, expected in (
        (test, ["test: 23 of 90 examples are of groups (column 'author') that are also in the training data"]),
        (test[test["author"] != "a3"], []),
        (test.drop(columns="author"), []),
    ):
        prepare_data(csv_task(tmp_path, data, given, split_by="author"), None, tmp_path / "out")
        assert open_artifact(tmp_path / "out", "data")["warnings"] == expected


def test_training_examples_whose_text_is_tested_are_dropped(tmp_path: Path) -> None:
    data = frame()
    test = pd.concat([data[:50], data[:4].assign(text=["text 1000", "text 1001", "text 1002", "text 1003"])])
    kept = splits(tmp_path, data, test)
    assert len(kept["train"]) + len(kept["validation"]) == ROWS
    assert open_artifact(tmp_path / "out", "data")["test_texts_in_training"] == {"test": 50}
    rows = splits(tmp_path, data, test, duplicates="drop")
    assert rows["test"] == kept["test"]
    assert sorted(rows["train"] + rows["validation"]) == list(range(50, ROWS))
    about = open_artifact(tmp_path / "out", "data")
    assert (about["duplicates"], about["test_texts_in_training"], about["warnings"]) == (50, {"test": 0}, [])


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({}, {"split_by": "author"}, "train.csv: no column 'author', known: label, text"),
        ({"author": ["a", None] * 300}, {"split_by": "author"}, "line 3: no value in column 'author', by which"),
        ({"author": ["a", "b"] * 300}, {"split_by": "author"}, "test: no groups make about 20% of 600 examples"),
        ({"time": ["soon"] * ROWS}, {"split_by_time": "time"}, "line 2: column 'time' holds 'soon', not a number or"),
        ({"time": ["1", "2024-05-31"] * 300}, {"split_by_time": "time"}, "holds '2024-05-31', not a number"),
        ({"time": ["inf"] * ROWS}, {"split_by_time": "time"}, "holds 'inf', not a number or a date"),
        ({"time": [7] * ROWS}, {"split_by_time": "time"}, "test: all 600 examples have the same time; check"),
    ],
)
def test_refusals(tmp_path: Path, columns: dict[str, Any], options: dict[str, Any], message: str) -> None:
    assert message in refused(prepare_data, csv_task(tmp_path, frame(**columns), **options), None, tmp_path / "out")
