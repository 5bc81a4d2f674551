"""Weights and word embeddings of 4 bits: how they are chosen, trained and stored, and that every executor has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

import reference
from encoders import ARCHITECTURES, FEWER, INT, calibrated, integer_checkpoint
from intaglio.arithmetic import linear, sums
from intaglio.arithmetic.integers import CLIP, Integers
from intaglio.checkpoint import Checkpoint
from intaglio.encoder.config import EncoderConfig
from intaglio.encoder.files import read_encoder
from intaglio.errors import UserError
from intaglio.execution.constants import constants_of
from intaglio.execution.native import write_constants
from intaglio.execution.on_torch import integer_model
from intaglio.export.export import export
from intaglio.native import build
from intaglio.native.runner import CONSTANTS, FORM, NativeModel, packed, read_constants, unpacked
from intaglio.planning.jobs import deciding
from intaglio.study.options import Distillation, FinetuneOptions, PruneOptions, QuantizeOptions
from plain_program import plain
from stage_runs import finetune, prune, quantize
from streams import Graph, differing, executed, simulated
from test_execution import TYPED, cases, rounded, same_in_onnx, trained
from tiny import tiny_data, tiny_model


@settings(max_examples=50, deadline=None)
@given(rows=st.integers(0, 5), columns=st.integers(1, 9), seed=st.integers(0, 2**16))
def test_what_is_packed_is_unpacked(rows: int, columns: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(-7, 8, (rows, columns), dtype=np.int8)
    stored = packed(values)
    assert stored.dtype == np.uint8 and stored.shape == (rows, (columns + 1) // 2)
    if rows:
        np.testing.assert_array_equal(unpacked(stored), values, strict=True)


def test_the_first_of_two_is_in_the_lower_half() -> None:
    assert packed(np.array([[-7, 7, 0]], np.int8)).tolist() == [[0xF1, 0x08]]


@pytest.mark.parametrize("width", [5, 384, 4096])
def test_weights_of_4_bits(width: int) -> None:
    random = torch.Generator().manual_seed(width)
    weight = torch.randn(6, width, generator=random)
    found = linear.quantize_weight(weight, torch.zeros(6), torch.tensor(0.02), bits=4)
    scale = weight.abs().amax(1) * CLIP / 7
    torch.testing.assert_close(found.scale, scale, rtol=1e-6, atol=0)
    expected = (weight.double() / found.scale.double()[:, None]).round().clamp(-7, 7)
    assert float((found.values - expected).abs().max()) <= 1 and float((found.values != expected).float().mean()) < 1e-3
    # Within the accumulators' width, whatever the input.
    x = np.where(found.values[:1].numpy() < 0, 127, -128).astype(np.int64)
    reference.linear(x, found.values.numpy().astype(np.int64), found.bias.numpy().astype(np.int64))


def test_a_row_has_the_multiplier_that_it_needs() -> None:
    """Rows that differ by a factor of 100 are represented alike, and nothing exceeds the sum's width."""
    rows = torch.randn(8, 384, generator=torch.Generator().manual_seed(0)) * torch.logspace(-2, 0, 8)[:, None]
    ranges = [rows.abs().amax(), torch.tensor(2.0)]
    scale, (most, _) = sums.table_scales(ranges, [4, 8])
    multipliers = sums.row_multipliers(rows, scale, most, 4)
    values = sums.quantize_rows(rows, scale * multipliers, 4)
    assert multipliers.shape == (8, 1) and torch.equal(multipliers, multipliers.round())
    assert (values.abs().amax(1) == 7).all()
    real = values * multipliers * scale
    error = (real - rows).square().mean(1).sqrt() / rows.square().mean(1).sqrt()
    assert float(error.max()) < 0.16 and float(error.max() / error.min()) < 1.5
    most_of_all = [np.full(3, 7), np.full(3, 127)]
    second = sums.table_scales(ranges, [4, 8])[1][1]
    reference.embeddings(most_of_all, [int(most), int(second)])


