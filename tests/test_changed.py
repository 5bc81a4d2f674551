"""The predictions that bf16 changes: counted on the test sets, against transformers' model in bf16."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForSequenceClassification

import fakes
from encoders import random_model
from intaglio.checkpoint import Checkpoint
from intaglio.export.export import export
from intaglio.measure import changed
from intaglio.measure.backends.eager import Eager
from intaglio.measure.changed import changed_predictions
from intaglio.measure.evaluate import predict
from intaglio.measure.places import Place, opened
from intaglio.measure.profile import profile
from intaglio.report.backends import show_backends
from intaglio.schemas import BACKENDS, LATENCY, read_table
from intaglio.store import new_artifact
from intaglio.study.profile import Profile
from intaglio.summary.summarize import write_summary
from tiny import tiny_data, tiny_tokenizer

BF16 = Place("torch-bf16", "cpu")
# Of both test sets together.
EXAMPLES, LENGTH = 64, 24


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model that is undecided about most texts, and the data."""
    root = tmp_path_factory.mktemp("changed")
    data, model = tiny_data(root / "data", n=EXAMPLES, test_sets=("test_a", "test_b")), random_model("bert")
    with torch.no_grad():
        model.classifier.weight[1] = model.classifier.weight[0] * 1.001
        model.classifier.bias.zero_()
        logits = logits_of(model, data)
        model.classifier.bias[0] = float(np.median(logits[:, 1] - logits[:, 0]))
    with new_artifact(root / "checkpoint", "checkpoint") as draft:
        model.save_pretrained(draft)
        tiny_tokenizer().save_pretrained(draft)
    return root / "checkpoint", data


def logits_of(model: Any, data: Path) -> np.ndarray:
    tokenizer = tiny_tokenizer()
    texts = [text for name in ("a", "b") for text in pd.read_parquet(data / f"test_{name}.parquet")["text_a"]]
    examples = [dict(tokenizer(text, truncation=True, max_length=LENGTH)) for text in texts]
    return predict(model, tokenizer, examples, 32, "cpu")


@pytest.mark.parametrize("recompiles", [False, True])
def test_they_are_those_of_transformers_in_bf16(
    recompiles: bool, made: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, data = made
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint).eval()
    before = logits_of(model, data).argmax(1)
    after = logits_of(model.bfloat16(), data).argmax(1)
    shapes: list[set[torch.Size]] = []

    def watched(model: Any, *others: Any) -> Any:
        shapes.append(set())
        return predict(lambda **given: [shapes[-1].add(given["input_ids"].shape), model(**given)][1], *others)

    monkeypatch.setattr(changed, "predict", watched)
    monkeypatch.setattr(Eager, "recompiles", recompiles)
    with opened(BF16, Checkpoint(checkpoint), tmp_path, 1) as it:
        found = changed_predictions([it], Checkpoint(checkpoint), tmp_path, data, LENGTH, 1)
    assert list(found) == [BF16] and found[BF16].compared == EXAMPLES
    assert found[BF16].changed > 0
    if recompiles:
        # Every new shape would take seconds.
        assert [len(each) for each in shapes] == [1, 1]
    else:
        assert found[BF16].changed == (before != after).sum()


def test_the_table_has_their_sum_over_seeds(tmp_path: Path) -> None:
    content = fakes.study(variants=("float",), profile={"seeds": "all", "backends": ["torch", "torch-bf16"]})
    write_summary(fakes.results(tmp_path, content), tmp_path / "summary")
    rows = read_table(tmp_path / "summary" / "backends.parquet", BACKENDS).to_pylist()
    counts = {row["backend"]: (row["changed_predictions"], row["compared_predictions"]) for row in rows}
    assert counts == {"torch": (None, None), "torch-bf16": (6, 1024)}
    shown = show_backends("study", rows)
    assert "6 of 1024" in [row[shown.columns.index("changed predictions")] for row in shown.rows]


@pytest.mark.parametrize(("total", "drawn"), [(5, 5), (40, 32), (10_000, 512)])
def test_only_full_batches_of_large_test_sets(total: int, drawn: int) -> None:
    rows = changed._drawn(total)
    assert len(set(rows)) == drawn and rows.max() < total


def test_the_profile_of_a_float_model_has_them(
    made: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, data = made
    monkeypatch.setattr("intaglio.measure.backends.base.instructions", lambda: frozenset({"avx512_bf16"}))
    export(checkpoint, tmp_path / "export")
    shape: dict[str, Any] = {"batch_sizes": [1], "lengths": [8], "headline": (1, 8), "warmup": 1, "calls": 2}
    options = Profile(**shape, threads=1, devices=("cpu",), backends=("torch", "torch-bf16"))
    profile(checkpoint, tmp_path / "export", options, tmp_path / "profile", texts=(data, LENGTH))
    rows = read_table(tmp_path / "profile" / "latency.parquet", LATENCY).to_pylist()
    exact, half = sorted(rows, key=lambda row: row["backend"])
    assert (exact["changed_predictions"], exact["compared_predictions"]) == (None, None)
    assert half["compared_predictions"] == EXAMPLES > half["changed_predictions"] > 0
