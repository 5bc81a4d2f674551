"""The studies of emotions that need no hub: their data has the form of the originals', and their recipes are theirs."""

from __future__ import annotations

import importlib
import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from intaglio.planning.plan import make_plan
from intaglio.publications import EMOTIONS
from intaglio.study.load import load
from study_on_files import ROOT
from tiny import PLAIN, tiny_model


@pytest.fixture
def emotions(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("emotions")


def texts(emotions: Any) -> list[str]:
    chance = random.Random(0)
    telling = [words.split() for words in emotions.WORDS.values()]
    found = []
    for number in range(8000):
        chosen = [chance.choice(words) for words in chance.sample(telling, chance.choice((0, 1, 1, 1, 2, 3)))]
        found.append(" ".join([*chance.choices(PLAIN, k=5), *chosen, str(number)]))
    return found


def test_data_and_studies(emotions: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    tiny_model(Path("models/minilm-3"))
    tweets = emotions.tweets(texts(emotions))
    assert tuple(tweets.columns) == ("ID", "Tweet", *EMOTIONS) and len(tweets) == 1000
    counts = tweets[list(EMOTIONS)].sum(axis=1)
    assert (counts > 1).sum() == 500 and (counts == 0).sum() == 50
    assert emotions.emotions_in("So Happy, and what a surprise!") == ["joy", "surprise"]
    tweets.to_csv("data/2018-E-c-En.tsv", sep="\t", index=False)
    tables = emotions.emotion(texts(emotions))
    for split, table in tables.items():
        shares = table["label"].value_counts(normalize=True)
        assert [shares[label] for label in range(6)] == pytest.approx(list(emotions.SHARES.values()), abs=0.01)
        table.to_csv(f"data/{split}.csv", index=False)
    assert not set(tables["train"]["text"]) & set(tables["test"]["text"])
    emotions.write_studies(Path())
    for name, runs in (("tweets", 8 * 3), ("emotion", 3 * 2 * 3), ("skewed", 4 * 6)):
        content = yaml.safe_load(Path(f"{name}.yaml").read_text())
        assert len(make_plan(load(content)).runs) == runs
        if name != "skewed":
            original = yaml.safe_load((ROOT / f"config/{name}.yaml").read_text())
            assert content["variants"] == original["variants"] and content["seeds"] == original["seeds"]
