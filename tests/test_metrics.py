"""One registry of metrics: a new one is one entry, and every room takes it from there."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import metrics as sk
from transformers import AutoModelForSequenceClassification

from intaglio.errors import UserError
from intaglio.kinds import KINDS, classes_of, kind_of
from intaglio.measure.evaluate import evaluate
from intaglio.metrics import KNOWN_METRICS, SINGLE_LABEL, Classes, Judged, Metric, named
from intaglio.statistics.bootstrap import resampled
from intaglio.store import open_artifact
from intaglio.study.options import FinetuneOptions
from intaglio.study.schema import Study
from intaglio.study.task import Task
from intaglio.training.job import Learner, StageJob
from intaglio.training.train import train
from tiny import tiny_checkpoint, tiny_config, tiny_data, tiny_tokenizer

TASK = {"source": {"kind": "files", "train": "x.csv"}, "text": ["text"], "label": "label"}


def _brier(judged: Judged, classes: Classes) -> float:
    """The mean squared error of the probabilities: from outputs, and lower is better."""
    probabilities = torch.from_numpy(np.asarray(judged.outputs, dtype=np.float64)).softmax(-1).numpy()
    return float(((probabilities - np.eye(classes.count)[judged.targets]) ** 2).sum(-1).mean())


@pytest.fixture
def brier(monkeypatch: pytest.MonkeyPatch) -> Metric:
    metric = Metric("brier", "Brier score", "× 100", _brier, higher_is_better=False)
    monkeypatch.setitem(KNOWN_METRICS, "brier", metric)
    return metric


def test_a_new_metric_is_one_entry(brier: Metric, tmp_path: Path) -> None:
    # The study, and its schema.
    assert Task.model_validate({**TASK, "labels": ["a", "b"], "metric": "brier"}).metric == "brier"
    assert "brier" in Study.model_json_schema()["$defs"]["Task"]["properties"]["metric"]["enum"]
    # Training chooses the weights where it is lowest.
    data = tiny_data(tmp_path / "data", metric="brier")
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(tiny_config())
    options = FinetuneOptions(max_steps=8, learning_rate=5e-3, batch_size=16, evaluations=4)
    job = StageJob(data, data, options, 0, 32, tmp_path / "work", tmp_path)
    result = train(job, Learner(model, tiny_tokenizer()))
    values = {row["step"]: row["value"] for row in result.history if row["name"] == "validation_brier"}
    assert result.best_step == min(values, key=values.__getitem__)
    assert result.validation["brier"] == min(values.values())
    # The evaluation.
    evaluate(tiny_checkpoint(tmp_path / "checkpoint"), data, 32, tmp_path / "evaluation")
    metrics = pd.read_parquet(tmp_path / "evaluation/metrics.parquet")
    predictions = pd.read_parquet(tmp_path / "evaluation/predictions.parquet")
    judged = Judged(
        predictions["label"].to_numpy(), predictions["prediction"].to_numpy(), np.stack(predictions["logits"])
    )
    assert metrics[metrics["primary"]][["metric", "value"]].values.tolist() == [["brier", _brier(judged, Classes(2))]]
    # The interval, on the examples that the documented generator draws.
    other = Judged(judged.targets, judged.predictions, judged.outputs[::-1])
    (values,) = resampled([brier], Classes(2), [judged, other], 100)
    drawn = np.random.default_rng([20211, 32]).integers(0, 32, (100, 32))
    assert values[0].tolist() == [_brier(judged.take(rows), Classes(2)) for rows in drawn]
    difference = _brier(other, Classes(2)) - _brier(judged, Classes(2))
    assert np.mean(values[1] - values[0]) == pytest.approx(difference, abs=0.1)
    # The tables and the plots.
    assert brier.axis == "Brier score × 100"


@pytest.mark.parametrize("name", [name for name, metric in KNOWN_METRICS.items() if SINGLE_LABEL in metric.kinds])
def test_metrics_are_best_for_the_truth_and_finite_without_it(name: str) -> None:
    metric, classes, labels = named(name), Classes(2, 1), np.array([0, 1, 1, 0, 1])
    assert metric.compute(Judged(labels, labels), classes) == 1
    assert metric.compute(Judged(labels, 1 - labels), classes) < 0.5
    for true in (0, 1):
        for taken in (0, 1):
            value = metric.compute(Judged(np.full(3, true), np.full(3, taken)), classes)
            assert np.isfinite(value)
            matrix = np.zeros((2, 2))
            matrix[true, taken] = 3
            assert metric.from_confusion is not None
            assert metric.from_confusion(matrix, classes) == value


@pytest.mark.parametrize("labels", [["spam", "ham"], ["ham", "spam"]])
def test_f1_is_of_the_class_that_the_task_names(labels: list[str]) -> None:
    true = np.array(["spam", "ham", "ham", "spam", "ham", "ham", "spam"])
    taken = np.array(["spam", "ham", "spam", "ham", "ham", "ham", "spam"])
    task = {"kind": next(iter(KINDS)), "labels": labels, "positive": "spam"}
    as_numbers = [np.array([labels.index(name) for name in names]) for names in (true, taken)]
    found = named("f1").compute(Judged(*as_numbers), classes_of(task))
    assert found == sk.f1_score(true, taken, pos_label="spam") == pytest.approx(2 / 3)
    assert resampled([named("f1")], classes_of(task), [Judged(*as_numbers)], 50) == pytest.approx(
        resampled([replace(named("f1"), from_confusion=None)], classes_of(task), [Judged(*as_numbers)], 50)
    )


def test_macro_f1_has_one_definition() -> None:
    """A declared class without examples costs nothing in training, evaluation and intervals."""
    labels = np.array([0, 1, 1, 0, 1, 1])
    metric, perfect = named("f1_macro"), Judged(labels, labels)
    assert metric.compute(perfect, Classes(3)) == 1
    assert (resampled([metric], Classes(3), [perfect], 100) == 1).all()
    random = np.random.default_rng(1)
    judged = Judged(random.integers(0, 4, 30), random.integers(0, 5, 30))
    one_by_one = resampled([replace(metric, from_confusion=None)], Classes(6), [judged], 200)
    assert resampled([metric], Classes(6), [judged], 200) == pytest.approx(one_by_one, abs=1e-12)


def test_an_unknown_metric_or_kind_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match="unknown metric 'acuracy', did you mean 'accuracy'"):
        named("acuracy")
    with pytest.raises(UserError, match="unknown kind of task 'single_label', did you mean 'single_label_classif"):
        kind_of({"kind": "single_label"})


def test_a_class_that_is_never_predicted_is_a_warning(tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(tmp_path / "checkpoint")
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint)
    with torch.no_grad():
        model.classifier.bias[:] = torch.tensor([10.0, -10.0])
    model.save_pretrained(checkpoint)
    evaluate(checkpoint, tiny_data(tmp_path / "data"), 32, tmp_path / "evaluation")
    warnings = open_artifact(tmp_path / "evaluation", "evaluation")["warnings"]
    assert warnings == ["test: 'positive' is never predicted"]
