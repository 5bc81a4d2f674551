"""Splits as tokens: what is stored, who refuses it, and that all jobs make the same of it as of the data itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from transformers import AutoTokenizer

from intaglio.cli import main
from intaglio.errors import UserError
from intaglio.measure.evaluate import evaluate
from intaglio.metrics import MULTI_LABEL
from intaglio.planning.plan import make_plan
from intaglio.store import new_artifact, open_artifact
from intaglio.study.load import load
from intaglio.study.options import CutOptions, FinetuneOptions, Int8Options
from intaglio.tasks.stored import read_split, read_task
from intaglio.tokens.artifact import read_tokens, write_tokens
from intaglio.tokens.description import description_rows
from stage_runs import assert_same_outcome, cut, finetune, int8
from tiny import TELLING, tiny_data, tiny_model, tiny_tokenizer

LENGTH = 20


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_data(tmp_path_factory.mktemp("data") / "data", n=48, pair=True)


@pytest.fixture(scope="module")
def tokens(data: Path, model: Path) -> Path:
    output = data.parent / "tokens"
    command = ["tokens", "--data", data, "--model", model, "--max-length", LENGTH, "--output", output]
    assert main([str(part) for part in command]) == 0
    return output


def test_rows_are_what_the_tokenizer_makes_of_the_examples(data: Path, tokens: Path) -> None:
    tokenizer, stored = tiny_tokenizer(), pd.read_parquet(data / "train.parquet")
    texts = stored["text_a"].tolist(), stored["text_b"].tolist()
    whole = [len(ids) for ids in tokenizer(*texts)["input_ids"]]
    expected = tokenizer(*texts, truncation=True, max_length=LENGTH)
    for folder in (data, tokens):
        found = read_tokens(folder, "train", tokenizer, LENGTH, labels=True)
        rows = list(found)
        for name in ("input_ids", "token_type_ids", "attention_mask"):
            assert [row[name] for row in rows] == expected[name]
        assert [row["label"] for row in rows] == stored["label"].tolist()
        assert found.fact("example").tolist() == list(range(len(stored)))
        assert found.fact("length").tolist() == whole
        assert found.lengths.tolist() == [min(length, LENGTH) for length in whole]
        assert found.truncated == np.mean([length > LENGTH for length in whole]) > 0
        assert "label" not in read_tokens(folder, "train", tokenizer, LENGTH)[0]
    with pytest.raises(IndexError):
        found[len(stored)]


def test_it_takes_the_place_of_the_data(data: Path, tokens: Path) -> None:
    assert read_task(tokens) == read_task(data)
    assert read_split(tokens, "test").equals(read_split(data, "test"))
    assert open_artifact(tokens, "tokens")["max_length"] == LENGTH


def test_a_selection_is_in_its_order_and_can_be_selected_from(tokens: Path) -> None:
    every = read_tokens(tokens, "train", tiny_tokenizer(), LENGTH)
    order = np.array([5, 40, 5, 0])
    some = every.take(order)
    assert list(some) == [every[int(row)] for row in order]
    assert list(some[1:]) == list(some)[1:] and some[-1] == every[0]
    assert some.__getitems__([3, 1]) == [some[3], some[1]]
    assert some.lengths.tolist() == every.lengths[order].tolist()
    assert some.fact("length").tolist() == every.fact("length")[order].tolist()


def test_long_splits_are_written_in_parts_and_not_held_in_memory(tmp_path: Path, model: Path) -> None:
    texts = ["good " * (1 + index % 17) for index in range(3500)]
    with new_artifact(tmp_path / "data", "data") as draft:
        for split in ("train", "validation"):
            pd.DataFrame({"id": map(str, range(3500)), "text_a": texts, "label": 0}).to_parquet(
                draft / f"{split}.parquet"
            )
        (draft / "task.json").write_text(json.dumps({"test_sets": []}))
    write_tokens(tmp_path / "data", model, 16, tmp_path / "tokens")
    file = tmp_path / "tokens" / "train.arrow"
    assert len(list(pa.ipc.open_stream(file))) == 4
    before = pa.total_allocated_bytes()
    found = read_tokens(tmp_path / "tokens", "train", tiny_tokenizer(), 16)
    rows = [found[row] for row in (3499, 999, 1000, 2001)]
    assert [len(row["input_ids"]) for row in rows] == [min(16, 3 + row % 17) for row in (3499, 999, 1000, 2001)]
    assert pa.total_allocated_bytes() - before < file.stat().st_size / 20


def test_lists_of_labels_are_kept(tmp_path: Path) -> None:
    labels = tuple(words[0] for words in TELLING)
    several = tiny_data(tmp_path / "data", n=20, labels=labels, kind=MULTI_LABEL)
    found = read_tokens(several, "train", tiny_tokenizer(), 32, labels=True)
    assert [row["label"] for row in found] == read_split(several, "train")["label"].to_pylist()


def test_all_jobs_make_the_same_of_it_as_of_the_data(data: Path, tokens: Path, model: Path, tmp_path: Path) -> None:
    options = FinetuneOptions(epochs=1, batch_size=8, learning_rate=1e-3, group_by_length=True)
    for name, folder in (("data", data), ("tokens", tokens)):
        work, made = tmp_path / "work", tmp_path / name
        finetune(model, folder, options, 1, LENGTH, work, made / "float")
        cut(made / "float", folder, CutOptions(epochs=1, speedup=1.3), 1, LENGTH, work, made / "cut")
        int8(made / "float", folder, Int8Options(tolerance=1.0), 1, LENGTH, work, made / "int8")
        for checkpoint in ("float", "int8"):
            evaluate(made / checkpoint, folder, LENGTH, made / f"evaluation-{checkpoint}")
    made = tmp_path / "data", tmp_path / "tokens"
    for stage in ("float", "cut"):
        assert_same_outcome(*(folder / stage for folder in made))
    for evaluation in ("evaluation-float", "evaluation-int8"):
        one, other = (pd.read_parquet(folder / evaluation / "predictions.parquet") for folder in made)
        pd.testing.assert_frame_equal(one, other)
    assert description_rows(data, model, LENGTH) == description_rows(tokens, model, LENGTH)


def test_what_does_not_fit_is_refused(data: Path, tokens: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tokens: texts are cut at 20 tokens, where max_length is 32; give the same"):
        read_tokens(tokens, "train", tiny_tokenizer(), 32)
    for other in (tiny_tokenizer("roberta"), AutoTokenizer.from_pretrained(tiny_model(tmp_path / "b", "distilbert"))):
        with pytest.raises(UserError, match=r"tokens: its tokens are not those of the model's tokenizer; make them"):
            read_tokens(tokens, "train", other, LENGTH)
    with pytest.raises(UserError, match="no split 'tset', did you mean 'test'"):
        read_tokens(data, "tset", tiny_tokenizer(), LENGTH)
    with new_artifact(tmp_path / "empty", "data") as draft:
        read_split(data, "test").slice(0, 0).to_pandas().to_parquet(draft / "test.parquet")
        (draft / "task.json").write_text("{}")
    with pytest.raises(UserError, match=r"empty: test is empty; give it examples"):
        read_tokens(tmp_path / "empty", "test", tiny_tokenizer(), LENGTH)


def test_a_task_is_tokenized_once_for_a_model_and_its_students() -> None:
    variants = {"float": [], "int": [{"stage": "quantize"}], "small": [{"stage": "distil", "student": "electra-small"}]}
    study = {"study": "s", "tasks": {"movie": {}, "nyt": {}}, "models": {"minilm": {}, "roberta-base": {}}}
    plan = make_plan(load({**study, "variants": variants, "seeds": [1, 2]}))
    jobs = plan.jobs["tokens"]
    # Two tasks, by two models and a student of both.
    assert len(jobs) == 6
    models = {job.output: job.inputs["model"] for job in jobs.values()}
    (student,) = {job.inputs["student"] for job in plan.jobs["distil"].values()}
    assert all(models[job.inputs["data"]] == student for job in plan.jobs["distil"].values())
    assert all(models[job.inputs["data"]] == job.inputs["model"] for job in plan.jobs["finetune"].values())
    for stage in ("finetune", "distil"):
        for job in plan.jobs[stage].values():
            (evaluation,) = (one for one in plan.jobs["evaluate"].values() if one.inputs["checkpoint"] == job.output)
            assert evaluation.inputs["data"] == job.inputs["data"]