@pytest.mark.usefixtures("seeded")
def test_gradients_are_those_of_the_float_layer_at_the_integers() -> None:
    x = torch.randint(-127, 128, (6, 40)).float().requires_grad_()
    layer, scale, upstream = torch.nn.Linear(40, 7), torch.tensor(0.02), torch.randn(6, 7)
    (linear.linear(Integers(x, scale), layer.weight, layer.bias, 4).real * upstream).sum().backward()
    found = linear.quantize_weight(layer.weight.detach(), layer.bias.detach(), scale, bits=4)
    assert float(found.values.abs().max()) == 7
    weight = (found.values * found.scale[:, None]).requires_grad_()
    real = (x.detach() * scale).requires_grad_()
    (functional.linear(real, weight, layer.bias) * upstream).sum().backward()
    assert x.grad is not None and real.grad is not None
    torch.testing.assert_close(x.grad / scale, real.grad)
    # The weight's own gradient, clipped or not.
    torch.testing.assert_close(layer.weight.grad, weight.grad)


def test_rows_have_the_gradient_one_but_where_they_are_clipped() -> None:
    rows = torch.tensor([[0.5, -0.25, 3.0], [0.05, 0.025, 0.0]], requires_grad=True)
    scale, (most, _) = sums.table_scales([torch.tensor(3.0), torch.tensor(2.0)], [4, 8])
    multipliers = sums.row_multipliers(rows, scale, most, 4)
    (sums.quantize_rows(rows, scale * multipliers, 4) * multipliers * scale).sum().backward()
    assert rows.grad is not None
    torch.testing.assert_close(rows.grad, torch.tensor([[1.0, 1, 0], [0, 1, 1]]))


@pytest.mark.parametrize(
    ("arch", "bits"),
    [*((arch, FEWER) for arch in ARCHITECTURES), ("bert", {"weights": 4}), ("bert", {"embeddings": 4})],
)
def test_every_executor_has_the_integers_that_are_simulated(arch: str, bits: dict[str, int], tmp_path: Path) -> None:
    encoder, model = calibrated(INT, arch, bits)
    inputs = cases(model, arch)
    trained(encoder, inputs[0])
    constants, integers, graph = constants_of(encoder), integer_model(encoder), Graph(encoder, arch in TYPED)
    largest = [int(table.abs().max()) for table in constants.embeddings.tables]
    assert (largest[0] <= 7, max(largest[1:]) > 7) == ("embeddings" in bits, True)
    weights = [part.weight for layer in constants.layers for part in (layer.projections, layer.output)]
    assert (max(int(weight.abs().max()) for weight in weights) <= 7) == ("weights" in bits)
    write_constants(encoder, tmp_path / CONSTANTS)
    try:
        native = NativeModel(tmp_path, 1, library_file=build.built())
    except UserError as error:
        pytest.skip(str(error))
    for each in inputs:
        expected = simulated(encoder, each)
        assert differing(rounded(expected), plain(constants, each)) == []
        assert differing(expected, executed(integers, each)) == []
        same_in_onnx(encoder, graph, each)
        hidden, _ = native.hidden_and_logits(**{name: tensor.numpy() for name, tensor in each.items()})
        np.testing.assert_array_equal(hidden, expected["hidden"][0])


@pytest.mark.parametrize("others", [(), ("gelu",), ("softmax", "layernorm")], ids="-".join)
def test_variants_with_floating_point_have_the_same_bits_in_torch(others: tuple[Any, ...]) -> None:
    encoder, model = calibrated(frozenset({"linear", *others}), "bert", FEWER)
    for each in cases(model, "bert"):
        assert differing(simulated(encoder, each), executed(integer_model(encoder), each)) == []


