"""The float point of the lattice is transformers' model; other models are refused in one line."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from transformers import AutoModelForSequenceClassification, CamembertConfig, GPT2Config, XLMRobertaConfig

from encoders import ARCHITECTURES, INT, INTEGER_POINTS, batch, calibrated, loss_of, name, random_model
from intaglio.encoder.config import from_transformers
from intaglio.encoder.files import SECTION, convert, read_config, read_encoder, save_encoder
from intaglio.encoder.model import Encoder
from intaglio.errors import UserError
from tiny import tiny_config, tiny_model

FLOAT = frozenset()


def _difference(model, inputs) -> float:
    encoder = convert(model, FLOAT)
    with torch.no_grad():
        ours, theirs = encoder(**inputs).logits, model(**inputs).logits
    assert theirs.abs().max() > 0.01
    return float((ours - theirs).abs().max())


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize(("rows", "length"), [(1, 1), (1, 7), (5, 12), (3, 48)])
def test_logits_are_those_of_transformers(arch, rows, length):
    model = random_model(arch)
    assert _difference(model, batch(model, rows, length)) <= 1e-5
    assert _difference(model, {"input_ids": batch(model, 1, length)["input_ids"]}) <= 1e-5


@pytest.mark.parametrize("arch", ["bert", "electra"])
def test_token_types(arch):
    model = random_model(arch)
    inputs = batch(model, types=True)
    assert _difference(model, inputs) <= 1e-5
    plain = {key: value for key, value in inputs.items() if key != "token_type_ids"}
    with torch.no_grad():
        assert not torch.allclose(model(**inputs).logits, model(**plain).logits)


@pytest.mark.parametrize("width", [16, 32])
def test_electra_with_and_without_projection(width):
    model = random_model("electra", embedding_size=width)
    assert (convert(model, FLOAT).embeddings.project is None) == (width == 32)
    assert _difference(model, batch(model)) <= 1e-5


def test_roberta_counts_positions_from_its_padding():
    model = random_model("roberta")
    inputs = batch(model)
    inputs["input_ids"][0, 3] = model.config.pad_token_id
    assert _difference(model, inputs) <= 1e-5


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_larger_shape(arch):
    sizes = {"distilbert": {"dim": 96, "n_heads": 6, "hidden_dim": 200, "n_layers": 3}}
    common = {"hidden_size": 96, "num_attention_heads": 6, "intermediate_size": 200, "num_hidden_layers": 3}
    model = random_model(arch, spread=0.05, num_labels=3, **sizes.get(arch, common))
    assert _difference(model, batch(model, 6, 40)) <= 1e-5


RATES = ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout", "seq_classif_dropout")


def _without_dropout(arch, **changes):
    config = tiny_config(arch)
    return random_model(arch, **{rate: 0.0 for rate in RATES if hasattr(config, rate)}, **changes).train()


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_training_step_is_that_of_transformers(arch):
    model = _without_dropout(arch)
    encoder = convert(model, FLOAT)
    assert encoder.training
    inputs, labels = batch(model), torch.tensor([0, 1, 1, 0])
    ours, theirs = loss_of(encoder, inputs, labels), model(**inputs, labels=labels).loss
    assert float((ours - theirs).detach().abs()) <= 1e-5
    ours.backward(), theirs.backward()
    embedding = model.base_model.embeddings.word_embeddings.weight.grad
    assert float((encoder.embeddings.word.weight.grad - embedding).abs().max()) <= 1e-5


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_head_drops_where_transformers_does(arch):
    rate = "seq_classif_dropout" if arch == "distilbert" else "classifier_dropout"
    model = _without_dropout(arch)
    setattr(model.config, rate, 0.5)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            dropped = module
    # the last one is the head's: the one that drops
    dropped.p = 0.5
    encoder = convert(model, FLOAT)
    inputs = batch(model)
    results = []
    for network in (encoder, model):
        torch.manual_seed(3)
        results.append(network(**inputs).logits.detach())
    assert float((results[0] - results[1]).abs().max()) <= 1e-5
    torch.manual_seed(4)
    assert not torch.allclose(encoder(**inputs).logits, results[0])


@pytest.mark.parametrize("point", [FLOAT, *INTEGER_POINTS], ids=name)
@pytest.mark.parametrize("arch", ["bert", "electra"])
def test_round_trip(arch, point, tmp_path):
    encoder, model = calibrated(point, arch)
    save_encoder(encoder, model.config, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    again = read_encoder(tmp_path)
    assert (SECTION in read_config(tmp_path)) and not again.training and again.shape == encoder.shape
    state = encoder.state_dict()
    assert state.keys() == again.state_dict().keys()
    assert all(torch.equal(tensor, state[key]) for key, tensor in again.state_dict().items())
    inputs = batch(model)
    with torch.no_grad():
        assert torch.equal(encoder(**inputs).logits, again(**inputs).logits)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_transformers_folder_loads(arch, tmp_path):
    folder = tiny_model(tmp_path / "model", arch)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    encoder = read_encoder(folder)
    assert SECTION not in read_config(folder) and not encoder.training and encoder.shape.integer == FLOAT
    inputs = batch(model)
    with torch.no_grad():
        assert float((encoder(**inputs).logits - model(**inputs).logits).abs().max()) <= 1e-5
    assert read_encoder(folder, INT).shape.integer == INT


def test_safetensors_only(tmp_path):
    model = random_model()
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="safetensors"):
        read_encoder(tmp_path)


def test_not_a_model_folder(tmp_path):
    with pytest.raises(UserError, match=r"no config\.json"):
        read_encoder(tmp_path)


def test_unsupported_architecture():
    with pytest.raises(UserError, match="'gpt2'"):
        from_transformers(GPT2Config(), INT)


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [("hidden_act", "relu", "activation 'relu'"), ("is_decoder", True, "decoder")],
)
def test_unsupported_option(key, value, match):
    config = tiny_config()
    setattr(config, key, value)
    with pytest.raises(UserError, match=match):
        from_transformers(config, INT)


def test_integers_come_from_linear_layers():
    with pytest.raises(UserError, match="'linear' must be among them"):
        from_transformers(tiny_config(), frozenset({"gelu"}))


def test_weights_without_a_place():
    model = random_model()
    model.extra = torch.nn.Linear(2, 2)
    with pytest.raises(UserError, match=r"without a place \['extra"):
        convert(model, FLOAT)


@pytest.mark.parametrize("training", [True, False])
def test_integers_before_calibration(training):
    encoder = convert(random_model(), INT).train(training)
    with pytest.raises(UserError, match="calibrate"):
        encoder(**batch(random_model()))


def test_a_calibration_without_a_batch_is_none():
    encoder = convert(random_model(), INT)
    with encoder.calibrating(0.95):
        pass
    with pytest.raises(UserError, match="calibrate"):
        encoder(**batch(random_model()))


def test_a_folder_that_was_never_calibrated(tmp_path):
    model = random_model()
    save_encoder(convert(model, INT), model.config, tmp_path)
    with pytest.raises(UserError, match="calibrate"):
        read_encoder(tmp_path)(**batch(model))


def test_a_float_folder_of_ours_becomes_integer(tmp_path):
    model = random_model()
    save_encoder(convert(model, FLOAT), model.config, tmp_path / "float")
    encoder, _ = calibrated()
    save_encoder(encoder, model.config, tmp_path / "int")
    assert read_encoder(tmp_path / "float").shape.integer == FLOAT
    # the folder says what is in it, whatever its name
    shutil.move(tmp_path / "int", tmp_path / "other")
    assert json.loads((tmp_path / "other" / "config.json").read_text())["intaglio"]["integer"] == sorted(INT)
    assert isinstance(read_encoder(tmp_path / "other"), Encoder)


def test_roberta_with_type_embeddings_of_zero_calibrates():
    """As they are in roberta-base."""
    model = random_model("roberta")
    torch.nn.init.zeros_(model.roberta.embeddings.token_type_embeddings.weight)
    encoder = convert(model, INT)
    with encoder.calibrating(0.95):
        encoder(**batch(model))
    assert encoder.calibrated
    with torch.no_grad():
        assert torch.isfinite(encoder(**batch(model)).logits).all()


@pytest.mark.parametrize("config", [XLMRobertaConfig, CamembertConfig])
def test_other_robertas(config):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    rest = {"vocab_size": 90, "max_position_embeddings": 50, "type_vocab_size": 1, "pad_token_id": 1}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(config(**sizes, **rest, hidden_act="gelu_python")).eval()
        for parameter in model.parameters():
            parameter.data.add_(torch.randn_like(parameter) * 0.1)
    assert _difference(model, batch(model)) <= 1e-6
