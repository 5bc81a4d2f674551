"""Post-training quantization: 8-bit graphs against NumPy and the float model, ranges, the gate, and what follows."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from sklearn.metrics import accuracy_score
from torch import nn
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from encoders import batch
from intaglio.checkpoint import Checkpoint
from intaglio.encoder.files import convert
from intaglio.errors import UserError
from intaglio.export.export import export
from intaglio.measure.evaluate import evaluate
from intaglio.measure.profile import profile
from intaglio.onnx.calibration import Histogram, activation_ranges, count, least_error_range, percentile_range
from intaglio.onnx.float_graph import float_onnx, graph_inputs
from intaglio.onnx.int8_graph import ActivationRange, quantize_graph, quantized_weight
from intaglio.onnx.linear import floating_products, linear_inputs, separate_attention, share_weights
from intaglio.onnx.session import open_session
from intaglio.schemas import LATENCY, OPERATORS, PREDICTIONS, SIZES, TRAINING_HISTORY, read_table
from intaglio.stages import int8 as int8_stage
from intaglio.study.options import Int8Options
from intaglio.study.profile import Profile
from stage_runs import int8, load_checkpoint
from tiny import ARCHITECTURES, MAX_LENGTH, tiny_checkpoint, tiny_data, tiny_tokenizer

METHODS = ("dynamic", "static", "weights")
# Node of a linear layer by method.
PRODUCT = {"dynamic": "DynamicQuantizeMatMul", "static": "MatMulIntegerToFloat", "weights": "MatMul"}
RECORD = {"total_train_seconds": 100.0, "sparsity": [{"layer": "0.query", "weights": 1024, "zeros": 512}]}
random = np.random.default_rng(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("int8")


@pytest.fixture(scope="module")
def data(folder: Path) -> Path:
    return tiny_data(folder / "data", n=40)


def parent_of(folder: Path, arch: str, change: Any = None) -> Path:
    """Write a float checkpoint with a record, half of whose first query is zero; `change` is done to its model."""
    tiny_checkpoint(folder, arch)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        if arch == "bert":
            model.bert.encoder.layer[0].attention.self.query.weight[:, ::2] = 0
        if change:
            change(model)
    model.save_pretrained(folder)
    (folder / "training.json").write_text(json.dumps(RECORD))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"] = {}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@contextmanager
def exported_once(checkpoint: Path) -> Iterator[None]:
    """Make the float graph of a checkpoint once for all runs of the stage, for that takes most of their time."""
    make = int8_stage.float_graph
    once = make(checkpoint, *graph_arguments(checkpoint)).SerializeToString()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            int8_stage,
            "float_graph",
            lambda path, *others: onnx.load_from_string(once) if path == checkpoint else make(path, *others),
        )
        yield


@pytest.fixture(scope="module")
def parent(folder: Path) -> Iterator[Path]:
    checkpoint = parent_of(folder / "parent", "bert")
    with exported_once(checkpoint):
        yield checkpoint


def graph_arguments(checkpoint: Path) -> tuple[Any, list[str]]:
    model, tokenizer = load_checkpoint(checkpoint)
    return model, graph_inputs(tokenizer)


@pytest.fixture(scope="module", params=METHODS)
def made(request: pytest.FixtureRequest, folder: Path, parent: Path, data: Path) -> tuple[str, Path, Path]:
    """A method, the checkpoint that it makes, and its export."""
    method = request.param
    output, exported = folder / method, folder / f"{method}-export"
    int8(parent, data, Int8Options(method=method, tolerance=0.2), 0, 32, folder / "work", output)
    export(output, exported)
    return method, output, exported


def graph_of(weight: np.ndarray, bias: np.ndarray | None = None) -> onnx.ModelProto:
    """A linear layer as a graph from x to y."""
    names = ["weight", "bias"] if bias is not None else ["weight"]
    tensors = [numpy_helper.from_array(weight, "weight")]
    tensors += [numpy_helper.from_array(bias, "bias")] if bias is not None else []
    graph = helper.make_graph(
        [helper.make_node("Gemm" if bias is not None else "MatMul", ["x", *names], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, weight.shape[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, weight.shape[1]])],
        tensors,
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def tensors(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


class TestWeights:
    def test_scales_of_channels_and_of_a_tensor(self) -> None:
        weight = random.normal(size=(20, 6)).astype(np.float32) * np.logspace(-3, 2, 6, dtype=np.float32)
        for per_channel in (True, False):
            integers, scale = quantized_weight(weight, per_channel)
            largest = np.abs(weight).max(axis=0) if per_channel else np.abs(weight).max()
            np.testing.assert_allclose(scale, largest / 127, rtol=1e-6)
            assert integers.dtype == np.uint8 and integers.min() >= 1
            error = np.abs((integers.astype(np.float64) - 128) * scale - weight)
            assert (error <= scale * 0.5001).all()

    def test_zeros_stay_zero(self) -> None:
        weight = random.normal(size=(30, 4)).astype(np.float32)
        weight[::3] = 0
        weight[:, 3] = 0
        integers, scale = quantized_weight(weight, True)
        assert (integers[weight == 0] == 128).all()
        assert np.isfinite(scale).all() and (scale > 0).all()

    @pytest.mark.parametrize("method", ["dynamic", "static"])
    @pytest.mark.parametrize("rows", [1, 5, 64])
    @pytest.mark.parametrize("sign", [1, -1])
    def test_products_of_the_largest_numbers_are_exact(self, method: str, rows: int, sign: int, tmp_path: Path) -> None:
        # Sums of two such products do not fit into 16 bits.
        depth, columns = 96, 33
        weight = np.full((depth, columns), sign * 1.27, dtype=np.float32)
        weight[:, 1] *= np.resize([1, -1, 1], depth)
        x = np.full((rows, depth), 25.5, dtype=np.float32)
        model = graph_of(weight)
        quantize_graph(model, method, True, {"x": ActivationRange(0.0, 25.5)})  # type: ignore[arg-type]
        onnx.save(model, tmp_path / "model.onnx")
        for as_stored in (True, False):
            (found,) = open_session(tmp_path / "model.onnx", 1, as_stored).run(None, {"x": x})
            np.testing.assert_allclose(found, x.astype(np.float64) @ weight, rtol=2e-6)

    def test_static_product_is_that_of_numpy(self, tmp_path: Path) -> None:
        weight = random.normal(size=(48, 10)).astype(np.float32)
        bias = random.normal(size=10).astype(np.float32)
        x = random.normal(size=(7, 48)).astype(np.float32)
        model = graph_of(weight, bias)
        known = ActivationRange(-1.5, 2.0)
        quantize_graph(model, "static", True, {"x": known})
        onnx.save(model, tmp_path / "model.onnx")
        scale = np.abs(weight).max(axis=0) / 127
        step = np.float32(3.5 / 255)
        zero = np.rint(1.5 / step)
        levels = np.clip(np.rint(x / step) + zero, 0, 255) - zero
        expected = (levels @ np.rint(weight / scale)) * (scale * step) + bias
        for as_stored in (True, False):
            (found,) = open_session(tmp_path / "model.onnx", 1, as_stored).run(None, {"x": x})
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)

    def test_weights_alone_leave_products_in_floating_point(self, tmp_path: Path) -> None:
        weight = random.normal(size=(48, 10)).astype(np.float32)
        x = random.normal(size=(7, 48)).astype(np.float32)
        model = graph_of(weight)
        quantize_graph(model, "weights", True, {})
        onnx.save(model, tmp_path / "model.onnx")
        scale = np.abs(weight).max(axis=0) / 127
        (found,) = open_session(tmp_path / "model.onnx", 1).run(None, {"x": x})
        np.testing.assert_allclose(found, x @ (np.rint(weight / scale) * scale), rtol=1e-5, atol=1e-5)


class TestRanges:
    values = np.concatenate([random.normal(size=50_000), random.normal(size=500) * 8]).astype(np.float32)

    def histogram(self, values: np.ndarray) -> Histogram:
        bounds = min(0.0, float(values.min())), max(0.0, float(values.max()))
        found = Histogram(*bounds, np.zeros(8160, np.int64))
        for part in np.array_split(values, 3):
            count(found, part)
        return found

    @pytest.mark.parametrize("percentile", [99.0, 99.9, 99.99])
    def test_percentile_is_that_of_numpy(self, percentile: float) -> None:
        found = percentile_range(self.histogram(self.values), percentile)
        shares = np.array([(100 - percentile) / 2, (100 + percentile) / 2])
        width = (self.values.max() - self.values.min()) / 8160
        # Far out a value stands alone: the percentile of all but one value, and of one more.
        one = 100 / len(self.values)
        least, most = (np.percentile(self.values, (shares + more).clip(0, 100)) for more in (-one, one))
        for value, below, above in zip((found.low, found.high), least - width, most + width, strict=True):
            assert below <= value <= above

    @pytest.mark.parametrize("kind", ["normal", "gelu", "positive", "zero"])
    def test_least_error_is_that_of_a_search_over_the_values(self, kind: str) -> None:
        values = {
            "normal": self.values,
            "gelu": torch.nn.functional.gelu(torch.from_numpy(self.values)).numpy(),
            "positive": np.abs(self.values),
            "zero": np.zeros(100, np.float32),
        }[kind].astype(np.float64)
        found = least_error_range(self.histogram(values))
        if kind == "zero":
            assert (found.low, found.high) == (0, 0) and found.scale > 0
            return
        grid = np.linspace(0, 1, 33)[1:]
        lows, highs = np.minimum(values.min(), 0) * grid, values.max() * grid
        searched = min(self.error(values, low, high) for low in np.unique(lows) for high in highs)
        assert self.error(values, found.low, found.high) <= 1.01 * searched
        assert self.error(values, found.low, found.high) < self.error(values, min(values.min(), 0), values.max())

    @staticmethod
    def error(values: np.ndarray, low: float, high: float) -> float:
        step = (high - low) / 255
        zero = round(-low / step)
        return float(np.square((np.clip(np.round(values / step) + zero, 0, 255) - zero) * step - values).sum())

    def test_of_a_graph_on_several_inputs(self, tmp_path: Path) -> None:
        weight = random.normal(size=(8, 3)).astype(np.float32)
        model = graph_of(weight)
        batches = [{"x": random.normal(size=(rows, 8)).astype(np.float32)} for rows in (1, 4, 2)]
        everything = np.concatenate([each["x"].ravel() for each in batches])
        found = activation_ranges(model, ["x"], batches, "min-max", 99.9, 1, tmp_path)  # type: ignore[arg-type]
        assert (found["x"].low, found["x"].high) == (everything.min(), everything.max())
        clipped = activation_ranges(model, ["x"], batches, "percentile", 80.0, 1, tmp_path)["x"]  # type: ignore[arg-type]
        assert clipped.low == pytest.approx(np.percentile(everything, 10), abs=0.3)
        assert found["x"].low < clipped.low < 0 < clipped.high < found["x"].high


class TestGraphs:
    @pytest.mark.parametrize(("arch", "as_encoder"), [(arch, False) for arch in ARCHITECTURES] + [("bert", True)])
    def test_all_linear_layers_and_embeddings_have_8_bits(
        self, parent: Path, tmp_path: Path, arch: str, as_encoder: bool
    ) -> None:
        checkpoint = parent if arch == "bert" else tiny_checkpoint(tmp_path / arch, arch)
        model: Any = AutoModelForSequenceClassification.from_pretrained(checkpoint).eval()
        inputs = batch(model, 3, 11, types=arch in ("bert", "electra"))
        names = graph_inputs(tiny_tokenizer(arch))
        if as_encoder:
            graph = float_onnx(convert(model, frozenset()), names)
        else:
            graph = int8_stage.float_graph(checkpoint, model, names)
        separate_attention(graph)
        assert len(linear_inputs(graph)) == 2 * 4 + 2 + (arch == "electra")
        onnx.save(graph, tmp_path / "float.onnx")
        quantize_graph(graph, "dynamic", True, {})
        onnx.save(graph, tmp_path / "int8.onnx")
        kinds = [node.op_type for node in graph.graph.node]
        assert "DynamicQuantizeMatMul" in kinds and not {"MatMul", "Gemm", "Attention"} & set(kinds)
        found = tensors(graph).values()
        weights = [module.weight for module in model.modules() if isinstance(module, nn.Linear | nn.Embedding)]
        in_8_bits = sum(values.size for values in found if values.dtype == np.uint8 and values.ndim == 2)
        assert in_8_bits == sum(weight.numel() for weight in weights)
        assert max(values.size for values in found if values.dtype == np.float32) <= 128
        with torch.no_grad():
            expected = model(**inputs).logits.numpy()
        logits = {}
        for name in ("float", "int8"):
            session = open_session(tmp_path / f"{name}.onnx", 1)
            given = {each.name: inputs[each.name].numpy() for each in session.get_inputs()}
            (logits[name],) = session.run(None, given)
        np.testing.assert_allclose(logits["float"], expected, atol=1e-5)
        assert 0 < np.abs(logits["int8"] - expected).max() < 0.05

    def test_shared_weights_are_stored_once(self, tmp_path: Path) -> None:
        sizes = {"embedding_size": 16, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
        model = AlbertForSequenceClassification(AlbertConfig(vocab_size=99, num_hidden_layers=4, **sizes)).eval()
        graph = float_onnx(model, ["input_ids", "attention_mask"])
        separate_attention(graph)
        share_weights(graph)
        assert quantize_graph(graph, "dynamic", True, {}) == 4 * 4 + 3 and not floating_products(graph)
        weights = [each.weight for each in model.modules() if isinstance(each, nn.Linear | nn.Embedding)]
        stored = sum(x.size for x in tensors(graph).values() if x.dtype == np.uint8 and x.ndim == 2)
        assert stored == sum(weight.numel() for weight in weights)
        onnx.save(graph, tmp_path / "int8.onnx")
        ids = torch.randint(0, 99, (2, 7), generator=torch.Generator().manual_seed(0))
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        given = {name: tensor.numpy() for name, tensor in inputs.items()}
        (found,) = open_session(tmp_path / "int8.onnx", 1).run(None, given)
        with torch.no_grad():
            expected = model(**inputs).logits.numpy()
        np.testing.assert_allclose(found, expected, atol=0.02)


class TestStage:
    def test_checkpoint(self, made: tuple[str, Path, Path], parent: Path) -> None:
        method, output, _ = made
        record = Checkpoint(output).record
        assert (record["stage"], record["steps"], record["best_step"]) == ("int8", None, None)
        assert record["total_train_seconds"] == 100 + record["train_seconds"] > 100
        assert record["parent"] == str(parent)
        assert record["options"]["method"] == method
        assert record["sparsity"] == RECORD["sparsity"]
        assert record["conversion"]["measure"] == "changed predictions"
        assert 0 <= record["conversion"]["difference"] <= record["conversion"]["tolerance"] == 0.2
        assert not list(output.glob("*.safetensors"))
        assert read_table(output / "history.parquet", TRAINING_HISTORY).num_rows == 0
        assert json.loads((output / "config.json").read_text())["intaglio"]["int8"]["method"] == method
        assert AutoTokenizer.from_pretrained(output)("good") == AutoTokenizer.from_pretrained(parent)("good")
        assert not (output.parent / "work").exists()

    def test_zeros_of_the_parent_are_zeros(self, made: tuple[str, Path, Path], parent: Path) -> None:
        _, output, _ = made
        weight = AutoModelForSequenceClassification.from_pretrained(parent).bert.encoder.layer[0].attention.self.query
        found = tensors(onnx.load(output / "model.onnx"))
        name = next(name for name in found if name.endswith(".weight.int8") and found[name].shape == (32, 96))
        query = found[name][:, :32]
        absent = weight.weight.detach().numpy().T == 0
        assert absent.mean() == 0.5
        assert (query[absent] == 128).all() and (query[~absent] != 128).mean() > 0.9

    def test_logits_are_near_the_parents(self, made: tuple[str, Path, Path], parent: Path) -> None:
        _, output, _ = made
        (float_model, tokenizer), (model, _) = load_checkpoint(parent), load_checkpoint(output)
        inputs = dict(tokenizer(["a good film.", "a long and bad story."], padding=True, return_tensors="pt"))
        with torch.no_grad():
            expected = float_model(**inputs).logits
        assert 0 < float((model(**inputs).logits - expected).abs().max()) < 0.05

    def test_validation_is_that_of_the_quantized_model(self, made: tuple[str, Path, Path], data: Path) -> None:
        _, output, _ = made
        model, tokenizer = load_checkpoint(output)
        frame = pd.read_parquet(data / "validation.parquet")
        texts = [tokenizer(text, truncation=True, max_length=32, return_tensors="pt") for text in frame["text_a"]]
        logits = torch.cat([model(**each).logits for each in texts])
        found = Checkpoint(output).record["validation"]
        assert found["accuracy"] == accuracy_score(frame["label"], logits.argmax(1))
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(frame["label"]))
        assert found["loss"] == pytest.approx(float(loss), rel=1e-5)

    @pytest.mark.parametrize("calibration", ["min-max", "percentile"])
    def test_other_calibrations_and_one_scale_a_tensor(
        self, calibration: str, parent: Path, data: Path, tmp_path: Path
    ) -> None:
        options = Int8Options(method="static", calibration=calibration, per_channel=False, tolerance=0.2)  # type: ignore[arg-type]
        int8(parent, data, options, 0, 32, tmp_path / "work", tmp_path / "output")
        found = tensors(onnx.load(tmp_path / "output" / "model.onnx"))
        assert {values.shape for name, values in found.items() if name.endswith(".scale")} == {()}

    def test_too_many_changed_predictions(self, data: Path, tmp_path: Path) -> None:
        def tie(model: Any) -> None:
            # One label wins in half of the examples, by less than a step of 8 bits.
            weight = model.classifier.weight
            weight[1] = weight[0] + 1e-4 * torch.randn(weight.shape[1], generator=torch.Generator().manual_seed(0))
            model.classifier.bias.zero_()
            texts = pd.read_parquet(data / "validation.parquet")["text_a"].tolist()
            logits = model.eval()(**tiny_tokenizer()(texts, padding=True, return_tensors="pt")).logits
            model.classifier.bias[0] = (logits[:, 1] - logits[:, 0]).median()

        close = parent_of(tmp_path / "close", "bert", tie)
        options = Int8Options(tolerance=0)
        words = r"dynamic int8 changes .* of 10 predictions .* on the validation split; tolerance: 0\.0% is allowed"
        with pytest.raises(UserError, match=words):
            int8(close, data, options, 0, 32, tmp_path / "work", tmp_path / "output")
        assert not (tmp_path / "output").exists()

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_a_model_that_is_left_in_floating_point_fails(
        self, dtype: torch.dtype, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        half = parent_of(tmp_path / "half", "bert")
        load = Checkpoint.load
        monkeypatch.setattr(Checkpoint, "load", lambda *arguments: load(*arguments).to(dtype))
        with pytest.raises(UserError, match=f"only 0 of 1[04] linear layers .weights: {str(dtype)[6:]}.*needs float32"):
            int8(half, data, Int8Options(), 0, 32, tmp_path / "work", tmp_path / "output")
        assert not (tmp_path / "output").exists()

    def test_what_is_quantized_is_not_quantized_again(
        self, made: tuple[str, Path, Path], data: Path, tmp_path: Path
    ) -> None:
        with pytest.raises(UserError, match="is quantized already"):
            int8(made[1], data, Int8Options(), 0, 32, tmp_path / "work", tmp_path / "output")


class TestWhatFollows:
    def test_export_hands_the_file_on(self, made: tuple[str, Path, Path]) -> None:
        method, output, exported = made
        assert (exported / "model.onnx").read_bytes() == (output / "model.onnx").read_bytes()
        record = json.loads((exported / "export.json").read_text())
        assert (record["int8"], record["integer"], record["difference"]) == (method, [], 0.0)
        assert ("linear" in record["floating"]) == (method == "weights")
        assert sorted(record["inputs"]) == ["attention_mask", "input_ids", "token_type_ids"]
        assert "intaglio" not in json.loads((exported / "config.json").read_text())

    def test_the_export_is_opened_with_signed_weights(
        self, made: tuple[str, Path, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        method, _, exported = made
        monkeypatch.setattr("intaglio.onnx.session.signed_is_exact", lambda: True)
        content = open_session(exported, 1)._model_bytes
        if method == "weights":
            assert content is None
            return
        found = tensors(onnx.load_from_string(content))
        linear = [values.dtype for name, values in found.items() if name.endswith(".int8") and "embed" not in name]
        assert linear and set(linear) == {np.dtype(np.int8)}

    def test_evaluation(self, made: tuple[str, Path, Path], data: Path, tmp_path: Path) -> None:
        _, output, _ = made
        evaluate(output, data, 32, tmp_path / "evaluation")
        rows = read_table(tmp_path / "evaluation" / "predictions.parquet", PREDICTIONS).to_pylist()
        model, tokenizer = load_checkpoint(output)
        texts = pd.read_parquet(data / "test.parquet")["text_a"]
        for row, text in zip(rows, texts, strict=True):
            alone = model(**tokenizer(text, truncation=True, max_length=32, return_tensors="pt")).logits[0]
            np.testing.assert_allclose(row["logits"], alone, atol=1e-6)

    def test_profile(self, made: tuple[str, Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        method, output, exported = made
        shape: dict[str, Any] = {"batch_sizes": [1], "lengths": [8], "headline": (1, 8), "warmup": 1, "calls": 2}
        options = Profile(**shape, threads=1, devices=("cpu",), backends=("torch", "onnxruntime"))
        with caplog.at_level(logging.INFO, "intaglio"):
            profile(output, exported, options, tmp_path / "profile")
        assert caplog.text.count("only onnxruntime runs this model of 8 bits; torch left out") == 1
        latency = read_table(tmp_path / "profile" / "latency.parquet", LATENCY).to_pylist()
        assert [(row["backend"], row["device"], row["max_difference"]) for row in latency] == [
            ("onnxruntime", "cpu", 0)
        ]
        operators = read_table(tmp_path / "profile" / "operators.parquet", OPERATORS).to_pylist()
        assert PRODUCT[method] in {row["operator"] for row in operators}
        sizes = read_table(exported / "sizes.parquet", SIZES).to_pylist()
        found = {row["component"]: row["bytes"] for row in sizes if row["dtype"] is None}
        size = (output / "model.onnx").stat().st_size
        assert found["file"] == found["checkpoint"] == size
        assert not {row["component"] for row in sizes} & {"parameters", "buffers"}

    def test_profile_without_its_backend(self, made: tuple[str, Path, Path], tmp_path: Path) -> None:
        _, output, exported = made
        options = Profile(lengths=[8], headline=(1, 8), batch_sizes=[1], backends=("torch",), devices=("cpu",))
        with pytest.raises(UserError, match=r"profile.backends: .*add onnxruntime"):
            profile(output, exported, options, tmp_path / "profile")

    def test_length_beyond_the_positions(self, made: tuple[str, Path, Path], data: Path, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=f"takes at most {MAX_LENGTH}"):
            evaluate(made[1], data, MAX_LENGTH + 1, tmp_path / "evaluation")
