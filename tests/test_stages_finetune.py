import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from intaglio.checkpoint import Checkpoint, write_checkpoint
from intaglio.errors import UserError
from intaglio.models.dropout import override_dropout
from intaglio.schemas import TRAINING_HISTORY, read_table
from intaglio.stages import run as stage_run
from intaglio.stages.run import training_record
from intaglio.store import new_artifact, open_artifact
from intaglio.study.options import FinetuneOptions, QuantizeOptions
from intaglio.training.job import StageJob
from intaglio.training.train import TrainingResult
from stage_runs import finetune
from tiny import ARCHITECTURES, MAX_LENGTH, tiny_config, tiny_data, tiny_model

OPTIONS = FinetuneOptions(batch_size=8, epochs=1, learning_rate=1e-3)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_data(tmp_path_factory.mktemp("data") / "data", labels=("no", "yes", "maybe"))


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_checkpoint_is_whole_and_loads(arch, data, tmp_path):
    work, output = tmp_path / "work", tmp_path / "output"
    finetune(tiny_model(tmp_path / "model", arch), data, OPTIONS, 1, 32, work, output)
    assert open_artifact(output, "checkpoint") == {"stage": "finetune", "seed": 1, "parent": None}
    assert not work.exists()
    assert not [path for path in output.iterdir() if path.suffix in (".bin", ".pt", ".pth")]
    model = AutoModelForSequenceClassification.from_pretrained(output)
    assert model.config.id2label == {0: "no", 1: "yes", 2: "maybe"}
    tokenizer = AutoTokenizer.from_pretrained(output)
    assert model(**tokenizer("a good film", return_tensors="pt")).logits.shape == (1, 3)
    assert len(tokenizer("good " * 40, truncation=True)["input_ids"]) == 32
    record = json.loads((output / "training.json").read_text())
    assert record == Checkpoint(output).record
    assert record["options"] == OPTIONS.model_dump(mode="json")
    assert (record["stage"], record["seed"], record["parent"]) == ("finetune", 1, None)
    assert (record["steps"], record["epochs"], record["best_step"]) == (8, 1.0, 8)
    assert record["total_train_seconds"] == record["train_seconds"] > 0
    assert record["train_seconds"] / 8 == pytest.approx(record["step_seconds_mean"])
    assert record["step_seconds_median"] > 0
    assert set(record["validation"]) == {"accuracy", "loss"}
    assert record["truncated"] == {"train": 0, "validation": 0}
    assert record["device"]
    assert record["machine"]["id"]
    history = read_table(output / "history.parquet", TRAINING_HISTORY).to_pandas()
    assert set(history["name"]) == {"loss", "learning_rate", "validation_loss", "validation_accuracy"}
    assert history[history["name"] == "loss"]["step"].tolist() == list(range(1, 9))


def test_the_encoder_is_pretrained_and_the_head_is_of_the_seed(tmp_path, data, monkeypatch):
    # A model without a head, as an encoder comes from pretraining.
    pretrained = tmp_path / "model"
    tokenizer = AutoTokenizer.from_pretrained(tiny_model(tmp_path / "with_head"))
    with new_artifact(pretrained, "model") as draft:
        torch.manual_seed(7)
        AutoModel.from_config(tiny_config()).save_pretrained(draft)
        tokenizer.save_pretrained(draft)
    taken = []

    def untrained(_, learner):
        taken.append({name: tensor.clone() for name, tensor in learner.model.state_dict().items()})
        raise InterruptedError

    monkeypatch.setattr(stage_run, "train", untrained)
    for seed in (1, 1, 2):
        with pytest.raises(InterruptedError):
            finetune(pretrained, data, OPTIONS, seed, 32, tmp_path / "work", tmp_path / "output")
    first, same, other = taken
    for name, tensor in load_file(pretrained / "model.safetensors").items():
        assert torch.equal(first[f"bert.{name}"], tensor)
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_dropout_reaches_every_layer(arch):
    config = tiny_config(arch)
    override_dropout(config, FinetuneOptions(dropout=0.3, attention_dropout=0.2))
    model = AutoModelForSequenceClassification.from_config(config)
    rates = {name: part.p for name, part in model.named_modules() if isinstance(part, torch.nn.Dropout)}
    attention = {name for name in rates if name.endswith(("attention.self.dropout", "attention.dropout"))}
    assert attention
    assert {rates[name] for name in attention} == {0.2}
    assert {rates[name] for name in rates.keys() - attention} == {0.3}


