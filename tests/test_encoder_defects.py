"""Defects of transformers' port of I-BERT: tests that Intaglio does not have them and, if cheap, that the port does.

A test of the port that begins to fail says that the port was mended; it can go then.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import IBertConfig, IBertForSequenceClassification
from transformers.models.ibert import quant_modules as port

from encoders import ARCHITECTURES, INT, INTEGER_POINTS, POINTS, batch, calibrated, loss_of, name
from intaglio.arithmetic import gelu, integers, layernorm, linear, softmax, sums
from intaglio.arithmetic.integers import EXACT, Integers, rescale
from intaglio.encoder import layers, model
from intaglio.encoder.layers import Norm

LABELS = torch.tensor([0, 1, 1, 0])


pytestmark = pytest.mark.usefixtures("seeded")


@pytest.fixture
def ibert() -> Any:
    """The port on integers, two layers of hidden size 32, after one training step that set its ranges."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = IBertConfig(vocab_size=64, max_position_embeddings=50, type_vocab_size=1, quant_mode=True, **sizes)
    network = IBertForSequenceClassification(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    network.train()(**batch(network), labels=LABELS).loss.backward()
    return network


def _step(encoder: Any, inputs: dict[str, Tensor]) -> None:
    loss_of(encoder, inputs, LABELS).backward()


# The layer's scale never reaches the next layer.


def test_scale_reaches_the_next_layer():
    encoder, network = calibrated()
    passed: list[tuple[Any, Any]] = []
    for layer in encoder.layers:
        layer.register_forward_hook(lambda _m, arguments, output: passed.append((arguments[0], output)))
    with torch.no_grad():
        encoder(**batch(network))
    (_, made), (taken, _) = passed
    assert taken is made
    assert float(passed[0][0].wide.scale) != float(made.wide.scale)
    assert float(passed[0][0].narrow.scale) != float(made.narrow.scale)
    # what the integers stand for is what the float layer computes
    with torch.no_grad():
        hidden = network.bert(**batch(network), output_hidden_states=True).hidden_states[1]
    token = batch(network)["attention_mask"] == 1
    for value in (made.wide, made.narrow):
        assert float((value.real - hidden)[token].square().mean().sqrt()) <= 0.05 * float(hidden.std())


def test_scale_reaches_the_next_layer_in_the_port_it_does_not(ibert):
    scales: list[float] = []
    for layer in ibert.ibert.encoder.layer:
        layer.register_forward_pre_hook(lambda _m, arguments: scales.append(float(arguments[1])))
    with torch.no_grad():
        ibert(**batch(ibert))
    assert scales[0] == scales[1]


# LayerNorm's bias gets no gradient and gamma a wrong one.


def test_gradients_of_layer_norms_parameters():
    x, upstream = torch.randn(3, 5, 16), torch.randn(3, 5, 16)
    ours, theirs, wrong = (
        Norm(16, 1e-5, True, False),
        torch.nn.LayerNorm(16),
        port.IntLayerNorm(16, 1e-5, quant_mode=True),
    )
    for norm in (ours, theirs, wrong):
        norm.weight.data.copy_(torch.linspace(0.5, 1.5, 16)), norm.bias.data.copy_(torch.linspace(-1, 1, 16))
    (ours(Integers((x * 1e5).round(), torch.tensor(1e-5))).wide.real * upstream).sum().backward()
    (theirs(x) * upstream).sum().backward()
    scale = torch.tensor([1e-5])
    (wrong((x / scale).round() * scale, scale)[0] * upstream).sum().backward()
    assert torch.allclose(ours.weight.grad, theirs.weight.grad, atol=0.02)
    assert torch.allclose(ours.bias.grad, theirs.bias.grad, atol=0.02)
    assert wrong.bias.grad is None
    assert not torch.allclose(wrong.weight.grad, theirs.weight.grad, atol=0.5)


@pytest.mark.parametrize("point", INTEGER_POINTS, ids=name)
def test_every_parameter_gets_a_gradient(point, ibert):
    encoder, network = calibrated(point)
    _step(encoder.train(), batch(network))
    assert all(bool(parameter.grad.any()) for parameter in encoder.parameters())
    assert any(parameter.grad is None for parameter in ibert.parameters())


# Softmax's range is tracked in units that depend on the scale.


def test_softmax_does_not_depend_on_the_scale_of_its_input():
    real = torch.randn(6, 30) * 3
    results, ranges = [], []
    for scale in (torch.tensor([2.0**-10]), torch.tensor([2.0**-12])):
        scores = (real * 2**10).round() * 2.0**-10
        results.append(softmax.softmax(Integers(scores / scale, scale.squeeze()), 1.0, None).values)
        wrong = port.IntSoftmax(8, quant_mode=True).train()
        wrong(scores, scale)
        ranges.append(float(wrong.act.x_max))
    assert torch.equal(*results)
    assert ranges[1] > 10 * ranges[0]


def test_softmax_has_no_range():
    encoder, _ = calibrated()
    names = {key for key, _ in encoder.layers[0].attention.named_buffers()}
    assert names == {f"{part}_range.largest" for part in ("query", "key", "value", "context")}


# Softmax, GELU and LayerNorm never round, so nothing is an integer.


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Tensor, int]]:
    """(function, integers, largest magnitude declared) of everything that the arithmetic makes."""
    made: list[tuple[str, Tensor, int]] = []
    bounds: dict[str, Callable[..., int]] = {
        "rescale": lambda _x, _multiplier, low=-128, high=127, _inplace=False: max(-low, high),
        "shorten": lambda *_: 128,
        "gelu": lambda *_: 127,
        "softmax": lambda *_: 255,
        "layer_norm": lambda *_: EXACT - 2**21,
        "residual": lambda *_: sums.BOUND,
        "alone": lambda *_: sums.BOUND,
        "quantize_rows": lambda *_: 127,
        "matmul": lambda *_: EXACT,
        "linear": lambda *_: EXACT - 1,
        "linear_term": lambda *_: EXACT - 1,
        "accumulate": lambda *_: EXACT - 1,
        "exp_integers": lambda *_: 5951,
        "quantize_weight": lambda *_: 127,
    }

    def watch(module: Any, function: str) -> None:
        original = getattr(module, function)

        @wraps(original)
        def watched(*arguments: Any) -> Any:
            result = original(*arguments)
            first = result[0] if isinstance(result, tuple) else result
            values = first if isinstance(first, Tensor) else first.values
            made.append((function, values.detach().clone(), bounds[function](*arguments)))
            return result

        monkeypatch.setattr(module, function, watched)

    watch(gelu, "gelu"), watch(softmax, "softmax"), watch(softmax, "exp_integers")
    watch(layernorm, "layer_norm")
    for function in ("residual", "alone", "quantize_rows", "rescale"):
        watch(sums, function)
    for function in ("matmul", "linear", "linear_term", "accumulate", "quantize_weight"):
        watch(linear, function)
    watch(integers, "rescale"), watch(model, "rescale"), watch(model, "shorten"), watch(layers, "shorten")
    # whatever else carries integers
    original = Integers.__init__

    def init(self: Integers, values: Tensor, scale: Tensor) -> None:
        original(self, values, scale)
        made.append(("Integers", values.detach().clone(), EXACT))

    monkeypatch.setattr(Integers, "__init__", init)
    return made


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("point", INTEGER_POINTS, ids=name)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_value_is_an_integer_within_its_width(arch, point, training, recorded):
    encoder, network = calibrated(point, arch)
    recorded.clear()
    if training:
        _step(encoder.train(), batch(network))
    else:
        with torch.no_grad():
            encoder(**batch(network))
    for function, values, bound in recorded:
        # a training step multiplies int8 weights where that is faster
        assert values.dtype in ((torch.float32, torch.int8) if function == "quantize_weight" else (torch.float32,))
        assert torch.equal(values, values.round()), function
        assert float(values.abs().max()) <= bound, function
    made = {function for function, _, _ in recorded}
    assert made >= {"rescale", "matmul", "Integers", "quantize_rows", "linear" if training else "accumulate"}
    assert ("gelu" in made, "softmax" in made, "layer_norm" in made) == tuple(
        operation in point for operation in ("gelu", "softmax", "layernorm")
    )
    assert ("residual" in made) == ("shorten" in made) == ("layernorm" in point)