def test_a_file_holds_two_to_a_byte(tmp_path: Path) -> None:
    """In both forms; the graph opens in ONNX Runtime as anybody opens it, and gives the checkpoint's logits."""
    sizes, native = {}, {}
    for name, bits in (("eight", None), ("four", FEWER)):
        checkpoint = integer_checkpoint(tmp_path / name, bits=bits)
        export(checkpoint, tmp_path / f"{name}-export")
        rows = pd.read_parquet(tmp_path / f"{name}-export" / "sizes.parquet")
        sizes[name] = rows[rows["component"] == "tensors"].set_index("dtype")
        native[name] = tmp_path / f"{name}-export" / FORM / CONSTANTS
    encoder = read_encoder(tmp_path / "four")
    weights = sum(x.numel() for key, x in encoder.named_parameters() if key.startswith("layers.") and x.dim() == 2)
    count = weights + encoder.embeddings.word.weight.numel()
    assert sizes["four"].loc["int4", "count"] == count and sizes["four"].loc["int4", "bytes"] == count // 2
    # What a multiplier for each row and a little of the format take.
    more = 4 * encoder.shape.vocabulary + 256
    assert sizes["four"]["bytes"].sum() < sizes["eight"]["bytes"].sum() - count // 2 + more
    assert native["four"].stat().st_size < native["eight"].stat().st_size - count // 2 + more
    tensors, _ = read_constants(native["four"])
    for name, tensor in read_constants(native["eight"])[0].items():
        assert (tensors[name].dtype, tensors[name].shape) == (tensor.dtype, tensor.shape)
    session = onnxruntime.InferenceSession(tmp_path / "four-export" / "model.onnx", providers=["CPUExecutionProvider"])
    inputs = {"input_ids": np.array([[2, 9, 7, 3]]), "attention_mask": np.ones((1, 4), np.int64)}
    inputs["token_type_ids"] = np.zeros_like(inputs["input_ids"])
    (found,) = session.run(["logits"], inputs)
    with torch.no_grad():
        expected = encoder(**{key: torch.from_numpy(x) for key, x in inputs.items()}).logits
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)
    stored = onnx.load(tmp_path / "four-export" / "model.onnx").graph.initializer
    assert all(len(x.raw_data) == np.prod(x.dims) // 2 for x in stored if x.data_type == onnx.TensorProto.INT4)


def test_a_checkpoint_keeps_its_bits_and_one_of_8_says_nothing(tmp_path: Path) -> None:
    for name, bits in (("eight", None), ("four", FEWER)):
        section = json.loads((integer_checkpoint(tmp_path / name, bits=bits) / "config.json").read_text())["intaglio"]
        assert section.get("bits") == bits
    shape = read_encoder(tmp_path / "four").shape
    assert (shape.weight_bits, shape.embedding_bits) == (4, 4)


def test_the_default_is_no_part_of_a_key() -> None:
    assert "bits" not in deciding(QuantizeOptions())
    assert "bits" not in deciding(QuantizeOptions.model_validate({"bits": {"weights": 8}}))
    assert deciding(QuantizeOptions.model_validate({"bits": {"weights": 4}}))["bits"] == {"weights": 4}


def test_a_pruned_model_learns_from_a_teacher_with_4_bits(tmp_path: Path) -> None:
    data = tiny_data(tmp_path / "data", n=64)
    training: dict[str, Any] = {"batch_size": 16, "learning_rate": 1e-3}
    start = FinetuneOptions(epochs=1, **training)
    finetune(tiny_model(tmp_path / "model"), data, start, 1, 32, tmp_path / "work", tmp_path / "float")
    pruning = PruneOptions(sparsity=0.5, max_steps=4, **training)
    prune(tmp_path / "float", data, pruning, 1, 32, tmp_path / "work2", tmp_path / "pruned")
    options = QuantizeOptions.model_validate(
        {"bits": FEWER, "max_steps": 4, "calibration_examples": 32, "tolerance": 1.0, **training}
        | {"distillation": Distillation()}
    )
    made = tmp_path / "made"
    quantize(tmp_path / "pruned", data, options, 1, 32, tmp_path / "work3", made, teacher=tmp_path / "float")
    encoder = Checkpoint(made).load()
    layer = constants_of(encoder).layers[0]
    zero = encoder.layers[0].intermediate.weight == 0
    assert 0.3 < float(zero.float().mean()) < 0.7
    assert int(layer.intermediate.weight.abs().max()) == 7 and (layer.intermediate.weight[zero] == 0).all()


def test_fewer_bits_without_integers_are_refused() -> None:
    fields = vars(calibrated()[0].shape) | {"integer": frozenset(), "weight_bits": 4}
    with pytest.raises(UserError, match=r"^bits: only weights of integer operations.*$"):
        EncoderConfig(**fields)
