"""Operations of single layers in floating point: executed alike everywhere, and ranked by what each would gain."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from encoders import ARCHITECTURES, FEWER, batch, calibrated, integer_checkpoint, random_model
from intaglio.arithmetic.operations import OPERATIONS
from intaglio.checkpoint import Checkpoint
from intaglio.cli import main
from intaglio.encoder.exact import exactly, switches
from intaglio.encoder.files import convert, save_encoder
from intaglio.encoder.inner import float_twin, reshaped
from intaglio.errors import UserError
from intaglio.execution.constants import constants_of
from intaglio.execution.on_torch import integer_model
from intaglio.export.export import export
from intaglio.measure.noise.sensitivity import sensitivities
from intaglio.planning.jobs import deciding
from intaglio.store import new_artifact
from intaglio.study.options import QuantizeOptions
from intaglio.tokens.encoded import batches_of, read_encoded
from streams import differing, executed, simulated
from test_execution import cases
from tiny import MAX_LENGTH, tiny_checkpoint, tiny_data, tiny_tokenizer

KEPT = ("0.softmax", "1.gelu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_data(tmp_path_factory.mktemp("sensitivity") / "data", n=64)


def test_what_is_kept_is_in_floating_point_and_the_rest_is_not() -> None:
    encoder, model = calibrated(keep_float=KEPT)
    layers = constants_of(encoder).layers
    assert [(layer.softmax.integer, layer.gelu.integer) for layer in layers] == [(False, True), (True, False)]
    for each in cases(model, "bert"):
        assert differing(simulated(encoder, each), executed(integer_model(encoder), each)) == []


def test_a_checkpoint_and_its_export_name_what_is_kept(tmp_path: Path) -> None:
    """The export compares both of its forms with the checkpoint."""
    checkpoint = integer_checkpoint(tmp_path / "checkpoint", keep_float=KEPT)
    assert Checkpoint(checkpoint).load().shape.keep_float == frozenset(KEPT)
    assert not Checkpoint(checkpoint).is_integer_only
    export(checkpoint, tmp_path / "export")
    record = json.loads((tmp_path / "export" / "export.json").read_text())
    assert record["keep_float"] == sorted(KEPT) and record["difference"] <= record["tolerance"]


@pytest.mark.parametrize("name", ["2.gelu", "0.softmax", "0.linear"])
def test_what_is_not_there_is_refused_in_one_line(name: str) -> None:
    _, model = calibrated()
    with pytest.raises(UserError, match=rf"^keep_float: '{name}' is no integer operation.*\['gelu'\].* 0 to 1.*$"):
        convert(model, frozenset({"linear", "gelu"}), keep_float=[name])


def test_nothing_kept_is_no_part_of_a_key() -> None:
    assert "keep_float" not in deciding(QuantizeOptions())


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_what_is_exact_is_as_in_the_encoders_that_are_executed(arch: str) -> None:
    encoder, model = calibrated(arch=arch)
    twin, inputs = float_twin(encoder), batch(model)
    with torch.inference_mode():
        for exact in (["1.gelu"], ["0.softmax", "1.softmax", "1.gelu"]):
            mixed = reshaped(encoder, keep_float=frozenset(exact))
            with exactly(encoder, twin, exact):
                found = encoder(**inputs).logits
            assert torch.equal(found, mixed(**inputs).logits) and not torch.equal(found, encoder(**inputs).logits)
        expected = model(**inputs).logits
        with exactly(encoder, twin, switches(encoder.shape)):
            torch.testing.assert_close(encoder(**inputs).logits, expected, rtol=0, atol=2e-4 * float(expected.std()))


def noise_of(model: torch.nn.Module, encoder: torch.nn.Module, checkpoint: Path, data: Path) -> float:
    """Return the signal to noise of an encoder's logits against those of a model."""
    opened = Checkpoint(checkpoint)
    batches = batches_of(read_encoded(data, "validation", opened.tokenizer, MAX_LENGTH), opened.tokenizer)
    with torch.no_grad():
        pairs = [(model(**each).logits.numpy(), encoder(**each).logits.numpy()) for each in batches]
    exact, found = (np.concatenate(each).astype(np.float64) for each in zip(*pairs, strict=True))
    return float(10 * np.log10(np.square(exact).sum() / np.square(found - exact).sum()))


