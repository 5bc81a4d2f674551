"""Multi-label classification and regression: metrics, losses, thresholds, strata, and every stage on tiny models."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from scipy.special import expit, rel_entr
from sklearn import metrics as sk
from transformers import AutoModelForSequenceClassification, BertConfig

from intaglio.checkpoint import Checkpoint
from intaglio.export.export import export
from intaglio.kinds import KINDS, divergence_of_labels, strata
from intaglio.kinds.thresholds import label_sets, tuned_thresholds
from intaglio.measure.evaluate import evaluate
from intaglio.measure.metrics import metric_rows
from intaglio.measure.profile import profile
from intaglio.metrics import KNOWN_METRICS, MULTI_LABEL, REGRESSION, SINGLE_LABEL, Classes, Judged, named
from intaglio.stages.run import run_stage
from intaglio.statistics.bootstrap import resampled
from intaglio.study.options import STAGES
from intaglio.study.profile import Profile
from intaglio.training.job import StageJob
from test_other_architectures import DISTILLED, INT, PRUNED, model_step, pretrained
from test_stages_int8 import exported_once
from tiny import MAX_LENGTH, tiny_config, tiny_data, tiny_model, tiny_tokenizer

LABELS = ("negative", "positive", "unsure")
TASKS: dict[str, dict[str, Any]] = {
    SINGLE_LABEL: {"kind": SINGLE_LABEL, "labels": list(LABELS), "metric": "accuracy"},
    MULTI_LABEL: {"kind": MULTI_LABEL, "labels": list(LABELS), "metric": "jaccard"},
    REGRESSION: {"kind": REGRESSION, "labels": ["rating"], "metric": "pearson", "mean": 0.0, "deviation": 1.5},
}


def label_sets_at_random(seed: int = 0, examples: int = 60) -> Judged:
    random = np.random.default_rng(seed)
    true, predicted = random.random((2, examples, 4)) < np.array([0.5, 0.2, 0.05, 0.0])
    return Judged(true.astype(np.int64), predicted.astype(np.int64))


def values_at_random(seed: int = 0, examples: int = 60) -> Judged:
    random = np.random.default_rng(seed)
    true = random.integers(0, 6, examples) + 1e6
    return Judged(true, true + random.normal(size=examples))


def test_metrics_of_label_sets_are_scikit_learns() -> None:
    judged = label_sets_at_random()
    true, predicted = judged.targets, judged.predictions
    assert not true.any(1).all() and (true.any(1) | predicted.any(1)).sum() < len(true)
    occurring = np.flatnonzero(true.any(0) | predicted.any(0))
    expected = {
        "jaccard": sk.jaccard_score(true, predicted, average="samples", zero_division=1),
        "subset_accuracy": sk.accuracy_score(true, predicted),
        "f1_micro": sk.f1_score(true, predicted, average="micro"),
        "f1_macro": sk.f1_score(true, predicted, labels=occurring, average="macro", zero_division=0),
    }
    assert {metric.name for metric in KINDS[MULTI_LABEL].metrics(Classes(4))} == set(expected)
    for name, value in expected.items():
        assert named(name).compute(judged, Classes(4)) == pytest.approx(value)
        assert named(name).compute(Judged(true, true), Classes(4)) == 1


def test_metrics_of_values_are_scipys_and_scikit_learns() -> None:
    judged = values_at_random()
    true, predicted = judged.targets, judged.predictions
    expected = {
        "pearson": stats.pearsonr(true, predicted).statistic,
        "spearman": stats.spearmanr(true, predicted).statistic,
        "mse": sk.mean_squared_error(true, predicted),
        "mae": sk.mean_absolute_error(true, predicted),
    }
    assert {metric.name for metric in KINDS[REGRESSION].metrics(Classes(1))} == set(expected)
    for name, value in expected.items():
        assert named(name).compute(judged, Classes(1)) == pytest.approx(value, rel=1e-9)
        assert named(name).higher_is_better == (name in ("pearson", "spearman"))
    constant = Judged(true, np.full(len(true), 0.1))
    assert named("pearson").compute(constant, Classes(1)) == named("spearman").compute(constant, Classes(1)) == 0


@pytest.mark.parametrize(
    ("name", "judged"),
    [
        *((name, label_sets_at_random()) for name in ("jaccard", "subset_accuracy", "f1_micro", "f1_macro")),
        *((name, values_at_random()) for name in ("pearson", "spearman", "mse", "mae")),
    ],
)
def test_intervals_are_of_the_metric_on_every_resample(name: str, judged: Judged) -> None:
    metric, classes, examples = named(name), Classes(4), len(judged.targets)
    drawn = np.random.default_rng([20211, examples]).integers(0, examples, (50, examples))
    expected = [metric.compute(judged.take(rows), classes) for rows in drawn]
    assert resampled([metric], classes, [judged, judged], 50)[0, 1] == pytest.approx(expected)


def test_a_metric_of_another_kind_is_refused() -> None:
    assert "micro" not in {metric.name for metric in KINDS[REGRESSION].metrics(Classes(1))}
    assert all(metric.kinds <= set(KINDS) for metric in KNOWN_METRICS.values())


@pytest.mark.parametrize("kind", [MULTI_LABEL, REGRESSION])
def test_the_loss_is_that_of_transformers(kind: str) -> None:
    labels = LABELS if kind == MULTI_LABEL else ("rating",)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(tiny_config("bert", labels, kind)).eval()
    inputs = {"input_ids": torch.randint(5, 40, (6, 9))}
    targets = torch.randint(0, 2, (6, 3)) if kind == MULTI_LABEL else torch.randn(6)
    expected = model(**inputs, labels=targets.float())
    found = KINDS[kind].loss(expected.logits, targets) / 6
    torch.testing.assert_close(found, expected.loss)
    mean = KINDS[kind].mean_loss(targets.numpy(), expected.logits.detach().numpy())
    assert mean == pytest.approx(expected.loss.item(), rel=1e-6)


def test_the_divergence_of_labels_is_that_of_their_probabilities() -> None:
    teacher, student = np.random.default_rng(0).normal(size=(2, 5, 3))
    p, q = expit(teacher / 2), expit(student / 2)
    expected = 4 * (rel_entr(p, q) + rel_entr(1 - p, 1 - q)).mean(1)
    found = divergence_of_labels(torch.tensor(teacher), torch.tensor(student), 2.0)
    assert found.numpy() == pytest.approx(expected)


def test_thresholds_have_the_best_f1_of_any() -> None:
    random = np.random.default_rng(0)
    targets = (random.random((80, 4)) < np.array([0.5, 0.1, 0.0, 1.0])).astype(np.int64)
    logits = (random.normal(size=(80, 4)) + targets - 1.5).astype(np.float32)
    found = tuned_thresholds(targets, logits)
    assert found[2:] == [0.5, 0.5]
    for label in (0, 1):
        scores = {
            threshold: sk.f1_score(targets[:, label], expit(logits[:, label]) > threshold)
            for threshold in (*np.linspace(0, 1, 2001), found[label])
        }
        assert scores[found[label]] == pytest.approx(max(scores.values()))
        assert scores[found[label]] > scores[0.5]
        better = [threshold for threshold, score in scores.items() if score == max(scores.values())]
        assert abs(found[label] - 0.5) <= min(abs(threshold - 0.5) for threshold in better) + 0.05
    assert label_sets(np.array([[0.0, 0.1], [-0.1, -3.0]]), None).tolist() == [[0, 1], [0, 0]]
    assert label_sets(np.array([[0.0, 0.1], [-0.1, -3.0]]), [0.4, 0.6]).tolist() == [[1, 0], [1, 0]]


def test_weights_are_selected_with_tuned_thresholds() -> None:
    """Probabilities that are all below one half, but higher where a label is present."""
    targets = (np.random.default_rng(0).random((60, 3)) < 0.3).astype(np.int64)
    found = KINDS[MULTI_LABEL].validation(TASKS[MULTI_LABEL], targets, targets - 3.0)
    assert found["jaccard"] == 1
    assert found["loss"] == pytest.approx(sk.log_loss(targets.ravel(), expit(targets.ravel() - 3.0)), rel=1e-6)


def test_strata_are_the_rarest_labels_and_groups_of_equal_size() -> None:
    targets = np.array([[1, 0, 1], [1, 0, 0], [1, 1, 1], [0, 0, 0], [1, 0, 1]])
    assert strata.of_label_sets(targets).tolist() == [2, 0, 1, 3, 2]
    values = np.array([3.0, 1.0, 2.0] * 40)
    groups = strata.of_values(values)
    assert np.bincount(groups).tolist() == [12] * 10
    assert all(values[groups == low].max() <= values[groups == low + 1].min() for low in range(9))
    assert strata.of_values(np.array([2.0, 1.0])).tolist() == [0, 0]


def test_the_rows_of_label_sets_have_a_table_for_every_label() -> None:
    outputs = np.array([[2.0, -1.0, 0.3], [0.2, 1.0, -2.0], [-1.0, 0.2, -0.5]])
    targets = np.array([[1, 0, 0], [1, 1, 0], [1, 0, 0]])
    rows = metric_rows(TASKS[MULTI_LABEL], targets, outputs, [0.6, 0.5, 0.5])
    found = {(row["metric"], row["label"]): row["value"] for row in rows}
    cells = ("true_positives", "false_negatives", "false_positives", "true_negatives")
    assert [[found[cell, label] for cell in cells] for label in LABELS] == [[1, 2, 0, 0], [1, 0, 1, 1], [0, 0, 1, 2]]
    assert found["class_recall", "negative"] == 1 / 3 and found["class_accuracy", "unsure"] == 2 / 3
    assert [found["class_threshold", label] for label in LABELS] == [0.6, 0.5, 0.5]
    assert found["jaccard", None] == pytest.approx((1 / 2 + 1 / 2 + 0) / 3)
    assert [row["metric"] for row in rows if row["primary"]] == ["jaccard"]
    values = metric_rows(TASKS[REGRESSION], np.array([1.0, 2.0]), np.array([[1.5], [2.5]]))
    assert {row["metric"]: row["value"] for row in values}["mae"] == 0.5
    assert all(row["label"] is None for row in values)


# Few steps: what is tested is that each stage does its work, and that evaluation and export follow.
TRAINING = {"max_steps": 6, "batch_size": 16, "learning_rate": 1e-3}
OPTIONS: dict[str, dict[str, Any]] = {
    "finetune": {**TRAINING, "max_steps": 120, "learning_rate": 1e-2, "precision": "fp32"},
    "distil": {**TRAINING, "layers": 1},
    "prune": {**TRAINING, "prunings": 2, "distillation": {}},
    "cut": {**TRAINING, "importance_examples": 32},
    "quantize": {**TRAINING, "calibration_examples": 32, "tolerance": 1.0, "distillation": {}, "learning_rate": 1e-4},
    # A tiny model's predictions are so close to each other that what 8 bits change depends on the processor.
    "int8": {"calibration_examples": 16, "tolerance": 1.0},
    "openvino": {"calibration_examples": 16, "tolerance": 1.0, "engine": "openvino"},
}
# Each architecture has each group of stages on one kind of task, each kind has each group on two architectures.
GROUPS: tuple[tuple[str, ...], ...] = (("int8", "openvino"), ("quantize", "prune"), ("distil", "cut", "quantize"))
OWN = "own"
CASES = [
    (arch, kind, GROUPS[(row + column) % 3])
    for row, arch in enumerate(("bert", "roberta", "xlm-roberta", "electra", "distilbert", OWN))
    for column, kind in enumerate(TASKS)
]


def run(folder: Path, stage: str, start: Path, data: Path, name: str = "", **further: Any) -> Path:
    output = folder / (name or stage)
    options = STAGES["int8" if stage == "openvino" else stage].model_validate({**OPTIONS[stage], **further})
    teacher = start if getattr(options, "distillation", None) is not None else None
    run_stage(StageJob(start, data, options, 1, 32, folder / "work" / output.name, output, teacher))
    return output


def evaluated(folder: Path, checkpoint: Path, data: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    output = folder / f"evaluation-{checkpoint.name}"
    evaluate(checkpoint, data, 32, output)
    return pd.read_parquet(output / "predictions.parquet"), pd.read_parquet(output / "metrics.parquet")


def data_of(folder: Path, kind: str, n: int) -> Path:
    """Data of a kind; values of regression are far from zero and one."""
    task = TASKS[kind]
    unit = {"unit": 100.0, "zero": 5000.0} if kind == REGRESSION else {}
    return tiny_data(folder, n, task["labels"], metric=task["metric"], kind=kind, **unit)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: another classifier, in several files, as the step `model` takes it."""
    folder = tmp_path_factory.mktemp("own")
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 96}
    config = BertConfig(**sizes, max_position_embeddings=MAX_LENGTH, id2label=dict(enumerate("abcde")))
    pretrained(folder / "saved", config, tiny_tokenizer(), shards="40KB")
    assert len(list((folder / "saved").glob("*.safetensors"))) > 1
    return model_step(folder / "saved", INT, PRUNED, DISTILLED)


