"""Class weights, focal loss and oversampling: against scikit-learn and torch, and in every stage that trains."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.nn.functional import cross_entropy
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from intaglio.checkpoint import Checkpoint
from intaglio.imbalance import ClassLoss, inverse_frequencies, oversampled
from intaglio.measure.evaluate import evaluate
from intaglio.metrics import Classes, Judged, named
from intaglio.planning.plan import make_plan
from intaglio.schemas import TRAINING_HISTORY, read_table
from intaglio.statistics import bootstrap
from intaglio.store import new_artifact
from intaglio.study.load import load
from intaglio.study.options import STAGES
from intaglio.tasks.stored import read_split
from intaglio.tokens.artifact import read_tokens
from refusals import refused
from stage_runs import finetune
from tiny import tiny_model, tiny_sentences

LABELS = np.array([0] * 12 + [1] * 4 + [2] * 3)
# The whole training split is one batch, so that the first loss is that of the untrained model.
ONE_STEP = {"max_steps": 1, "batch_size": 64, "dropout": 0.0, "attention_dropout": 0.0}


@pytest.fixture(scope="module")
def outputs() -> torch.Tensor:
    return torch.randn(len(LABELS), 3, generator=torch.Generator().manual_seed(0))


def test_weights_are_those_of_scikit_learn() -> None:
    expected = compute_class_weight("balanced", classes=np.arange(3), y=LABELS)
    np.testing.assert_allclose(inverse_frequencies(LABELS, 3), expected, rtol=1e-6)
    # A class that does not occur changes nothing for the others.
    np.testing.assert_allclose(inverse_frequencies(LABELS, 4), [*expected, 1], rtol=1e-6)


def test_a_weighted_loss_is_that_of_torch(outputs: torch.Tensor) -> None:
    weights, targets = inverse_frequencies(LABELS, 3), torch.from_numpy(LABELS)
    found = ClassLoss(weights)(outputs, targets)
    torch.testing.assert_close(found, cross_entropy(outputs, targets, weight=weights, reduction="sum"))
    # Their mean is 1, so the loss is as large as without weights where the model is equally wrong about all.
    same = torch.zeros_like(outputs)
    torch.testing.assert_close(ClassLoss(weights)(same, targets), cross_entropy(same, targets, reduction="sum"))


@pytest.mark.parametrize("gamma", [0.5, 2.0])
@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 1.0, 3.0])])
def test_the_focal_loss_is_its_formula(outputs: torch.Tensor, gamma: float, weights: torch.Tensor | None) -> None:
    p = outputs.double().softmax(1)[range(len(LABELS)), LABELS]
    alpha = torch.ones(3) if weights is None else weights
    expected = (alpha.double()[LABELS] * (1 - p) ** gamma * -p.log()).sum()
    found = ClassLoss(weights, gamma)(outputs, torch.from_numpy(LABELS))
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_the_focal_loss_has_a_gradient_where_the_model_is_certain(gamma: float) -> None:
    certain = torch.tensor([[200.0, 0.0], [0.0, 0.0]], requires_grad=True)
    ClassLoss(None, gamma)(certain, torch.tensor([0, 0])).backward()
    assert certain.grad is not None and torch.isfinite(certain.grad).all() and certain.grad[1, 0] < 0


def test_oversampling_repeats_every_example_of_a_class_about_as_often() -> None:
    rows = oversampled({"oversample": True}, LABELS, 1)
    assert list(rows[: len(LABELS)]) == list(range(len(LABELS)))
    assert np.bincount(LABELS[rows]).tolist() == [12, 12, 12]
    times = np.bincount(rows)
    assert set(times[LABELS == 0]) == {1} and set(times[LABELS == 1]) == {3} and set(times[LABELS == 2]) == {4}
    uneven = np.array([0] * 8 + [1] * 3)
    drawn = [oversampled({"oversample": True}, uneven, seed) for seed in (1, 1, *range(2, 6))]
    assert all(sorted(np.bincount(one)[8:]) == [2, 3, 3] for one in drawn)
    assert np.array_equal(drawn[0], drawn[1]) and any(not np.array_equal(drawn[0], one) for one in drawn[2:])
    assert oversampled({}, LABELS, 1) is None


def skewed(folder: Path, **settings: Any) -> Path:
    """Write a [data] artifact of 40 sentences of one class and 8 of another."""
    with new_artifact(folder, "data") as draft:
        for seed, split in enumerate(("train", "validation", "test")):
            frame = tiny_sentences(80, 2, seed)
            frame = pd.concat([frame[frame.label == 0], frame[frame.label == 1][:8]]).rename(columns={"text": "text_a"})
            frame.insert(0, "id", [f"{split}-{index}" for index in range(len(frame))])
            frame.astype({"label": "int64"}).to_parquet(draft / f"{split}.parquet", index=False)
        facts = {"kind": "single_label_classification", "labels": ["negative", "positive"], "positive": None}
        facts |= {"metric": "f1_macro", "test_sets": ["test"], "pair": False, **settings}
        (draft / "task.json").write_text(json.dumps(facts))
    return folder


def history(checkpoint: Path) -> dict[str, list[float]]:
    frame = read_table(checkpoint / "history.parquet", TRAINING_HISTORY).to_pandas()
    return frame.groupby("name")["value"].apply(list).to_dict()


def losses(model: Any, tokenizer: Any, data: Path, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the cross-entropy of every example of a split, computed one by one, and its label."""
    labels = torch.tensor(read_split(data, split)["label"].to_pylist())
    with torch.inference_mode():
        rows = [
            model(**{k: torch.tensor([v]) for k, v in row.items()}).logits
            for row in read_tokens(data, split, tokenizer, 32)
        ]
    return cross_entropy(torch.cat(rows), labels, reduction="none"), labels


