"""Classifiers that start from pretrained weights: float32, the whole encoder, and rows that follow the labels."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    BertForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
)

from intaglio.metrics import SINGLE_LABEL
from intaglio.models.classifier import pretrained_classifier
from intaglio.study.options import FinetuneOptions
from refusals import refused
from tiny import tiny_config, tiny_model

LABELS = ["negative", "positive"]
INPUTS = {"input_ids": torch.tensor([[2, 9, 8, 7, 3]])}


@pytest.fixture
def model(tmp_path) -> Path:
    folder = tiny_model(tmp_path / "model")
    (folder / "manifest.json").unlink()
    return folder


def started(folder: Path, labels: list[str] = LABELS, seed: int = 0) -> Any:
    task = {"kind": SINGLE_LABEL, "labels": labels}
    return pretrained_classifier(folder, task, FinetuneOptions(), seed, 16).eval()


def logits(classifier: Any) -> torch.Tensor:
    with torch.no_grad():
        return classifier(**INPUTS).logits


def describe(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))


def rename(folder: Path, old: str, new: str) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file(
        {name.replace(old, new, 1): tensor for name, tensor in weights.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )


def refusal(folder: Path) -> str:
    return refused(started, folder)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, None])
def test_weights_are_float32_whatever_the_file(model, dtype):
    if dtype is None:
        describe(model, torch_dtype="float16", dtype=None)
    else:
        AutoModelForSequenceClassification.from_pretrained(model).to(dtype).save_pretrained(model)
    classifier = started(model)
    assert {parameter.dtype for parameter in classifier.parameters()} == {torch.float32}
    assert classifier.config.dtype == torch.float32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 90}, r"bert.embeddings.word_embeddings.weight is [83, 32], not [90, 32]"),
        ({"max_position_embeddings": 40}, r"bert.embeddings.position_embeddings.weight is [48, 32], not [40, 32]"),
        ({"num_hidden_layers": 3}, "weights are missing: bert.encoder.layer.2"),
        ({"num_hidden_layers": 1}, "weights have no place in the model: bert.encoder.layer.1"),
    ],
)
def test_another_configuration_is_refused(model, changes, message):
    describe(model, **changes)
    assert message in refusal(model)


@pytest.mark.parametrize("prefix", ["module.", "auto_model.", "module.bert."])
def test_names_that_a_wrapper_saves(model, prefix):
    AutoModel.from_pretrained(model).save_pretrained(model)
    rename(model, "", prefix)
    assert f"begin with '{prefix.split('.')[0]}.'" in refusal(model)


def test_relative_positions_are_refused(model):
    weights = load_file(model / "model.safetensors")
    for layer in range(2):
        weights[f"bert.encoder.layer.{layer}.attention.self.distance_embedding.weight"] = torch.zeros(95, 16)
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    describe(model, position_embedding_type="relative_key")
    assert "relative" in refusal(model)


@pytest.mark.parametrize("saved", ["base", "masked"])
def test_a_model_without_a_head_gets_one_by_the_seed(model, saved):
    if saved == "base":
        AutoModel.from_pretrained(model).save_pretrained(model)
    else:
        BertForMaskedLM.from_pretrained(model).save_pretrained(model)
    first, again, other = started(model, seed=1), started(model, seed=1), started(model, seed=2)
    assert torch.equal(first.classifier.weight, again.classifier.weight)
    assert not torch.equal(first.classifier.weight, other.classifier.weight)


def test_the_part_of_a_head_that_is_pretrained_stays(tmp_path, caplog):
    widths = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = ModernBertConfig(
        **widths, vocab_size=90, max_position_embeddings=48, pad_token_id=0, cls_token_id=1, sep_token_id=2
    )
    ModernBertForMaskedLM(config).save_pretrained(tmp_path / "model")
    saved = load_file(tmp_path / "model/model.safetensors")
    first, other = started(tmp_path / "model", seed=1), started(tmp_path / "model", seed=2)
    for classifier in (first, other):
        assert torch.equal(classifier.head.dense.weight, saved["head.dense.weight"])
    assert not torch.equal(first.classifier.weight, other.classifier.weight)
    assert "new head" not in caplog.text


@pytest.mark.parametrize("arch", ["bert", "roberta", "electra", "distilbert"])
def test_rows_of_a_head_follow_the_names_of_labels(tmp_path, arch):
    names = ["negative", "neutral", "positive"]
    folder = tiny_model(tmp_path / "model", arch, labels=names)
    expected = logits(AutoModelForSequenceClassification.from_pretrained(folder).eval())
    assert torch.equal(logits(started(folder, names)), expected)
    order = ["positive", "negative", "neutral"]
    assert torch.allclose(logits(started(folder, order)), expected[:, [2, 0, 1]], atol=1e-6)


@pytest.mark.parametrize("labels", [["ham", "spam"], ["a", "b", "c"]])
@pytest.mark.parametrize("arch", ["bert", "roberta"])
def test_a_head_of_other_labels_is_replaced(tmp_path, arch, labels, caplog):
    folder = tiny_model(tmp_path / "model", arch, labels=LABELS)
    saved = load_file(folder / "model.safetensors")
    first, other = started(folder, labels, seed=1), started(folder, labels, seed=2)
    assert "it gets a new head" in caplog.text
    heads = [key for key in first.state_dict() if key.startswith("classifier") and key.endswith("weight")]
    for key in heads:
        assert not torch.equal(first.state_dict()[key], other.state_dict()[key])
        assert not torch.equal(first.state_dict()[key].flatten()[:32], saved[key].flatten()[:32])
    assert torch.equal(
        first.base_model.embeddings.word_embeddings.weight, saved[f"{arch}.embeddings.word_embeddings.weight"]
    )


def test_relu_is_no_reason_to_refuse_fine_tuning(tmp_path):
    shutil.rmtree(tmp_path / "model", ignore_errors=True)
    config = tiny_config()
    config.hidden_act = "relu"
    AutoModel.from_config(config).save_pretrained(tmp_path / "model")
    assert logits(started(tmp_path / "model")).shape == (1, 2)
