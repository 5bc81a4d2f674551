"""What is said of data: counted by hand, with a tokenizer whose vocabulary is known."""

import json
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest

from intaglio.cli import main
from intaglio.schemas import DESCRIPTION, read_table
from intaglio.store import new_artifact
from intaglio.study.task import Task
from intaglio.tasks.prepare import prepare_data
from intaglio.tokens.description import description_rows, write_description
from tiny import tiny_data, tiny_model

# Of the tokenizer's words: all but ßß, which it reads as [UNK]; it lowercases.
TRAIN = ["The film was good", "the film was good", "the film was good", "ßß", "good " * 20]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "data"
    counts = {"examples": 5, "labels": {"no": 4, "yes": 1}}
    about = {"splits": {"train": counts}, "test_texts_in_training": {"test": 2}}
    with new_artifact(folder, "data", about) as draft:
        for split, texts in {"train": TRAIN, "validation": ["good"], "test": TRAIN[:2]}.items():
            frame = pd.DataFrame({"id": [str(i) for i in range(len(texts))], "text_a": texts, "label": 0})
            frame.to_parquet(draft / f"{split}.parquet", index=False)
        task = {"kind": "single_label_classification", "labels": ["no", "yes"], "test_sets": ["test"], "pair": False}
        (draft / "task.json").write_text(json.dumps(task))
    return folder


def test_it_counts(data: Path, model: Path, tmp_path: Path) -> None:
    write_description(data, model, 8, tmp_path / "out")
    frame = read_table(tmp_path / "out/description.parquet", DESCRIPTION).to_pandas()
    train = frame[frame["split"] == "train"]
    facts = dict(zip(train["measure"], train["value"], strict=True))
    # Tokens with [CLS] and [SEP]: 6, 6, 6, 3, 22. Words: 4 + 4 + 4 + 1 + 20, of which "the" and "was" thrice.
    assert (facts["examples"], facts["read"], facts["duplicates"]) == (5, 5, 1)
    assert facts["stop_words"] == pytest.approx(6 / 33)
    assert (facts["tokens_median"], facts["tokens_longest"], facts["truncated"]) == (6, 22, 0.2)
    assert facts["unknown"] == pytest.approx(1 / 43)
    # "The" is read as in small letters.
    assert facts["capitals_lost"] == 1
    classes = train[train["measure"] == "class"]
    assert dict(zip(classes["item"], classes["value"], strict=True)) == {"no": 4, "yes": 1}
    lengths = train[train["measure"] == "length"]
    found = {item: value for item, value in zip(lengths["item"], lengths["value"], strict=True) if value}
    assert found == {"6-6": 3, "3-3": 1, "17-": 1}
    assert frame.set_index(["split", "measure"]).loc[("test", "in_training"), "value"] == 2


def test_bins_of_lengths_end_at_max_length(data: Path, model: Path) -> None:
    items = [row["item"] for row in description_rows(data, model, 21) if row["measure"] == "length"]
    bounds = [item.split("-") for item in items[: len(items) // 3]]
    assert ["19", "21"] not in bounds and any(high == "21" for _, high in bounds) and bounds[-1][1] == ""
    assert all(int(high) + 1 == int(low) for (_, high), (low, _) in pairwise(bounds))


def test_a_cased_tokenizer_keeps_capitals_and_pairs_are_read_together(tmp_path: Path) -> None:
    pairs = tiny_data(tmp_path / "pairs", n=8, pair=True)
    both = {(row["split"], row["measure"]): row["value"] for row in description_rows(pairs, None, 32)}
    assert both["train", "examples"] == 8 and ("train", "tokens_median") not in both
    second = pd.read_parquet(pairs / "train.parquet")
    words = sum(len(text.rstrip(".").split()) for name in ("text_a", "text_b") for text in second[name])
    assert 0 < both["train", "stop_words"] < 1 and words > 8


def test_the_command_prints_a_table(data: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", str(data), "--model", str(model), "--max-length", "8"]) == 0
    printed = capsys.readouterr().out
    assert "| train " in printed and "no 80.0, yes 20.0" in printed and "capitals lost" in printed
    assert main(["describe", str(data / "task.json")]) == 2
    assert "name the task" in capsys.readouterr().err


def test_values_of_regression_are_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = pd.DataFrame({"text": [f"text {number}" for number in range(40)], "y": [float(n) for n in range(40)]})
    frame.to_csv(tmp_path / "data.csv", index=False)
    task = {"kind": "regression", "source": {"kind": "files", "train": str(tmp_path / "data.csv")}}
    prepare_data(Task.model_validate({**task, "text": ["text"], "label": "y"}), None, tmp_path / "data")
    found = {
        (row["split"], row["item"]): row["value"]
        for row in description_rows(tmp_path / "data", None, 32)
        if row["measure"] == "target"
    }
    for split in ("train", "validation", "test"):
        values = pd.read_parquet(tmp_path / f"data/{split}.parquet")["label"]
        expected = [values.mean(), values.std(ddof=0), values.min(), values.max()]
        assert [found[split, item] for item in ("mean", "deviation", "least", "most")] == pytest.approx(expected)
    assert main(["describe", str(tmp_path / "data")]) == 0
    printed = capsys.readouterr().out
    assert f"{found['train', 'mean']:.1f} ± {found['train', 'deviation']:.1f}, " in printed and "classes" not in printed
