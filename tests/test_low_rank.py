"""Low-rank fine-tuning: what is trained, what stays, and that the merged model is an ordinary one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, ModernBertConfig

from intaglio.checkpoint import Checkpoint
from intaglio.errors import UserError
from intaglio.models.demands import check_demands
from intaglio.models.low_rank import target_layers
from intaglio.planning.plan import make_plan
from intaglio.stages import run as stage_run
from intaglio.study.load import load
from intaglio.study.options import FinetuneOptions, QuantizeOptions
from intaglio.training.train import train
from stage_runs import finetune, quantize
from tiny import MAX_LENGTH, tiny_config, tiny_data, tiny_model, tiny_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")
LENGTH, RANK, ALPHA = 24, 4, 12.0
TRAINING = {"batch_size": 8, "max_steps": 6, "evaluations": 1, "learning_rate": 1e-2}
LINEAR = ("query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_data(tmp_path_factory.mktemp("data") / "data", n=32)


def trained(
    folder: Path, data: Path, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> tuple[dict[str, torch.Tensor], Any]:
    """Fine-tune with adapters; return the weights and the logits before they are merged."""
    seen: list[Any] = []

    def watched(job: Any, learner: Any) -> Any:
        result = train(job, learner)
        weights = {name: tensor.clone() for name, tensor in learner.model.state_dict().items()}
        with torch.no_grad():
            seen.extend((weights, learner.model.eval()(**inputs()).logits))
        return result

    monkeypatch.setattr(stage_run, "train", watched)
    low_rank = {"rank": RANK, "alpha": ALPHA, **options}
    chosen = FinetuneOptions(**TRAINING, low_rank=low_rank)
    finetune(tiny_model(folder / "model"), data, chosen, 1, LENGTH, folder / "work", folder / "output")
    return seen[0], seen[1]


def inputs() -> Any:
    return tiny_tokenizer()(["a good film.", "the story was dull."], padding=True, return_tensors="pt")


def test_adapters_are_merged_and_the_rest_is_untouched(data: Path, tmp_path: Path, monkeypatch: Any) -> None:
    before, logits = trained(tmp_path, data, monkeypatch, dropout=0.1)
    pretrained = load_file(tmp_path / "model/model.safetensors")
    merged = load_file(tmp_path / "output/model.safetensors")
    # The names are those of a model that was fine-tuned without adapters.
    assert merged.keys() == pretrained.keys()
    adapted = 0
    for name, weights in pretrained.items():
        layer, _, kind = name.rpartition(".")
        if name.startswith("classifier.") or ".pooler." in name:
            assert torch.equal(merged[name], before[name])
            assert not torch.equal(merged[name], weights)
        elif f"{layer}.base_layer.{kind}" in before:
            assert torch.equal(before[f"{layer}.base_layer.{kind}"], weights)
            if kind == "bias":
                assert torch.equal(merged[name], weights)
                continue
            adapted += 1
            down, up = (before[f"{layer}.lora_{side}.default.weight"] for side in "AB")
            assert down.shape[0] == up.shape[1] == RANK
            assert up.abs().max() > 0
            torch.testing.assert_close(merged[name], weights + ALPHA / RANK * up @ down)
        else:
            assert torch.equal(merged[name], weights)
    assert adapted == 2 * len(LINEAR)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "output").eval()
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs()).logits, logits, atol=1e-5, rtol=1e-4)


def test_counts_of_the_record_and_named_targets(data: Path, tmp_path: Path, monkeypatch: Any) -> None:
    before, _ = trained(tmp_path, data, monkeypatch, targets=["query", "attention_output"])
    adapters = [name for name in before if "lora_" in name]
    assert {name.partition(".lora_")[0].rpartition(".")[2] for name in adapters} == {"query", "dense"}
    record = Checkpoint(tmp_path / "output").record
    # Two layers with two adapters each of 32 x 32, the pooler, and a head for two labels.
    assert record["trained_parameters"] == 2 * 2 * RANK * (32 + 32) + 32 * 32 + 32 + 32 * 2 + 2
    total = sum(tensor.numel() for tensor in load_file(tmp_path / "model/model.safetensors").values())
    assert record["frozen_parameters"] == total - (32 * 32 + 32 + 32 * 2 + 2)
    assert record["options"]["low_rank"]["targets"] == ["query", "attention_output"]


def test_what_follows_is_as_after_any_other_fine_tuning(data: Path, tmp_path: Path, monkeypatch: Any) -> None:
    trained(tmp_path, data, monkeypatch)
    monkeypatch.undo()
    options = QuantizeOptions(**TRAINING | {"learning_rate": 1e-5}, calibration_examples=16, tolerance=1)
    quantize(tmp_path / "output", data, options, 1, LENGTH, tmp_path / "work", tmp_path / "int")
    assert Checkpoint(tmp_path / "int").is_integer_only


def test_names_of_layers() -> None:
    with torch.device("meta"):
        bert = AutoModelForSequenceClassification.from_config(tiny_config())
        widths = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        config = ModernBertConfig(
            **widths, vocab_size=90, max_position_embeddings=MAX_LENGTH, pad_token_id=0, cls_token_id=1, sep_token_id=2
        )
        modern = AutoModelForSequenceClassification.from_config(config)
    layers = [f"bert.encoder.layer.{number}." for number in (0, 1)]
    assert target_layers(bert, ["value"]) == [f"{layer}attention.self.value" for layer in layers]
    assert len(target_layers(bert, None)) == 2 * len(LINEAR)
    assert target_layers(modern, ["Wqkv"]) == [f"model.layers.{number}.attn.Wqkv" for number in (0, 1)]
    demand = {"stage": "finetune", "adapted": ["valve"], "variants": ["float"]}
    demands = {"max_length": 16, "longest_profiled": 16, "stages": [demand]}
    with pytest.raises(UserError, match=r"mine: low_rank.targets: unknown linear layer 'valve', did you mean 'value'"):
        check_demands(tiny_config(), demands, "mine")


def test_keys_and_demands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    task = {"source": {"kind": "files", "train": "a.csv"}, "text": ["x"], "label": "y", "labels": ["a", "b"]}
    study = {
        "study": "s",
        "seeds": [1],
        "tasks": {"t": task},
        "models": {"m": {"source": {"kind": "files", "path": "m"}}},
        "variants": {"float": None},
    }

    def key(options: dict[str, Any]) -> str:
        (job,) = make_plan(load({**study, "stages": {"finetune": options}})).jobs["finetune"].values()
        return job.key

    assert key({}) == key({"low_rank": None}) != key({"low_rank": {}})
    assert key({"low_rank": {}}) == key({"low_rank": {"rank": 8}}) != key({"low_rank": {"rank": 4}})
    (model,) = make_plan(load({**study, "stages": {"finetune": {"low_rank": {}}}})).jobs["model"].values()
    assert json.dumps(model.options["demands"]["stages"]) == (
        '[{"stage": "finetune", "adapted": null, "variants": ["float"]}]'
    )
