"""Post-training quantization by NNCF for OpenVINO: what is quantized, its exactness, the gates, and what follows."""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from sklearn.metrics import accuracy_score
from transformers import AutoModelForSequenceClassification

from intaglio.checkpoint import Checkpoint
from intaglio.errors import UserError
from intaglio.export.export import export
from intaglio.measure.backends import REGISTRY, backend
from intaglio.measure.evaluate import evaluate
from intaglio.measure.places import Place, places_of
from intaglio.measure.profile import profile
from intaglio.onnx.session import open_session
from intaglio.openvino.int8 import AccuracyControl, LinearLayers, linear_layers_in, quantize_with_nncf
from intaglio.openvino.session import import_openvino
from intaglio.schemas import LATENCY, PREDICTIONS, SIZES, read_table
from intaglio.stages import int8 as int8_stage
from intaglio.study.options import Int8Options
from intaglio.study.profile import Profile
from stage_runs import int8, load_checkpoint
from test_stages_int8 import RECORD, exported_once, graph_arguments, parent_of
from tiny import tiny_data

# Without its telemetry.
openvino = import_openvino()
opset13 = importlib.import_module("openvino.opset13")
# Two layers of a joint product for query, key and value and three others, pooler and classifier.
LAYERS = 2 * 4 + 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("openvino")


@pytest.fixture(scope="module")
def data(folder: Path) -> Path:
    return tiny_data(folder / "data", n=40)


@pytest.fixture(scope="module")
def parent(folder: Path) -> Iterator[Path]:
    checkpoint = parent_of(folder / "parent", "bert")
    with exported_once(checkpoint):
        yield checkpoint


@pytest.fixture(scope="module")
def made(folder: Path, parent: Path, data: Path) -> Path:
    options = Int8Options(engine="openvino", calibration_examples=8, tolerance=0.2)
    int8(parent, data, options, 0, 32, folder / "work", folder / "int8")
    export(folder / "int8", folder / "export")
    return folder / "int8"


def read(checkpoint: Path) -> Any:
    return openvino.Core().read_model(checkpoint / "model.xml")


def test_checkpoint(made: Path, parent: Path, data: Path) -> None:
    opened = Checkpoint(made)
    assert (opened.kind, opened.engine, opened.is_quantized) == ("graph", "openvino", True)
    assert opened.record["sparsity"] == RECORD["sparsity"]
    assert opened.record["conversion"]["measure"] == "changed predictions"
    assert opened.record["conversion"]["difference"] <= opened.record["conversion"]["tolerance"] == 0.2
    assert {path.name for path in made.iterdir() if path.name.startswith("model")} == {"model.xml", "model.bin"}
    model, tokenizer = load_checkpoint(made)
    frame = pd.read_parquet(data / "validation.parquet")
    texts = [tokenizer(text, truncation=True, max_length=32, return_tensors="pt") for text in frame["text_a"]]
    logits = torch.cat([model(**each).logits for each in texts])
    assert opened.record["validation"]["accuracy"] == accuracy_score(frame["label"], logits.argmax(1))
    reference = AutoModelForSequenceClassification.from_pretrained(parent).eval()
    with torch.no_grad():
        expected = torch.cat([reference(**each).logits for each in texts])
    assert 0 < float((logits - expected).abs().max()) < 0.1
    # Nothing reports its use over the network.
    assert sys.modules["openvino_telemetry"] is None


def test_every_linear_layer_has_7_bits_and_other_products_none(made: Path) -> None:
    model = read(made)
    assert linear_layers_in(model) == LinearLayers(LAYERS, 0)
    products = [node for node in model.get_ops() if node.get_type_name() == "MatMul"]
    quantized = [node.input_value(0).get_node().get_type_name() == "FakeQuantize" for node in products]
    assert (sum(quantized), len(products)) == (LAYERS, LAYERS + 2 * 2)
    linear = [node for node, first in zip(products, quantized, strict=True) if first]
    for node in linear:
        weight = node.input_value(1).get_node()
        while weight.get_type_name() != "Constant":
            weight = weight.input_value(0).get_node()
        assert weight.data.dtype == np.int8 and 32 < int(np.abs(weight.data.astype(int)).max()) <= 64