def test_a_ranking_is_by_the_distance_from_the_model_that_was_quantized(data: Path, tmp_path: Path) -> None:
    checkpoint = integer_checkpoint(tmp_path / "checkpoint", bits=FEWER)
    first, *ranked = sensitivities(checkpoint, data, MAX_LENGTH)
    single = {f"{layer}.{operation}" for layer in (0, 1) for operation in OPERATIONS}
    wider = {"weights in 8 bits", "embeddings in 8 bits"}
    assert {each.switched for each in ranked} == {*OPERATIONS, *single, *wider, "layer 0", "layer 1", "embeddings"}
    assert [each.gain_db for each in ranked] == sorted((each.gain_db for each in ranked), reverse=True)
    assert first.switched == "nothing" and first.gain_db == 0
    # Nothing has been trained, so the transformers model has the same weights.
    encoder, model = calibrated(bits=FEWER)
    kept, _ = calibrated(bits=FEWER, keep_float=["1.gelu"])
    found = {each.switched: each.snr_db for each in (first, *ranked)}
    for switched, other in (("nothing", encoder), ("1.gelu", kept)):
        assert found[switched] == pytest.approx(noise_of(model, other, checkpoint, data), abs=0.05)
    options = {each.switched: each.option for each in ranked}
    assert options["1.gelu"] == "keep_float" and options["gelu"] == "integer" and options["weights in 8 bits"] == "bits"
    assert options["1.layernorm"] == options["layer 1"] == options["linear"] == ""


def ill_conditioned(folder: Path) -> Any:
    """Return a model whose layer 1 has weights that 8 bits cannot hold, and write it as a float [checkpoint].

    In the intermediate layer, one input that is always zero has weights a thousand times as large as the others.
    """
    model = random_model()
    layer = model.bert.encoder.layer[1]
    with torch.no_grad():
        layer.attention.output.LayerNorm.weight[0] = layer.attention.output.LayerNorm.bias[0] = 0
        layer.intermediate.dense.weight[:, 0] = 1000
    with new_artifact(folder, "checkpoint") as draft:
        model.save_pretrained(draft)
        tiny_tokenizer().save_pretrained(draft)
    return model


def test_a_layer_that_8_bits_cannot_hold_is_first_towards_integers(data: Path, tmp_path: Path) -> None:
    model = ill_conditioned(tmp_path / "float")
    first, *ranked = sensitivities(tmp_path / "float", data, MAX_LENGTH)
    assert {each.to for each in ranked} == {"integers"} and first.switched == "everything"
    names = [each.switched for each in ranked]
    assert names == [each.switched for each in sorted(ranked, key=lambda each: each.snr_db)]
    assert set(names[:3]) == {"1.linear", "layer 1", "linear"}
    found = {each.switched: each.snr_db for each in ranked}
    assert found["0.linear"] > 40 and found["layernorm"] > 45
    # The same layer's integers, in float64 by NumPy: weights of 8 bits a row, and nothing else.
    weights = model.bert.encoder.layer[1].intermediate.dense.weight
    scale = weights.abs().amax(1, keepdim=True) / 127
    with torch.no_grad():
        rounded = copy.deepcopy(model)
        rounded.bert.encoder.layer[1].intermediate.dense.weight.copy_((weights / scale).round() * scale)
    assert found["1.linear"] == pytest.approx(noise_of(model, rounded, tmp_path / "float", data), abs=1)


def test_a_layer_that_8_bits_cannot_hold_is_first_towards_float(data: Path, tmp_path: Path) -> None:
    model = ill_conditioned(tmp_path / "float")
    encoder = convert(model, frozenset(OPERATIONS))
    with encoder.calibrating(momentum=0.95):
        encoder(**batch(model, rows=8, length=20))
    with new_artifact(tmp_path / "int", "checkpoint") as draft:
        save_encoder(encoder, model.config, draft)
        tiny_tokenizer().save_pretrained(draft)
    ranked = sensitivities(tmp_path / "int", data, MAX_LENGTH)[1:]
    assert {each.switched for each in ranked[:3]} == {"1.linear", "layer 1", "linear"}


def results(folder: Path, data: Path) -> Path:
    """Write a plan of two runs, a float and an integer one; return the folder of results."""
    made = {
        "float": tiny_checkpoint(folder / "float"),
        "int": integer_checkpoint(folder / "int"),
    }
    runs = [
        {"task": "words", "model": "tiny", "variant": name, "seed": 1, "checkpoint": str(path), "data": str(data)}
        for name, path in made.items()
    ]
    (folder / "plan.json").write_text(json.dumps({"study": {"study": "tiny", "max_length": 32}, "runs": runs}))
    return folder


def test_the_command_ranks_a_run_in_the_direction_that_is_left(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = results(tmp_path, data)
    table = tmp_path / "sensitivity.csv"
    assert main(["sensitivity", str(folder), "words/tiny/int/1", "--output", str(table)]) == 0
    # The embeddings, four operations, and two layers with four each.
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 1 + 4 + 2 * 5 and lines[0].startswith("signal to noise with nothing in floating point")
    frame = pd.read_csv(table)
    assert list(frame.columns) == ["switched", "to", "snr_db", "gain_db", "option"] and set(frame["to"]) == {"float"}
    assert list(frame["switched"][1:]) == [line[:20].strip() for line in lines[2:]]
    assert main(["sensitivity", str(folder), "float"]) == 0
    assert "everything on integers" in capsys.readouterr().out
    assert main(["sensitivity", str(folder), "int8"]) == 2
    assert "no run of the study 'tiny'" in capsys.readouterr().err