def test_every_value_is_an_integer_in_the_port_none_is(ibert):
    fractions: dict[str, float] = {}

    def look(module: Any, _inputs: Any, output: tuple[Tensor, Any]) -> None:
        values = output[0].detach() / output[1]
        fractions[type(module).__name__] = float((values - values.round()).abs().max())

    for module in ibert.ibert.encoder.layer[1].modules():
        if isinstance(module, port.IntGELU | port.IntLayerNorm):
            module.register_forward_hook(look)
    with torch.no_grad():
        ibert.eval()(**batch(ibert))
    assert set(fractions) == {"IntGELU", "IntLayerNorm"}
    assert all(fraction > 0.1 for fraction in fractions.values()), fractions


def test_dropped_out_values_are_integers(recorded):
    encoder, network = calibrated(INT, hidden_dropout_prob=0.4, attention_probs_dropout_prob=0.4)
    recorded.clear()
    _step(encoder.train(), batch(network))
    assert all(torch.equal(values, values.round()) for _, values, _ in recorded)


# exp reaches 50 to 56 bits.


def test_exponential_has_13_bits():
    distance = torch.arange(softmax.FARTHEST + 1).float()
    assert 2**12 < float(softmax.exp_integers(distance).max()) < 2**13
    wrong, _ = port.IntSoftmax(8, quant_mode=True).int_exp(torch.tensor([0.0]), torch.tensor([1e-3]))
    assert float(wrong) > 2**49