@pytest.mark.parametrize("lowest", [0, -128])
@pytest.mark.parametrize(("depth", "columns"), [(67, 33), (384, 64)])
def test_products_of_7_bits_are_exact_on_every_cpu(lowest: int, depth: int, columns: int) -> None:
    """The largest numbers, whose pairs would not fit into 16 bits with weights of 8."""
    bounds = [np.float32(lowest), np.float32(lowest + 255)] * 2
    x = opset13.parameter([-1, depth], np.float32)
    weight = np.resize(np.array([64, 64, -64], np.int8), (columns, depth))
    restored = opset13.multiply(
        opset13.convert(opset13.constant(weight), np.float32), np.ones((columns, 1), np.float32)
    )
    product = opset13.matmul(opset13.fake_quantize(x, *bounds, 256), restored, False, True)
    run = openvino.Core().compile_model(openvino.Model([product], [x]), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for rows in (1, 5, 64):
        for value in (lowest, lowest + 255):
            given = np.full((rows, depth), value, np.float32)
            np.testing.assert_array_equal(run([given])[0], given.astype(np.int64) @ weight.T.astype(np.int64))


def test_accuracy_control_puts_layers_back(parent: Path, tmp_path: Path) -> None:
    """As many layers as it takes: judged by the distance of logits, which every quantized layer adds to."""
    random = np.random.default_rng(0)
    names = ("input_ids", "attention_mask", "token_type_ids")
    batches = [
        {name: random.integers(5, 40, (1, 9)) if name == "input_ids" else np.ones((1, 9), np.int64) for name in names}
        for _ in range(4)
    ]
    graph = int8_stage.float_graph(parent, *graph_arguments(parent))
    onnx.save(graph, tmp_path / "model.onnx")
    session = open_session(tmp_path / "model.onnx", 1)
    expected = np.concatenate([session.run(["logits"], batch)[0] for batch in batches])

    def nearness(numbers: np.ndarray, logits: np.ndarray) -> float:
        return -float(np.abs(logits - expected[numbers]).mean())

    def nearness_of(file: Path) -> float:
        quantized = openvino.Core().compile_model(str(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return nearness(np.arange(4), np.concatenate([quantized(batch)[0].copy() for batch in batches]))

    assert quantize_with_nncf(graph, batches, None, tmp_path / "all.xml") == LinearLayers(LAYERS, 0)
    drop = -nearness_of(tmp_path / "all.xml")
    control = AccuracyControl(
        [(batch, number) for number, batch in enumerate(batches)],
        lambda numbers, logits: nearness(np.array(numbers), np.concatenate(logits)),
        drop / 2,
    )
    found = quantize_with_nncf(graph, batches, control, tmp_path / "some.xml")
    assert found.total == LAYERS and 0 < found.floating < LAYERS
    assert -nearness_of(tmp_path / "some.xml") <= drop / 2


def test_what_was_put_back_is_told(parent: Path, data: Path, tmp_path: Path) -> None:
    options = Int8Options(engine="openvino", calibration_examples=4, max_drop=50, tolerance=1)
    int8(parent, data, options, 0, 32, tmp_path / "work", tmp_path / "int8")
    left = linear_layers_in(read(tmp_path / "int8")).floating
    measure = f"changed predictions; {left} of {LAYERS} linear layers in floating point"
    assert Checkpoint(tmp_path / "int8").record["conversion"]["measure"] == measure


def test_the_gate_is_that_of_every_engine(
    parent: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("intaglio.stages.int8.quantize_with_nncf", lambda *_: LinearLayers(LAYERS, 1))
    options = Int8Options(engine="openvino", calibration_examples=4)
    with pytest.raises(UserError, match=f"int8 takes only {LAYERS - 1} of {LAYERS} linear layers"):
        int8(parent, data, options, 0, 32, tmp_path / "work", tmp_path / "output")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_drop": 1}, "max_drop: engine: onnxruntime does not have it"),
        ({"engine": "openvino", "method": "static"}, "method: engine: openvino does not have it"),
        ({"engine": "openvino", "per_channel": False}, "per_channel: engine: openvino"),
    ],
)
def test_options_of_the_other_engine(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Int8Options.model_validate(options)


def test_export_hands_the_model_on(made: Path, folder: Path) -> None:
    for name in ("model.xml", "model.bin"):
        assert (folder / "export" / name).read_bytes() == (made / name).read_bytes()
    record = json.loads((folder / "export" / "export.json").read_text())
    assert (record["format"], record["int8"], record["integer"]) == ("openvino", "static", [])
    assert sorted(record["inputs"]) == ["attention_mask", "input_ids", "token_type_ids"]
    rows = read_table(folder / "export" / "sizes.parquet", SIZES).to_pylist()
    size = {(row["component"], row["dtype"]): row["bytes"] for row in rows}
    files = sum((made / name).stat().st_size for name in ("model.xml", "model.bin"))
    assert size["file", None] == size["checkpoint", None] == files
    model = AutoModelForSequenceClassification.from_pretrained(folder / "parent")
    expected = sum(each.numel() for each in model.parameters() if each.ndim == 2)
    assert size["tensors", "int8"] == expected


def test_evaluation(made: Path, data: Path, tmp_path: Path) -> None:
    evaluate(made, data, 32, tmp_path / "evaluation")
    rows = read_table(tmp_path / "evaluation" / "predictions.parquet", PREDICTIONS).to_pylist()
    model, tokenizer = load_checkpoint(made)
    texts = pd.read_parquet(data / "test.parquet")["text_a"]
    for text, row in zip(texts, rows, strict=True):
        logits = model(**tokenizer(text, truncation=True, max_length=32, return_tensors="pt")).logits[0]
        np.testing.assert_allclose(row["logits"], logits, atol=1e-6)


def test_only_openvino_runs_it(made: Path, folder: Path, tmp_path: Path) -> None:
    checkpoint = Checkpoint(made)
    assert {name for name in REGISTRY if backend(name).refusal(checkpoint) is None} == {"openvino"}
    assert places_of(checkpoint, ["torch", "onnxruntime", "openvino"], ["cpu"]) == [Place("openvino", "cpu")]
    with pytest.raises(UserError, match="only openvino runs this model of 8 bits; add openvino"):
        places_of(checkpoint, ["torch", "onnxruntime"], ["cpu"])
    options = Profile(
        batch_sizes=[1],
        lengths=[8],
        headline=(1, 8),
        warmup=1,
        calls=2,
        threads=1,
        devices=("cpu",),
        backends=("openvino",),
    )
    profile(made, folder / "export", options, tmp_path / "profile")
    (row,) = read_table(tmp_path / "profile" / "latency.parquet", LATENCY).to_pylist()
    assert (row["backend"], row["max_difference"]) == ("openvino", 0)
    assert row["kernel"].lower().endswith("i8")