SETTINGS: dict[str, dict[str, Any]] = {
    "none": {},
    "weights": {"class_weights": "inverse"},
    "focal": {"focal": 2.0},
    "oversample": {"oversample": True},
}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint to train on."""
    folder = tmp_path_factory.mktemp("start")
    options = STAGES["finetune"].model_validate(ONE_STEP)
    finetune(tiny_model(folder / "model"), skewed(folder / "data"), options, 1, 32, folder / "work", folder / "output")
    return folder / "output"


@pytest.mark.parametrize("setting", SETTINGS)
def test_training_has_the_loss_and_validation_has_not(setting: str, tmp_path: Path) -> None:
    # A head for the same labels is kept, so the first loss is that of this model.
    data, model = skewed(tmp_path / "data", **SETTINGS[setting]), tiny_model(tmp_path / "model")
    options = STAGES["finetune"].model_validate({**ONE_STEP, "batch_size": 128})
    finetune(model, data, options, 1, 32, tmp_path / "work", tmp_path / "output")
    found, tokenizer = history(tmp_path / "output"), AutoTokenizer.from_pretrained(model)
    validated, _ = losses(Checkpoint(tmp_path / "output").load(), tokenizer, data, "validation")
    assert found["validation_loss"] == pytest.approx([float(validated.mean())], rel=1e-4)
    before = AutoModelForSequenceClassification.from_pretrained(model).eval()
    each, labels = losses(before, tokenizer, data, "train")
    weight = torch.ones(len(labels))
    if setting == "weights":
        weight = torch.tensor(compute_class_weight("balanced", classes=np.arange(2), y=labels.numpy()))[labels]
    if setting == "focal":
        weight = (1 - (-each).exp()) ** 2
    if setting == "oversample":
        weight = torch.where(labels == 1, 5.0, 1.0)
    count = 80 if setting == "oversample" else 48
    expected = float((weight * each).sum() / count)
    plain = float(each.mean())
    assert setting == "none" or abs(expected - plain) > 0.02 * plain
    assert found["loss"][0] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("stage", ["finetune", "distil", "cut", "quantize"])
def test_every_stage_that_trains_has_the_loss(stage: str, start: Path, tmp_path: Path) -> None:
    first = {}
    for setting in ("none", "weights"):
        data = skewed(tmp_path / f"data-{setting}", **SETTINGS[setting])
        own: dict[str, Any] = {"quantize": {"calibration_examples": 32, "tolerance": 1.0}}.get(stage, {})
        options = STAGES[stage].model_validate({**ONE_STEP, **own})
        origin = tiny_model(tmp_path / f"model-{setting}") if stage == "finetune" else start
        finetune(origin, data, options, 1, 32, tmp_path / "work", tmp_path / setting)
        first[setting] = history(tmp_path / setting)["loss"][0]
    assert first["weights"] != pytest.approx(first["none"], rel=1e-3)


def test_an_epoch_of_oversampled_data_is_longer(start: Path, tmp_path: Path) -> None:
    options = STAGES["prune"].model_validate({"epochs": 1, "batch_size": 16})
    for setting, steps in (("none", 3), ("oversample", 5)):
        data = skewed(tmp_path / f"data-{setting}", **SETTINGS[setting])
        finetune(start, data, options, 1, 32, tmp_path / "work", tmp_path / setting)
        assert Checkpoint(tmp_path / setting).record["steps"] == steps


def study(**task: Any) -> dict[str, Any]:
    tasks = {"emotion": {}, "other": {"like": "emotion", **task}}
    return {"study": "s", "seeds": [1], "tasks": tasks, "models": {"minilm": {}}, "variants": {"float": None}}


def test_a_task_like_another_differs_in_what_it_names() -> None:
    same = make_plan(load(study()))
    assert len(same.jobs["finetune"]) == 1
    for setting in ({"class_weights": "inverse"}, {"oversample": True}, {"focal": 2}, {"preprocess": ["stop_words"]}):
        plan = make_plan(load(study(**setting)))
        assert plan.jobs["finetune"].keys() > same.jobs["finetune"].keys()
        assert len(plan.jobs["fetch"]) == 2
    assert "emotoin" in refused(load, study(like="emotoin")) and "emotion" in refused(load, study(like="emotoin"))
    assert "twice" in refused(load, study(preprocess=["lemmatize", "lemmatize"]))
    assert "stop_words" in refused(load, study(preprocess=["stop-words"]))


def test_a_rare_class_is_found_with_them_and_not_without(tmp_path: Path) -> None:
    """Macro F1 on a skewed set, and the interval of its difference, paired over the test examples."""
    options = STAGES["finetune"].model_validate(
        {**ONE_STEP, "max_steps": 48, "evaluations": 1, "batch_size": 16, "learning_rate": 1e-3}
    )
    predicted = {}
    for setting in ("none", "weights", "oversample"):
        data = skewed(tmp_path / f"data-{setting}", **SETTINGS[setting])
        output = tmp_path / setting
        finetune(tiny_model(tmp_path / f"model-{setting}"), data, options, 1, 32, tmp_path / "work", output)
        evaluate(output, data, 32, tmp_path / f"evaluation-{setting}")
        table = pd.read_parquet(tmp_path / f"evaluation-{setting}/predictions.parquet")
        predicted[setting] = Judged(table["label"].to_numpy(), table["prediction"].to_numpy())
    assert not predicted["none"].predictions.any()
    values = bootstrap.resampled([named("f1_macro")], Classes(2), list(predicted.values()), 1000)[0]
    for better in values[1:]:
        low, high = np.quantile(better - values[0], [0.025, 0.975])
        assert 0 < low < high
