"""Operations of single layers in floating point: executed alike everywhere, and ranked by what each would gain."""

from __future__ import annotations

import json
from math import log10
from pathlib import Path

import pytest
import torch

from encoders import FEWER, calibrated, integer_checkpoint
from intaglio.checkpoint import Checkpoint
from intaglio.cli import main
from intaglio.encoder.files import convert
from intaglio.errors import UserError
from intaglio.execution.constants import constants_of
from intaglio.execution.on_torch import integer_model
from intaglio.export.export import export
from intaglio.measure.noise.sensitivity import sensitivities
from intaglio.planning.jobs import deciding
from intaglio.study.options import QuantizeOptions
from intaglio.tokens.encoded import batches_of, read_encoded
from streams import differing, executed, simulated
from test_execution import cases
from tiny import MAX_LENGTH, tiny_checkpoint, tiny_data

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


def test_a_ranking_is_by_the_distance_from_the_model_that_was_quantized(data: Path, tmp_path: Path) -> None:
    checkpoint = integer_checkpoint(tmp_path / "checkpoint", bits=FEWER)
    first, *ranked = sensitivities(checkpoint, data, MAX_LENGTH)
    single = {f"{layer}.{operation}" for layer in (0, 1) for operation in ("gelu", "softmax")}
    assert {each.exact for each in ranked} == {"gelu", "softmax", "layernorm", "weights", "embeddings", *single}
    assert [each.gain for each in ranked] == sorted((each.gain for each in ranked), reverse=True)
    assert first.exact == "" and first.gain == 0
    # Nothing has been trained, so the transformers model has the same weights.
    encoder, model = calibrated(bits=FEWER)
    kept, _ = calibrated(bits=FEWER, keep_float=["1.gelu"])
    opened = Checkpoint(checkpoint)
    batches = batches_of(read_encoded(data, "validation", opened.tokenizer, MAX_LENGTH), opened.tokenizer)
    found = {each.exact: each.noise for each in (first, *ranked)}
    for exact, other in (("", encoder), ("1.gelu", kept)):
        with torch.no_grad():
            pairs = [(model(**each).logits, other(**each).logits) for each in batches]
        signal = sum(float(theirs.square().sum()) for theirs, _ in pairs)
        noise = sum(float((ours - theirs).square().sum()) for theirs, ours in pairs)
        assert found[exact] == pytest.approx(10 * log10(signal / noise), abs=0.05)


def test_the_command_prints_a_ranking(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = integer_checkpoint(tmp_path / "checkpoint")
    assert main(["sensitivity", str(checkpoint), "--data", str(data), "--max-length", "32"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2 + 3 + 4
    assert main(["sensitivity", str(tiny_checkpoint(tmp_path / "float")), "--data", str(data)]) == 2
    assert "no integer operations" in capsys.readouterr().err
