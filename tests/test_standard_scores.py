"""Regression is trained on standard scores: the unit of the values changes nothing, and saved models give values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from intaglio.encoder.files import convert
from intaglio.imbalance import training_loss
from intaglio.measure.evaluate import evaluate
from intaglio.metrics import REGRESSION, SINGLE_LABEL
from intaglio.models.low_rank import add_adapters
from intaglio.models.standard_scores import label_loss, to_scores, to_values
from intaglio.stages.run import run_stage
from intaglio.study.low_rank import LowRank
from intaglio.study.options import STAGES
from intaglio.training.job import StageJob
from tiny import ARCHITECTURES, tiny_config, tiny_data, tiny_model

MEAN, DEVIATION = 5000.0, 20.0
TASK = {"kind": REGRESSION, "mean": MEAN, "deviation": DEVIATION}
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("arch", ["encoder", "low rank", "xlm-roberta", *ARCHITECTURES])
def test_a_model_of_values_becomes_one_of_scores_and_back(arch: str) -> None:
    kind = {"encoder": "bert", "low rank": "roberta"}.get(arch, arch)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(tiny_config(kind, ("rating",), REGRESSION)).eval()
    if arch == "encoder":
        model = convert(model, frozenset())
    if arch == "low rank":
        add_adapters(model, LowRank(), 0)
    inputs = {"input_ids": torch.randint(5, 40, (3, 7))}
    with torch.no_grad():
        scores = model(**inputs).logits
        to_values(model, TASK)
        torch.testing.assert_close(model(**inputs).logits, scores * DEVIATION + MEAN)
        to_scores(model, TASK)
        torch.testing.assert_close(model(**inputs).logits, scores, atol=1e-4, rtol=0)
        to_scores(model, {"kind": SINGLE_LABEL})
        torch.testing.assert_close(model(**inputs).logits, scores, atol=1e-4, rtol=0)


def test_the_loss_is_that_of_scores(tmp_path: Path) -> None:
    outputs, targets = torch.tensor([[0.5], [-1.0]]), torch.tensor([5020.0, 4990.0])
    assert float(label_loss(TASK, tmp_path, 0)(outputs, targets)) == pytest.approx(0.5**2 + 0.5**2)
    other = {"kind": SINGLE_LABEL}
    assert label_loss(other, tmp_path, 0) is training_loss(other, tmp_path, 0)


FEW = {"max_steps": 12, "batch_size": 16, "learning_rate": 3e-3, "evaluations": 1}
OPTIONS: dict[str, dict[str, Any]] = {
    "finetune": FEW,
    "prune": {**FEW, "distillation": {"hidden": 1.0}},
    "distil": {**FEW, "layers": 1},
    "quantize": {**FEW, "calibration_examples": 32, "tolerance": 1.0},
}


def test_the_unit_of_the_values_changes_nothing(tmp_path: Path) -> None:
    found: dict[float, dict[str, Any]] = {1.0: {}, DEVIATION: {}}
    for unit, tables in found.items():
        folder = tmp_path / str(unit)
        zero = 0.0 if unit == 1 else MEAN
        data = tiny_data(folder / "data", 48, ["rating"], metric="pearson", kind=REGRESSION, unit=unit, zero=zero)
        for stage, options in OPTIONS.items():
            start = tiny_model(folder / "model") if stage == "finetune" else folder / "finetune"
            parsed = STAGES[stage].model_validate(options)
            teacher = start if stage == "prune" else None
            run_stage(StageJob(start, data, parsed, 1, 32, folder / "work", folder / stage, teacher))
            evaluate(folder / stage, data, 32, folder / f"evaluation-{stage}")
            predictions = pd.read_parquet(folder / f"evaluation-{stage}/predictions.parquet")["prediction"]
            tables[stage] = (predictions.to_numpy() - zero) / unit, pd.read_parquet(folder / stage / "history.parquet")
    for stage in OPTIONS:
        (first, history), (other, other_history) = (tables[stage] for tables in found.values())
        assert other == pytest.approx(first, abs=0.02), stage
        assert first.std() > 0.001
        assert other_history["value"].to_numpy() == pytest.approx(history["value"].to_numpy(), abs=0.02), stage