# A constant row gives NaN in LayerNorm.


def test_constant_row():
    row = torch.full((1, 2, 8), 3.0)
    norm, wrong = Norm(8, 1e-5, True, False), port.IntLayerNorm(8, 1e-5, quant_mode=True)
    wrong.weight.data.fill_(1)
    x = Integers((row * 1000).requires_grad_(), torch.tensor(1e-3))
    result = norm(x).wide
    result.real.square().sum().backward()
    assert (result.values == 0).all()
    assert norm.bias.grad is not None and torch.isfinite(norm.weight.grad).all()
    assert wrong(row, torch.tensor([0.125]))[0].isnan().all()


# Weights clamp to [-127, 126].


def test_weights_are_symmetric():
    weight = torch.tensor([[1.0, -1.0], [0.25, -0.5]])
    found = linear.quantize_weight(weight, torch.zeros(2), torch.tensor(1.0))
    q, scale = found.values, found.scale
    assert q[0].tolist() == [127, -127] and q[1].tolist() == [64, -127]
    assert torch.allclose(q * scale[:, None], weight, atol=2e-3)
    wrong = port.SymmetricQuantFunction.apply(weight[:1], 8, False, torch.tensor([1 / 127]))
    assert wrong.tolist() == [[126, -127]]


# The straight-through gradient ignores clipping.


def test_no_gradient_where_it_clips():
    x = torch.tensor([[0.5, 2.0]], requires_grad=True)
    rescale(x, torch.tensor(127.0)).sum().backward()
    y = torch.tensor([[0.5, 2.0]], requires_grad=True)
    port.SymmetricQuantFunction.apply(y, 8, False, torch.tensor([1 / 127])).sum().backward()
    assert x.grad.tolist() == [[127, 0]]
    assert y.grad[0, 1] == y.grad[0, 0] != 0


# Ranges include padding and dropout-inflated values.


def _ranges(encoder: Any) -> dict[str, float]:
    return {key: float(value) for key, value in encoder.named_buffers() if key.endswith("largest")}


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_padding_enters_no_range_and_no_logit(arch):
    encoder, network = calibrated(INT, arch)
    inputs = batch(network)
    rubbish, longer = dict(inputs), {}
    absent = inputs["attention_mask"] == 0
    rubbish["input_ids"] = torch.where(absent, torch.randint(5, 40, absent.shape), inputs["input_ids"])
    for key, value in inputs.items():
        longer[key] = functional.pad(value, (0, 9), value=network.config.pad_token_id if key == "input_ids" else 0)
    twins = [copy.deepcopy(encoder) for _ in range(3)]
    for twin, given in zip(twins, (inputs, rubbish, longer), strict=True):
        with twin.calibrating(momentum=0.1):
            twin(**given)
    assert _ranges(twins[0]) != _ranges(encoder)
    assert _ranges(twins[0]) == _ranges(twins[1]) == _ranges(twins[2])
    with torch.no_grad():
        logits = [encoder(**given).logits for given in (inputs, rubbish, longer)]
    assert torch.equal(logits[0], logits[1]) and torch.equal(logits[0], logits[2])


def test_padding_enters_ranges_in_the_port(ibert):
    inputs = batch(ibert, rows=2)
    inputs["attention_mask"][:, 6:] = 0
    inputs["input_ids"][:, 6:] = 7
    with torch.no_grad():
        ibert.ibert.embeddings.word_embeddings.weight[7] *= 50
    act = ibert.ibert.embeddings.embeddings_act1
    before = float(act.x_max)
    ibert.train()(**inputs)
    assert float(act.x_max) > 1.2 * before


def test_dropout_enters_no_range():
    encoder, network = calibrated(INT, hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5)
    inputs, before = batch(network), _ranges(encoder)
    encoder.train()
    for _ in range(3):
        _step(encoder, inputs)
    assert _ranges(encoder) == before
    # calibration in the middle of training is without dropout, and training goes on as it was
    random = torch.get_rng_state()
    twin = copy.deepcopy(encoder).eval()
    for one in (encoder, twin):
        with one.calibrating(0.95):
            one(**inputs)
    assert _ranges(encoder) == _ranges(twin) and encoder.training and not twin.training
    assert torch.equal(torch.get_rng_state(), random)


# Dequantized softmax leaves probabilities x V unquantized.


