"""The stage `continue`: a float model is trained on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from intaglio.checkpoint import Checkpoint
from intaglio.errors import UserError
from intaglio.study.options import ContinueOptions, CutOptions, FinetuneOptions, QuantizeOptions
from stage_runs import assert_same_outcome, continued, cut, finetune, quantize
from tiny import tiny_data, tiny_model

FEW = {"max_steps": 4, "batch_size": 8, "learning_rate": 1e-3, "evaluations": 1}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_data(tmp_path_factory.mktemp("data") / "data")


@pytest.fixture(scope="module")
def parent(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parent")
    options = FinetuneOptions(**FEW)
    finetune(tiny_model(folder / "model"), data, options, 1, 32, folder / "work", folder / "float")
    return folder / "float"


def test_it_trains_as_fine_tuning_from_the_same_weights_does(data: Path, parent: Path, tmp_path: Path) -> None:
    common = (1, 32, tmp_path / "work")
    continued(parent, data, ContinueOptions(**FEW, like="quantize"), *common, tmp_path / "on")
    # Fine-tuning takes a model with its head, too, where it is a folder of transformers.
    shutil.copytree(parent, tmp_path / "plain", ignore=shutil.ignore_patterns("manifest.json"))
    finetune(tmp_path / "plain", data, FinetuneOptions(**FEW, precision="fp32"), *common, tmp_path / "again")
    assert_same_outcome(tmp_path / "on", tmp_path / "again")
    before, after = (load_file(folder / "model.safetensors") for folder in (parent, tmp_path / "on"))
    assert before.keys() == after.keys()
    assert not torch.equal(before["classifier.weight"], after["classifier.weight"])
    record = Checkpoint(tmp_path / "on").record
    assert (record["stage"], record["steps"], record["parent"]) == ("continue", 4, str(parent))
    assert record["total_train_seconds"] > record["train_seconds"] > 0
    AutoModelForSequenceClassification.from_pretrained(tmp_path / "on")


def test_it_keeps_what_was_cut_and_takes_no_integers(data: Path, parent: Path, tmp_path: Path) -> None:
    common = (1, 32, tmp_path / "work")
    cut(parent, data, CutOptions(**FEW, importance_examples=8), *common, tmp_path / "cut")
    continued(tmp_path / "cut", data, ContinueOptions(**FEW), *common, tmp_path / "on")
    before, after = (load_file(folder / "model.safetensors") for folder in (tmp_path / "cut", tmp_path / "on"))
    assert {name: tensor.shape for name, tensor in after.items()} == {
        name: tensor.shape for name, tensor in before.items()
    }
    assert Checkpoint(tmp_path / "on").kind == "encoder"
    options = QuantizeOptions(**FEW, calibration_examples=8, tolerance=1.0)
    quantize(parent, data, options, *common, tmp_path / "int")
    with pytest.raises(UserError, match="is quantized"):
        continued(tmp_path / "int", data, ContinueOptions(**FEW), *common, tmp_path / "no")