def test_without_dropout_options_the_model_keeps_its_own():
    config = tiny_config()
    before = config.to_dict()
    override_dropout(config, FinetuneOptions())
    assert config.to_dict() == before


def test_zero_dropout_is_an_option():
    config = tiny_config()
    override_dropout(config, FinetuneOptions(dropout=0.0))
    assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob) == (0.0, 0.1)


def test_an_architecture_without_known_dropout_is_refused():
    class Strange:
        model_type = "strange"

    with pytest.raises(UserError, match=r"^dropout: a model of type 'strange' has none"):
        override_dropout(Strange(), FinetuneOptions(dropout=0.1))


@pytest.mark.parametrize("arch", ["bert", "roberta"])
def test_more_tokens_than_positions_are_refused(arch, data, tmp_path):
    model = tiny_model(tmp_path / "model", arch)
    with pytest.raises(UserError, match=f"^max_length: {MAX_LENGTH + 1} tokens, but .* takes {MAX_LENGTH} at most$"):
        finetune(model, data, OPTIONS, 0, MAX_LENGTH + 1, tmp_path / "work", tmp_path / "output")


def test_a_folder_that_is_no_model_is_refused(data, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    with pytest.raises(UserError, match=r"no config.json"):
        finetune(folder, data, OPTIONS, 0, 32, tmp_path / "work", tmp_path / "output")
    tiny_config().save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model(tmp_path / "other")).save_pretrained(folder)
    with pytest.raises(UserError, match=r"no weights in model.safetensors"):
        finetune(folder, data, OPTIONS, 0, 32, tmp_path / "work", tmp_path / "output")


def test_a_damaged_model_is_refused(data, tmp_path):
    model = tiny_model(tmp_path / "model")
    (model / "model.safetensors").write_bytes(b"short")
    with pytest.raises(UserError, match="damaged"):
        finetune(model, data, OPTIONS, 0, 32, tmp_path / "work", tmp_path / "output")


def test_a_failed_training_leaves_no_artifact(data, tmp_path):
    options = OPTIONS.model_copy(update={"learning_rate": 1e30, "warmup": 0.0})
    with pytest.raises(UserError, match="the loss became"):
        finetune(tiny_model(tmp_path / "model"), data, options, 0, 32, tmp_path / "work", tmp_path / "output")
    assert not (tmp_path / "output").exists()


def test_the_times_of_a_recipe_add_up(tmp_path):
    rows = [{"step": 1, "epoch": 0.5, "name": "loss", "value": 0.25}]
    result = TrainingResult(2.5, {"accuracy": 0.5}, "a device", rows)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model(tmp_path / "model"))
    parent, child = tmp_path / "parent", tmp_path / "child"

    def save(folder):
        (folder / "weights").write_text("w")
        (folder / "config.json").write_text("{}")

    places = {"data": tmp_path, "seed": 1, "max_length": 8, "work": tmp_path, "output": tmp_path}
    first = StageJob(tmp_path / "model", options=FinetuneOptions(), **places)
    write_checkpoint(parent, save, tokenizer, training_record(first, result), rows)
    second = StageJob(parent, options=QuantizeOptions(), **places)
    write_checkpoint(child, save, tokenizer, training_record(second, result, 2.5), rows)
    record = Checkpoint(child).record
    assert (record["stage"], record["train_seconds"], record["total_train_seconds"]) == ("quantize", 2.5, 5.0)
    assert record["parent"] == str(parent)
    assert (child / "weights").read_text() == "w"


def test_a_checkpoint_without_a_record_is_refused(tmp_path):
    with new_artifact(tmp_path / "checkpoint", "checkpoint") as draft:
        (draft / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"no training.json"):
        print(Checkpoint(tmp_path / "checkpoint").record)