@pytest.mark.parametrize("point", INTEGER_POINTS, ids=name)
def test_probabilities_times_values_are_integers(point, monkeypatch):
    operands: list[tuple[Tensor, Tensor]] = []
    original = linear.matmul

    def matmul(a: Integers, b: Integers) -> Integers:
        operands.append((a.values, b.values))
        return original(a, b)

    encoder, network = calibrated(point)
    monkeypatch.setattr(linear, "matmul", matmul)
    with torch.no_grad():
        encoder(**batch(network))
    assert len(operands) == 4
    for index, (a, b) in enumerate(operands):
        assert torch.equal(a, a.round()) and torch.equal(b, b.round())
        low, high = (0, 255) if index % 2 else (-128, 127)
        assert low <= float(a.min()) and float(a.max()) <= high and float(b.abs().max()) <= 128


# batch_frexp copies to the host; about 800 host syncs per training step.


class _HostReads(TorchDispatchMode):
    """Collects the operators for which a GPU would have to be waited for."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "unique", "equal", "item")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        operator = func.__name__.split(".")[0]
        if operator in self.WAITING:
            self.seen.append(operator)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("point", POINTS, ids=name)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_no_host_reads_in_a_training_step(arch, point):
    encoder, network = calibrated(point, arch)
    inputs = batch(network)
    encoder.train()
    # The first product of a process chooses its kernel, and compares results for that.
    _step(encoder, inputs)
    with _HostReads() as reads:
        _step(encoder, inputs)
    with _HostReads() as evaluation, torch.no_grad():
        encoder.eval()(**inputs)
    assert reads.seen == evaluation.seen == []


def test_no_host_reads_in_the_port_there_are(ibert):
    with _HostReads() as reads:
        _step(ibert, batch(ibert))
    assert len(reads.seen) > 50


# Weights are re-quantized at every evaluation.


def test_weights_are_quantized_once(monkeypatch, ibert):
    encoder, network = calibrated()
    inputs = batch(network)
    calls: list[int] = []
    original = linear.quantize_weight

    def quantize(*arguments: Any) -> Any:
        calls.append(1)
        return original(*arguments)

    monkeypatch.setattr(linear, "quantize_weight", quantize)
    counts = []
    for _ in range(3):
        with torch.no_grad():
            encoder(**inputs)
        counts.append(len(calls))
    assert counts == [12, 12, 12]  # six linear layers in each of two

    layer = ibert.ibert.encoder.layer[0].output.dense
    monkeypatch.setattr(layer, "weight_function", lambda *arguments: quantize_port(*arguments))
    quantized: list[int] = []

    def quantize_port(*arguments: Any) -> Tensor:
        quantized.append(1)
        return port.SymmetricQuantFunction.apply(*arguments)

    for _ in range(3):
        with torch.no_grad():
            ibert.eval()(**batch(ibert))
    assert len(quantized) == 6  # its weight and bias, each time


# deepcopy and torch.export fail; 43 graph breaks in one layer.


def test_deepcopy(ibert):
    encoder, network = calibrated()
    inputs = batch(network)
    with torch.no_grad():
        expected = encoder(**inputs).logits
    _step(encoder.train(), inputs)
    twin = copy.deepcopy(encoder).eval()
    with torch.no_grad():
        assert torch.equal(twin(**inputs).logits, expected)
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(ibert)


@pytest.fixture
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.usefixtures("_fresh_compiler")
def test_export(strict):
    encoder, network = calibrated(INT, num_hidden_layers=1)
    inputs = batch(network)
    with torch.no_grad():
        expected = encoder(**inputs).logits
        program = torch.export.export(encoder, (), inputs, strict=strict)
    other = batch(network, seed=5)
    with torch.no_grad():
        assert torch.equal(program.module()(**inputs).logits, expected)
        assert torch.equal(program.module()(**other).logits, encoder(**other).logits)


@pytest.mark.usefixtures("_fresh_compiler")
def test_export_the_port_cannot(ibert):
    with pytest.raises(Exception), torch.no_grad():  # noqa: B017
        torch.export.export(ibert.eval(), (), batch(ibert), strict=False)


@pytest.mark.usefixtures("_fresh_compiler")
def test_no_graph_breaks_in_a_layer():
    encoder, network = calibrated(INT, num_hidden_layers=1)
    inputs = batch(network)
    absent = inputs["attention_mask"] == 0
    with torch.no_grad():
        hidden = encoder.embeddings(inputs["input_ids"], None, absent[:, :, None])
        explained = torch._dynamo.explain(encoder.layers[0])(hidden, absent[:, None, None, :], absent[:, :, None])
    assert explained.graph_break_count == 0 and explained.graph_count == 1


# Only RoBERTa-like models.


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_four_architectures_run_on_integers(arch):
    encoder, network = calibrated(INT, arch)
    inputs = batch(network, rows=8, length=20)
    with torch.no_grad():
        assert torch.allclose(encoder(**inputs).logits, network(**inputs).logits, atol=0.02)
