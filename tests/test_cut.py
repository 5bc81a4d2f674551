"""Heads and neurons that are cut out: the same logits as masked ones, in floating point, on integers and in ONNX."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from encoders import ARCHITECTURES, INT, batch, random_model
from intaglio.allocation import Preempted
from intaglio.checkpoint import Checkpoint
from intaglio.encoder.config import from_transformers
from intaglio.encoder.cutting import Kept, cut_out, multiply_adds
from intaglio.encoder.files import convert, read_encoder, save_encoder
from intaglio.encoder.model import Encoder
from intaglio.errors import UserError
from intaglio.execution.constants import constants_of
from intaglio.execution.on_torch import integer_model
from intaglio.export.export import export
from intaglio.measure.backends.eager import torch_module
from intaglio.onnx.session import open_session
from intaglio.stages.cut import _KEPT, check_against_masked
from intaglio.stages.importance import Units, choose, gated, importance
from intaglio.store import new_artifact
from intaglio.study.options import CutOptions, FinetuneOptions, QuantizeOptions
from plain_program import plain
from stage_runs import cut, finetune, quantize
from streams import Graph, differing, executed, simulated
from tiny import tiny_checkpoint, tiny_data, tiny_model, tiny_tokenizer

FLOAT = frozenset()
TYPED = ("bert", "electra")
# Of two layers with four heads and 70 neurons each: other numbers of either in each, none of them round.
KEPT_OF_4 = Kept(((0, 2, 3), (1,)), (tuple(range(3, 70, 2)), (0, 1, 2, 40, 41, 69)))


def model_of_4(arch: str = "bert", **changes: Any) -> Any:
    """A transformers model of two layers with four heads and 70 neurons."""
    common = {"num_attention_heads": 4, "intermediate_size": 70}
    return random_model(arch, **({"n_heads": 4, "hidden_dim": 70} if arch == "distilbert" else common), **changes)


def cut_of(model: Any, kept: Kept = KEPT_OF_4) -> Encoder:
    return cut_out(convert(model, FLOAT).to(model.dtype), kept)


def zeroed(model: Any, kept: Kept) -> Any:
    """The model with zeros for all that reads what is not kept: no hook, no gate."""
    where = model.distilbert.transformer.layer if model.config.model_type == "distilbert" else None
    where = where or model.base_model.encoder.layer
    with torch.no_grad():
        for layer, heads, neurons in zip(where, kept.heads, kept.neurons, strict=True):
            distil = hasattr(layer, "ffn")
            reads_heads = layer.attention.out_lin if distil else layer.attention.output.dense
            reads_neurons = layer.ffn.lin2 if distil else layer.output.dense
            lost = [head for head in range(4) if head not in heads]
            reads_heads.weight.unflatten(1, (4, -1))[:, lost] = 0
            reads_neurons.weight[:, [index for index in range(70) if index not in neurons]] = 0
    return model


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_cutting_equals_masking(arch: str) -> None:
    model = model_of_4(arch).double()
    small = cut_of(model)
    assert small.shape.heads == (3, 1) and small.shape.neurons == (34, 6) and not small.training
    assert small.layers[1].attention.query.weight.shape == (8, 32)
    assert small.layers[1].attention.output.weight.shape == (32, 8)
    assert small.layers[0].intermediate.weight.shape == (34, 32)
    inputs = batch(model, 6, 20, types=arch in TYPED)
    with torch.no_grad():
        found = small(**inputs).logits
        with gated(model, double(Units.only(KEPT_OF_4, convert(model, FLOAT).shape, torch.device("cpu")))):
            masked = model(**inputs).logits
        whole = model(**inputs).logits
        expected = zeroed(model, KEPT_OF_4)(**inputs).logits
    assert found.dtype == torch.float64
    assert float((found - expected).abs().max()) <= 1e-10
    assert float((masked - expected).abs().max()) <= 1e-10
    assert float((whole - expected).abs().max()) > 1e-3


def double(units: Units) -> Units:
    return Units(*([each.double() for each in layers] for layers in (units.heads, units.neurons)))


def test_keeping_everything_changes_nothing() -> None:
    model = model_of_4()
    everything = Kept(((0, 1, 2, 3),) * 2, (tuple(range(70)),) * 2)
    encoder, small = convert(model, FLOAT), cut_of(model, everything)
    assert small.shape == encoder.shape
    assert all(torch.equal(tensor, small.state_dict()[name]) for name, tensor in encoder.state_dict().items())


@pytest.mark.parametrize("arch", ["bert", "distilbert"])
def test_scores_are_what_finite_differences_of_the_loss_say(arch: str) -> None:
    model = model_of_4(arch).double()
    shape = convert(model, FLOAT).shape
    inputs = batch(model, 3, 9)
    labels = torch.tensor([0, 1, 1])
    scores = importance(model, shape, [{**inputs, "labels": labels}])

    def losses(kind: str, layer: int, unit: int, gate: float) -> torch.Tensor:
        gates = double(Units.only(Kept(((0, 1, 2, 3),) * 2, (tuple(range(70)),) * 2), shape, torch.device("cpu")))
        getattr(gates, kind)[layer][0, unit] = gate
        with torch.no_grad(), gated(model, gates):
            return torch.nn.functional.cross_entropy(model(**inputs).logits, labels, reduction="none")

    step = 1e-5
    for kind, power in (("heads", 1), ("neurons", 2)):
        for layer, unit in ((0, 0), (0, 3), (1, 1), (1, 2)):
            # an example at a time: of a batch, examples would cancel out
            slope = (losses(kind, layer, unit, 1 + step) - losses(kind, layer, unit, 1 - step)) / (2 * step)
            found = float(getattr(scores, kind)[layer][0, unit])
            np.testing.assert_allclose(found, float(slope.abs().pow(power).mean()), rtol=1e-4)


def test_scores_of_a_gate_by_hand() -> None:
    """The derivative of a gate is the sum over positions of output times gradient."""
    model = random_model("bert", num_hidden_layers=1)
    inputs = {**batch(model, 1, 7), "labels": torch.tensor([1])}
    kept: list[torch.Tensor] = []

    def keep(_: Any, given: tuple[torch.Tensor, ...]) -> None:
        given[0].retain_grad()
        kept.append(given[0])

    layer = model.bert.encoder.layer[0]
    for linear in (layer.attention.output.dense, layer.output.dense):
        linear.register_forward_pre_hook(keep)
    model(**inputs).loss.backward()
    context, neurons = ((x.detach() * x.grad).sum((0, 1)) for x in kept)
    scores = importance(model, from_transformers(model.config, FLOAT), [inputs])
    torch.testing.assert_close(scores.heads[0][0], context.view(2, 16).sum(1).abs(), rtol=1e-4, atol=1e-8)
    torch.testing.assert_close(scores.neurons[0][0], neurons.square(), rtol=1e-4, atol=1e-10)


def test_batches_and_padding_do_not_change_scores() -> None:
    model = model_of_4()
    shape = convert(model, FLOAT).shape
    inputs = {**batch(model, 4, 12), "labels": torch.tensor([0, 1, 0, 1])}
    together = importance(model, shape, [inputs])
    lengths = inputs["attention_mask"].sum(1).tolist()
    alone = importance(
        model,
        shape,
        [
            {name: x[row : row + 1] if name == "labels" else x[row : row + 1, :n] for name, x in inputs.items()}
            for row, n in enumerate(lengths)
        ],
    )
    for kind in ("heads", "neurons"):
        for one, other in zip(getattr(together, kind), getattr(alone, kind), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-7)


def shape_of(layers: int = 2, heads: int = 4, neurons: int = 128, width: int = 8) -> Any:
    shape = convert(random_model(), FLOAT).shape
    return replace(
        shape, hidden_size=heads * width, head_width=width, heads=(heads,) * layers, neurons=(neurons,) * layers
    )


def scores_of(*heads: list[float], neurons: list[list[float]]) -> Units:
    """Scores of so many heads, and of neurons in blocks of 32 alike ones."""
    spread = [torch.tensor([each for each in layer for _ in range(32)])[None] for layer in neurons]
    return Units([torch.tensor(layer)[None] for layer in heads], spread)


def counts(kept: Kept) -> tuple[list[int], list[int]]:
    return [len(layer) for layer in kept.heads], [len(layer) for layer in kept.neurons]


def test_each_layer_keeps_its_most_important() -> None:
    scores = scores_of([1.0, 4.0, 3.0, 2.0], [0.1, 0.2, 0.4, 0.3], neurons=[[4, 1, 2, 3], [1, 1, 9, 1]])
    kept = choose(scores, shape_of(), CutOptions(scope="layer"), 16)
    assert kept.heads == ((1, 2), (2, 3))
    assert kept.neurons[0] == (*range(32), *range(96, 128))
    # of equal ones the first
    assert kept.neurons[1] == (*range(32), *range(64, 96))
    most = CutOptions(scope="layer", sparsity=0.99)
    assert counts(choose(scores, shape_of(), most, 16)) == ([1, 1], [32, 32])


def test_all_layers_compete_by_normalized_scores() -> None:
    # a hundred times larger scores of a layer do not count; how much one of its heads stands out does
    scores = scores_of([100.0, 100.0, 100.0, 100.0], [1.0, 0.1, 0.1, 0.1], neurons=[[1, 1, 1, 1], [5, 1, 1, 1]])
    kept = choose(scores, shape_of(), CutOptions(sparsity=0.5), 16)
    assert counts(kept) == ([3, 1], [96, 32])
    assert kept.heads == ((0, 1, 2), (0,))
    most = CutOptions(sparsity=0.99)
    assert counts(choose(scores, shape_of(), most, 16)) == ([1, 1], [32, 32])
    least = CutOptions(sparsity=0.13)
    assert counts(choose(scores, shape_of(), least, 16)) == ([4, 3], [128, 96])
    zeros = scores_of([0.0] * 4, [0.0] * 4, neurons=[[0] * 4] * 2)
    assert sum(counts(choose(zeros, shape_of(), CutOptions(), 16))[0]) == 4


def test_neurons_that_are_no_multiple_of_a_block() -> None:
    shape = shape_of(layers=1, neurons=70)
    scores = Units([torch.ones(1, 4)], [torch.arange(70.0)[None]])
    halved = CutOptions(sparsity=0.4)
    assert choose(scores, shape, halved, 16).neurons == (tuple(range(6, 70)),)


def test_multiplications_are_those_of_the_products() -> None:
    """Counted where torch multiplies."""
    model = model_of_4(num_labels=2)
    small = cut_of(model)
    length, found = 9, [0]
    for layer in small.layers:
        for linear in layer.modules():
            if isinstance(linear, torch.nn.Linear):
                linear.register_forward_hook(
                    lambda linear, given, _: found.append(given[0].shape[1] * linear.weight.numel())
                )
    small(batch(model, 1, length)["input_ids"])
    # scores and context: two products of [length, 8] and [8, length] a head, of which there are four
    assert multiply_adds(small.shape, length) == sum(found) + 4 * 2 * length * length * 8


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("wanted", [1.2, 2.0, 3.5])
def test_a_speedup_is_reached_and_not_by_far(wanted: float, scope: Any) -> None:
    shape = shape_of(layers=6, heads=12, neurons=1536, width=32)
    torch.manual_seed(0)
    scores = Units(*([torch.rand(1, count).square() for count in layer] for layer in (shape.heads, shape.neurons)))
    options = CutOptions(speedup=wanted, scope=scope)
    small = choose(scores, shape, options, 64).shape(shape)
    taken = sum(
        64 * 4 * 384 * heads * 32 + 2 * 64 * 64 * heads * 32 + 2 * 64 * 384 * neurons
        for heads, neurons in zip(small.heads, small.neurons, strict=True)
    )
    whole = 6 * (64 * 4 * 384 * 384 + 2 * 64 * 64 * 384 + 2 * 64 * 384 * 1536)
    assert wanted <= whole / taken <= 1.1 * wanted
    assert all(count % 32 == 0 for count in small.neurons)


def test_a_speedup_that_is_out_of_reach_is_refused() -> None:
    shape = shape_of()
    scores = scores_of([1.0] * 4, [1.0] * 4, neurons=[[1] * 4] * 2)
    with pytest.raises(UserError, match=r"^speedup: 9.* take 4 times fewer"):
        choose(scores, shape, CutOptions(speedup=9), 16)


def test_a_cut_that_is_another_model_is_refused() -> None:
    model = model_of_4()
    shape, small, inputs = convert(model, FLOAT).shape, cut_of(model), batch(model)
    found = check_against_masked(model, shape, small, KEPT_OF_4, inputs)
    assert found["difference"] <= found["tolerance"] / 10 and found["tolerance"] >= 1e-4
    with torch.no_grad():
        small.layers[1].intermediate.bias[0] += 1
    with pytest.raises(UserError, match=r"^cutting changed the model: a logit differs by .* where .* is allowed"):
        check_against_masked(model, shape, small, KEPT_OF_4, inputs)
    with torch.no_grad():
        small.layers[1].intermediate.bias[0] = torch.nan
    with pytest.raises(UserError, match="differs by nan"):
        check_against_masked(model, shape, small, KEPT_OF_4, inputs)


def cut_checkpoint(folder: Path, arch: str, encoder: Encoder, model: Any) -> Path:
    with new_artifact(folder, "checkpoint") as draft:
        save_encoder(encoder, model.config, draft)
        tiny_tokenizer(arch).save_pretrained(draft)
    return folder


def test_a_cut_encoder_is_saved_and_read(tmp_path: Path) -> None:
    model = model_of_4()
    small = cut_of(model)
    folder = cut_checkpoint(tmp_path / "checkpoint", "bert", small, model)
    described = json.loads((folder / "config.json").read_text())["intaglio"]
    assert described == {"integer": [], "heads": [3, 1], "neurons": [34, 6]}
    assert (
        (Checkpoint(folder).kind == "encoder")
        and not Checkpoint(folder).is_quantized
        and not Checkpoint(folder).is_integer_only
    )
    again = Checkpoint(folder).load()
    assert again.shape == small.shape and again.calibrated
    assert all(torch.equal(tensor, small.state_dict()[name]) for name, tensor in again.state_dict().items())
    module = torch_module(Checkpoint(folder))
    assert isinstance(module, Encoder)
    with torch.no_grad():
        assert torch.equal(module(**batch(model)).logits, small(**batch(model)).logits)


def test_integers_are_entered_with_the_shapes_and_the_configuration_given(tmp_path: Path) -> None:
    model = model_of_4()
    small = cut_of(model)
    folder = cut_checkpoint(tmp_path / "checkpoint", "bert", small, model)
    config = Checkpoint(folder).config()
    config.hidden_dropout_prob = 0.25
    encoder = read_encoder(folder, INT, config)
    assert encoder.shape == replace(small.shape, integer=INT, dropout=0.25, head_dropout=0.25)
    assert torch.equal(encoder.layers[1].output.weight, small.layers[1].output.weight)
    with pytest.raises(UserError, match="calibrate"):
        encoder(**batch(model))


@pytest.mark.parametrize("arch", ["roberta", "electra"])
def test_a_cut_model_is_exported_and_fused(arch: str, tmp_path: Path) -> None:
    model = model_of_4(arch)
    small = cut_of(model)
    export(cut_checkpoint(tmp_path / "checkpoint", arch, small, model), tmp_path / "export")
    record = json.loads((tmp_path / "export" / "export.json").read_text())
    assert record["integer"] == [] and record["difference"] <= 1e-4
    graph = onnx.load(tmp_path / "export" / "model.onnx").graph
    found = Counter(node.op_type for node in graph.node)
    assert found["Attention"] == found["BiasGelu"] == 2 and found["SkipLayerNormalization"] >= 4
    heads = [
        onnx.helper.get_attribute_value(attribute)
        for node in graph.node
        for attribute in node.attribute
        if node.op_type == "Attention" and attribute.name == "num_heads"
    ]
    assert heads == [3, 1]
    session = open_session(tmp_path / "export", 1)
    for rows, length in ((1, 1), (5, 17)):
        inputs = batch(model, rows, length, types=arch in TYPED)
        given = {each.name: inputs[each.name].numpy() for each in session.get_inputs()}
        with torch.no_grad():
            np.testing.assert_allclose(session.run(None, given)[0], small(**inputs).logits.numpy(), atol=1e-5)


@pytest.mark.parametrize("arch", ["distilbert", "electra"])
def test_a_cut_model_on_integers_agrees_to_the_bit(arch: str, tmp_path: Path) -> None:
    model = model_of_4(arch)
    encoder = read_encoder(cut_checkpoint(tmp_path / "float", arch, cut_of(model), model), INT)
    with encoder.calibrating(momentum=0.95):
        for seed in range(3):
            encoder(**batch(model, 8, 20, seed=seed))
    inputs = batch(model, 5, 18, types=arch in TYPED)
    expected = simulated(encoder, inputs)
    assert [scores.shape[1] for scores in expected["scores"]] == [3, 1]
    assert differing(expected, executed(integer_model(encoder), inputs)) == []
    logits = expected.pop("logits")[0]
    assert differing(expected, plain(constants_of(encoder), inputs)) == []
    graph = Graph(encoder, arch in TYPED)
    stream = graph.stream(inputs)
    np.testing.assert_allclose(stream.pop("logits")[0], logits, atol=1e-5)
    assert differing(expected, stream) == []
    np.testing.assert_array_equal(graph.fused(inputs)["hidden"], expected["hidden"][0])


QUICK = {"max_steps": 4, "batch_size": 8, "learning_rate": 5e-3}
OPTIONS = CutOptions(importance_examples=40, **QUICK)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_data(tmp_path_factory.mktemp("data") / "data", n=48)


@pytest.fixture(scope="module")
def parent(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parent")
    options = FinetuneOptions(**QUICK)
    finetune(tiny_model(folder / "model"), data, options, 1, 32, folder / "work", folder / "checkpoint")
    return folder / "checkpoint"


def test_the_stage_from_end_to_end_and_on_to_integers(parent: Path, data: Path, tmp_path: Path) -> None:
    cut(parent, data, OPTIONS, 1, 32, tmp_path / "work", tmp_path / "cut")
    record = json.loads((tmp_path / "cut" / "training.json").read_text())
    assert record["stage"] == "cut" and record["steps"] == 4 and record["parent"] == str(parent)
    # half of the four heads and of the four blocks of neurons, at least one each
    assert record["cut"] == {"heads": [1, 1], "neurons": [32, 32]}
    conversion = record["conversion"]
    assert conversion["measure"] == "largest difference of a logit to the masked model"
    assert 0 <= conversion["difference"] <= conversion["tolerance"]
    assert not (tmp_path / "work").exists()
    small = Checkpoint(tmp_path / "cut").load()
    assert small.shape.heads == (1, 1) and small.layers[0].intermediate.weight.shape == (32, 32)
    before = AutoModelForSequenceClassification.from_pretrained(parent).state_dict()
    assert not torch.equal(small.head.output.weight, before["classifier.weight"])

    options = QuantizeOptions(**QUICK, calibration_examples=16, dropout=0.0)
    quantize(tmp_path / "cut", data, options, 1, 32, tmp_path / "work", tmp_path / "int")
    integers = Checkpoint(tmp_path / "int").load()
    assert integers.shape == replace(small.shape, integer=INT, dropout=0.0, head_dropout=0.0)
    assert Checkpoint(tmp_path / "int").is_integer_only and Checkpoint(tmp_path / "int").is_quantized
    export(tmp_path / "int", tmp_path / "export")
    assert json.loads((tmp_path / "export" / "export.json").read_text())["difference"] <= 1e-5

    for checkpoint in ("cut", "int"):
        with pytest.raises(UserError, match="is cut or quantized already"):
            cut(tmp_path / checkpoint, data, OPTIONS, 1, 32, tmp_path / "work", tmp_path / "again")
    with pytest.raises(UserError, match="is quantized already"):
        quantize(tmp_path / "int", data, options, 1, 32, tmp_path / "work", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_an_interrupted_job_goes_on_with_what_it_had_chosen(
    parent: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from intaglio.stages import cut as stage
    from intaglio.stages import run as stage_run

    options = OPTIONS.model_copy(update={"checkpoint_minutes": 0.0})

    def run(name: str) -> None:
        cut(parent, data, options, 1, 32, tmp_path / f"{name}-work", tmp_path / name)

    run("whole")
    original = stage_run.train

    def interrupted(*arguments: Any, **others: Any) -> Any:
        original(*arguments, **others)
        raise Preempted

    monkeypatch.setattr(stage_run, "train", interrupted)
    with pytest.raises(Preempted):
        run("parted")
    assert (tmp_path / "parted-work" / _KEPT).is_file()
    monkeypatch.setattr(stage_run, "train", original)
    # before its last step
    work = tmp_path / "parted-work"
    assert sorted(path.name for path in work.glob("progress-*")) == ["progress-3", "progress-4"]
    shutil.rmtree(work / "progress-4")
    monkeypatch.setattr(stage, "importance", lambda *_: pytest.fail("importance was computed again"))
    run("parted")
    one, other = (Checkpoint(tmp_path / name).load() for name in ("whole", "parted"))
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())


def test_other_architectures_are_refused(parent: Path, data: Path, tmp_path: Path) -> None:
    strange = tmp_path / "strange"
    shutil.copytree(parent, strange)
    config = json.loads((strange / "config.json").read_text())
    (strange / "config.json").write_text(json.dumps({**config, "hidden_act": "relu"}))
    manifest = json.loads((strange / "manifest.json").read_text())
    manifest["files"]["config.json"] = (strange / "config.json").stat().st_size
    (strange / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="activation 'relu'"):
        cut(strange, data, OPTIONS, 1, 32, tmp_path / "work", tmp_path / "cut")


def test_a_checkpoint_without_a_record_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"training\.json"):
        cut(tiny_checkpoint(tmp_path / "parent"), data, OPTIONS, 1, 32, tmp_path / "work", tmp_path / "cut")