@pytest.mark.parametrize(("arch", "kind", "stages"), CASES, ids=lambda part: part if isinstance(part, str) else "")
def test_every_stage_works_for_every_kind(
    arch: str, kind: str, stages: tuple[str, ...], tmp_path: Path, own: Path
) -> None:
    """All pairs of architecture and kind, of architecture and stage, and of kind and stage, not all three together."""
    task = TASKS[kind]
    data = data_of(tmp_path / "data", kind, 96)
    float_one = run(tmp_path, "finetune", own if arch == OWN else tiny_model(tmp_path / "model", arch), data)
    described = json.loads((float_one / "config.json").read_text())
    assert described["problem_type"] == kind and Checkpoint(float_one).labels == task["labels"]
    reference = AutoModelForSequenceClassification.from_pretrained(float_one).eval()
    with exported_once(float_one) if "int8" in stages else nullcontext():
        made = [run(tmp_path, stage, float_one, data) for stage in stages]
    for checkpoint in (float_one, *made):
        predictions, metrics = evaluated(tmp_path, checkpoint, data)
        record = json.loads((checkpoint / "training.json").read_text())
        true, outputs = np.stack(predictions["label"]), np.stack(predictions["logits"])
        scores = metrics[metrics["label"].isna()].set_index("metric")["value"]
        assert np.isfinite(metrics["value"]).all() and set(record["validation"]) == {task["metric"], "loss"}
        assert (kind == MULTI_LABEL) == ("thresholds" in record)
        if kind == MULTI_LABEL:
            thresholds = [record["thresholds"][label] for label in LABELS]
            expected = (expit(outputs.astype(float)) > thresholds).astype(int)
            assert np.array_equal(np.stack(predictions["prediction"]), expected)
            score = sk.jaccard_score(true, expected, average="samples", zero_division=1)
        elif kind == REGRESSION:
            assert predictions["prediction"].to_numpy() == pytest.approx(outputs[:, 0])
            assert scores["mse"] == pytest.approx(sk.mean_squared_error(true, outputs[:, 0]), rel=1e-4)
            score = stats.pearsonr(true, outputs[:, 0]).statistic
        else:
            score = sk.accuracy_score(true, outputs.argmax(1))
        assert scores[task["metric"]] == pytest.approx(score, abs=1e-6)
        if checkpoint == float_one:
            # It has learnt something, and its outputs are those of transformers.
            assert score > 0.5 and (kind != REGRESSION or scores["mse"] < 2 * np.var(true))
            tokens = Checkpoint(float_one).tokenizer("a good film.", return_tensors="pt")
            with torch.no_grad():
                again = Checkpoint(float_one).load()(**tokens).logits
                torch.testing.assert_close(again, reference(**tokens).logits)
        elif checkpoint.name in ("quantize", "int8", "openvino"):
            assert 0 <= record["conversion"]["difference"] <= 1


