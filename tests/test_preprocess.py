"""The steps that change texts, one by one and in prepared data."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from intaglio.preprocess import Preprocessor
from intaglio.store import open_artifact
from intaglio.study.task import Task
from intaglio.tasks.prepare import prepare_data
from refusals import refused


def task(*steps: str, **more: Any) -> Task:
    given = {"source": {"kind": "files", "train": "x.csv"}, "text": ["text"], "label": "label", "labels": ["a", "b"]}
    return Task.model_validate({**given, "preprocess": steps, **more})


@pytest.mark.parametrize(
    ("steps", "text", "expected"),
    [
        ([], "The films  of @me", "The films  of @me"),
        (["stop_words"], "This is not the film that I wanted, is it?", "film wanted,?"),
        (["stop_words"], "It’s Dull, and it's long.", "Dull, long."),
        (["lemmatize"], "The films were boring me", "the film be boring I"),
        (["mask_urls"], "see https://a.org/b?c=1 or www.x.de now", "see http or http now"),
        (["mask_users"], "@ana: write to me@there.org, @bo_1", "@user: write to me@there.org, @user"),
        # In the order given: a lemma may be a stop word where the word is none.
        (["lemmatize", "stop_words"], "@ana films", "@ana film"),
        (["mask_users", "mask_urls"], "@ana http://x.org", "@user http"),
        (["stop_words"], "this is it", "."),
        (["stop_words"], "", ""),
    ],
)
def test_steps(steps: list[str], text: str, expected: str) -> None:
    assert [each.lower() for each in Preprocessor(steps).of([text])] == [expected.lower()]


def test_another_language() -> None:
    assert Preprocessor(["lemmatize"], "de").of(["Filme"]) == ["Film"]
    assert "no lemmas for 'xx'" in refused(Preprocessor, ["lemmatize"], "xx")
    assert "stop_words are English" in refused(Preprocessor, ["stop_words"], "de")


def test_prepared_data_is_changed_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"text": f"the film number {i} at http://x.org/{i}", "label": "ab"[i % 2]} for i in range(40)]
    rows += [{"text": "it is what it is", "label": "a"}] * 3
    pd.DataFrame(rows).to_csv(tmp_path / "train.csv", index=False)
    source = {"kind": "files", "train": str(tmp_path / "train.csv")}
    outputs = {}
    for name, steps in (("plain", []), ("masked", ["mask_urls"]), ("both", ["mask_urls", "stop_words"])):
        prepare_data(task(*steps, source=source), None, tmp_path / name)
        frames = [pd.read_parquet(path) for path in sorted((tmp_path / name).glob("*.parquet"))]
        outputs[name] = set(pd.concat(frames)["text_a"])
    assert outputs["masked"] == {f"the film number {i} at http" for i in range(40)} | {"it is what it is"}
    assert outputs["both"] == {f"film number {i} http" for i in range(40)} | {"."}
    about, facts = open_artifact(tmp_path / "both", "data"), json.loads((tmp_path / "both/task.json").read_text())
    assert about["preprocess"] == facts["preprocess"] == ["mask_urls", "stop_words"]
    assert about["without_words"] == {"train": 3}
    assert "train: 3 texts have no word left after mask_urls, stop_words" in capsys.readouterr().err
    plain = json.loads((tmp_path / "plain/task.json").read_text())
    assert not {"preprocess", "language", "class_weights"} & set(plain)