@pytest.mark.parametrize("kind", [MULTI_LABEL, REGRESSION])
def test_every_backend_gives_the_same_outputs(kind: str, tmp_path: Path) -> None:
    data = data_of(tmp_path / "data", kind, 48)
    start = run(tmp_path, "finetune", tiny_model(tmp_path / "model"), data, max_steps=4)
    checkpoint = run(tmp_path, "quantize", start, data, max_steps=2)
    exports = {path: tmp_path / f"{path.name}-export" for path in (start, checkpoint)}
    for path, exported in exports.items():
        export(path, exported)
        record, trained = (json.loads(file.read_text()) for file in (exported / "export.json", path / "training.json"))
        assert record.get("thresholds") == trained.get("thresholds")
        assert (kind == MULTI_LABEL) == ("thresholds" in record)
    few = {"batch_sizes": [2], "lengths": [16], "headline": (2, 16), "calls": 2, "warmup": 1, "threads": 1}
    options = Profile(**few, devices=["cpu"], backends=["torch", "onnxruntime", "openvino", "native"])
    wanted = {start: {"torch", "onnxruntime", "openvino"}, checkpoint: {"torch", "onnxruntime", "native"}}
    largest = 1.0 if kind == MULTI_LABEL else 5000.0
    for path, backends in wanted.items():
        beside = None if path == start else (start, exports[start])
        profile(path, exports[path], options, tmp_path / f"{path.name}-profile", beside)
        rows = pd.read_parquet(tmp_path / f"{path.name}-profile/latency.parquet")
        assert set(rows["backend"]) == backends
        assert (rows["max_difference"] < 1e-4 * largest).all()
