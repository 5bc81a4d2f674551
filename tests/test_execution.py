"""Simulation, torch and ONNX Runtime compute the same integers, to the bit, in every intermediate tensor."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from encoders import ARCHITECTURES, INT, INTEGER_POINTS, Point, batch, calibrated, loss_of, name, random_model
from intaglio.arithmetic.softmax import LONGEST
from intaglio.encoder.files import convert
from intaglio.encoder.layers import Range
from intaglio.encoder.model import Encoder
from intaglio.errors import UserError
from intaglio.execution import on_torch
from intaglio.execution.checks import check_shape
from intaglio.execution.constants import constants_of
from intaglio.execution.on_torch import integer_model
from intaglio.onnx.signed import signed_is_exact, with_signed_weights
from plain_program import plain
from streams import Graph, Inputs, Stream, array, differing, executed, session, simulated

TYPED = ("bert", "electra")
# All that an `int` encoder has in between, and its ends.
OPERATIONS = {
    *("embed", "norm", "shorten", "linear", "linear_short", "scores", "softmax", "products", "context"),
    *("linear_term", "residual", "linear_gelu", "hidden", "logits"),
}


def cases(model: Any, arch: str) -> list[Inputs]:
    """Padded batches, the smallest and the longest, token types where there are any, and no mask at all."""
    types = arch in TYPED
    shapes = ((6, 16), (1, 1), (3, 40))
    found = [batch(model, rows, length, seed=length, types=types) for rows, length in shapes]
    first = {key: value for key, value in found[0].items() if key != "attention_mask"}
    return [*found, first]


def trained(encoder: Encoder, inputs: Inputs, steps: int = 3) -> Encoder:
    """The encoder after a few steps of training."""
    torch.manual_seed(0)
    labels = torch.arange(len(inputs["input_ids"])) % 2
    optimizer = torch.optim.AdamW(encoder.train().parameters(), lr=5e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(encoder, inputs, labels).backward()
        optimizer.step()
    return encoder.eval()


def scaled_ranges(encoder: Encoder, factor: float) -> Encoder:
    """The encoder with all ranges other than calibration found."""
    for module in encoder.modules():
        if isinstance(module, Range):
            module.largest.mul_(factor)
    # forget integers that were made for other ranges
    return encoder.train().eval()


def masked(inputs: Inputs) -> Inputs:
    """The inputs with a mask, as graphs want them."""
    return {"attention_mask": torch.ones_like(inputs["input_ids"]), **inputs}


@cache
def graph_of(arch: str, point: Point) -> tuple[Encoder, Any, Graph]:
    encoder, model = calibrated(point, arch)
    return encoder, model, Graph(encoder, arch in TYPED)


@pytest.mark.parametrize("after", ["random", "trained"])
@pytest.mark.parametrize("point", INTEGER_POINTS, ids=name)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_torch_computes_what_is_simulated(arch: str, point: Point, after: str) -> None:
    encoder, model = calibrated(point, arch, hidden_dropout_prob=0.1)
    inputs = cases(model, arch)
    if after == "trained":
        trained(encoder, inputs[0])
    integers = integer_model(encoder)
    for each in inputs:
        assert differing(simulated(encoder, each), executed(integers, each)) == []


def rounded(stream: Stream) -> Stream:
    """The stream without logits: the head is floating point, whose sums depend on the engine."""
    return {key: values for key, values in stream.items() if key != "logits"}


def same_in_onnx(encoder: Encoder, graph: Graph, inputs: Inputs) -> None:
    """Assert that an `int` encoder's graph has all the integers, also as ONNX Runtime runs it."""
    expected = simulated(encoder, inputs)
    assert differing(rounded(expected), rounded(graph.stream(masked(inputs)))) == []
    fused = graph.fused(masked(inputs))
    np.testing.assert_array_equal(fused["hidden"], expected["hidden"][0])
    # The head's sums are of floating point: what rounding leaves is relative to the largest of them.
    logits = expected["logits"][0]
    np.testing.assert_allclose(fused["logits"], logits, atol=1e-5 * max(1.0, float(np.abs(logits).max())))


@pytest.mark.parametrize("after", ["random", "trained"])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_onnx_runtime_computes_what_is_simulated(arch: str, after: str) -> None:
    encoder, model, graph = graph_of(arch, INT)
    if after == "trained":
        encoder = trained(calibrated(INT, arch)[0], cases(model, arch)[0])
        graph = Graph(encoder, arch in TYPED)
    for inputs in cases(model, arch):
        same_in_onnx(encoder, graph, inputs)


@pytest.mark.skipif(
    not signed_is_exact(), reason="int8 weights saturate on this CPU, so no session makes them of a file"
)
def test_signed_weights_give_the_same_integers() -> None:
    encoder, model, graph = graph_of("bert", INT)
    assert with_signed_weights(graph.plain_model) == 2 * 4
    signed = session(graph.plain_model, ["hidden"])
    for inputs in cases(model, "bert"):
        given = {key: array(value) for key, value in masked(inputs).items()}
        (hidden,) = signed.run(["hidden"], given)
        np.testing.assert_array_equal(hidden, simulated(encoder, inputs)["hidden"][0])


@pytest.mark.parametrize("point", [point for point in INTEGER_POINTS if point != INT], ids=name)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_islands_of_floating_point_are_near_in_onnx_runtime(arch: str, point: Point) -> None:
    encoder, model, graph = graph_of(arch, point)
    for inputs in cases(model, arch):
        expected, found = simulated(encoder, inputs), graph.stream(masked(inputs))
        # before the first island
        assert differing({"embed": expected["embed"]}, {"embed": found["embed"]}) == []
        for key in ("shorten", "quantize", "linear_short", "linear_gelu", "context", "softmax"):
            for one, other in zip(expected.get(key, []), found.get(key, []), strict=True):
                apart = np.abs(one - other.astype(np.int64).reshape(one.shape))
                assert apart.max() <= 1 and (apart > 0).mean() <= 0.01, key
        hidden = expected["hidden"][0]
        for other in (found["hidden"][0], graph.fused(masked(inputs))["hidden"]):
            np.testing.assert_allclose(other, hidden, atol=0.01 * np.abs(hidden).max())


def everywhere(encoder: Encoder, inputs: Inputs, types: bool = False) -> Stream:
    """What all engines say of an `int` encoder, the specification in plain integers with its widths among them."""
    expected = simulated(encoder, inputs)
    assert differing(expected, executed(integer_model(encoder), inputs)) == []
    assert differing(rounded(expected), plain(constants_of(encoder), inputs)) == []
    same_in_onnx(encoder, Graph(encoder, types), inputs)
    return expected


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_nothing_is_wider_than_it_is_declared(arch: str) -> None:
    encoder, model = calibrated(INT, arch, spread=0.5)
    expected = everywhere(encoder, batch(model, 4, 30, types=arch in TYPED), arch in TYPED)
    alone = {"clip_sum"} if arch == "electra" else set()
    assert expected.keys() == OPERATIONS | alone


@pytest.mark.parametrize("factor", [0.01, 100.0])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_saturated_and_vanishing_activations(arch: str, factor: float) -> None:
    encoder, model = calibrated(INT, arch)
    expected = everywhere(scaled_ranges(encoder, factor), batch(model, 4, 20))
    queries = np.abs(expected["linear_short"][0])
    assert np.mean(queries >= 127) > 0.5 if factor < 1 else queries.max() <= 8


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_constant_rows(arch: str) -> None:
    model = random_model(arch)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Embedding):
                module.weight.zero_()
    encoder = convert(model, INT)
    inputs = batch(model, 4, 20)
    inputs["input_ids"][:] = 7
    with encoder.calibrating(momentum=0.95):
        encoder(**inputs)
    expected = everywhere(encoder, inputs)
    assert (expected["embed"][0] == 0).all()
    # LayerNorm of a constant row is beta
    assert (expected["norm"][0] == expected["norm"][0][0, 0]).all()


@pytest.mark.parametrize(("rows", "length"), [(1, 1), (1, 512), (2, 512)])
def test_shortest_and_longest(rows: int, length: int) -> None:
    for arch in ("bert", "roberta"):
        encoder, model = calibrated(INT, arch, max_position_embeddings=514)
        everywhere(encoder, batch(model, rows, length, types=arch == "bert"), arch == "bert")


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_row_of_nothing_but_padding_has_equal_positions(arch: str) -> None:
    encoder, model = calibrated(INT, arch)
    inputs = batch(model, 4, 20)
    inputs["attention_mask"][2] = 0
    expected = everywhere(encoder, inputs)
    assert (expected["softmax"][0][2] == 13).all()


@pytest.mark.parametrize("point", INTEGER_POINTS, ids=name)
def test_parts_of_a_batch(point: Point) -> None:
    encoder, model = calibrated(point, "bert")
    integers = integer_model(encoder)
    # 1,024 tokens at a time: parts of 25 and 15 rows; 21 and 21 and 2; whole
    for rows, length in ((40, 40), (44, 47), (34, 30)):
        inputs = batch(model, rows, length, types=True)
        assert rows * length > 0.99 * on_torch.TOKENS
        assert differing(simulated(encoder, inputs), executed(integers, inputs)) == []


def test_token_types_count() -> None:
    encoder, model, graph = graph_of("bert", INT)
    integers = integer_model(encoder)
    inputs = batch(model, 4, 20)
    plain_, typed = (executed(integers, each)["hidden"][0] for each in (inputs, batch(model, 4, 20, types=True)))
    assert not np.array_equal(plain_, typed)
    zeros = {**inputs, "token_type_ids": torch.zeros_like(inputs["input_ids"])}
    np.testing.assert_array_equal(executed(integers, zeros)["hidden"][0], plain_)
    np.testing.assert_array_equal(graph.fused(zeros)["hidden"], plain_)
    without = Graph(encoder, False)
    np.testing.assert_array_equal(without.fused(inputs)["hidden"], plain_)


@st.composite
def encoders_and_inputs(draw: Any, points: list[Point]) -> tuple[Encoder, Inputs]:
    """An encoder of one layer of any size and point, its ranges perhaps far off, and a padded batch for it."""
    arch = draw(st.sampled_from(ARCHITECTURES))
    heads = draw(st.integers(1, 4))
    width = heads * draw(st.integers(1, 20))
    names = ("dim", "n_heads", "hidden_dim", "n_layers") if arch == "distilbert" else ()
    names = names or ("hidden_size", "num_attention_heads", "intermediate_size", "num_hidden_layers")
    sizes = dict(zip(names, (width, heads, draw(st.integers(1, 80)), 1), strict=True))
    seed, spread = draw(st.integers(0, 999)), draw(st.sampled_from([0.02, 0.1, 0.5, 2.0]))
    encoder, model = calibrated(
        draw(st.sampled_from(points)), arch, seed=seed, spread=spread, layer_norm_eps=1e-5, **sizes
    )
    # an activation that was nothing but zeros has no range
    assume(encoder.calibrated)
    rows, length = draw(st.integers(1, 5)), draw(st.integers(1, 45))
    return scaled_ranges(encoder, draw(st.sampled_from([1.0, 0.01, 0.3, 3.0, 100.0]))), batch(
        model, rows, length, seed=seed, types=arch in TYPED and draw(st.booleans())
    )


@settings(max_examples=60, deadline=None)
@given(encoders_and_inputs([*INTEGER_POINTS, INT, INT]))
def test_torch_computes_what_is_simulated_whatever_the_shape(drawn: tuple[Encoder, Inputs]) -> None:
    encoder, inputs = drawn
    expected, found = simulated(encoder, inputs), executed(integer_model(encoder), inputs)
    assert differing(rounded(expected), rounded(found)) == []
    # The head's sums of floating point depend on where its operands lie in memory; what enters it does not.
    logits = expected["logits"][0]
    np.testing.assert_allclose(found["logits"][0], logits, atol=1e-5 * max(1.0, float(np.abs(logits).max())))
    if encoder.shape.integer == INT:
        assert differing(rounded(expected), plain(constants_of(encoder), inputs)) == []


@settings(max_examples=12, deadline=None)
@given(encoders_and_inputs([INT]))
def test_onnx_runtime_computes_what_is_simulated_whatever_the_shape(drawn: tuple[Encoder, Inputs]) -> None:
    encoder, inputs = drawn
    same_in_onnx(encoder, Graph(encoder, "token_type_ids" in inputs), inputs)


@pytest.mark.slow
@pytest.mark.parametrize("point", [INT, frozenset({"linear", "softmax"})], ids=name)
def test_compiled_torch_computes_what_is_simulated(point: Point) -> None:
    encoder, model = calibrated(point, "bert", num_hidden_layers=1)
    integers = integer_model(encoder)
    integers.compile()
    seen: list[tuple[np.ndarray, np.ndarray]] = []
    steps = integers.run_embeddings, integers.run_layer

    def listening(step: Any) -> Any:
        def call(*arguments: Any) -> Any:
            wide, short = step(*arguments)
            seen.append((array(wide), array(short)))
            return wide, short

        return call

    integers.run_embeddings, integers.run_layer = map(listening, steps)
    for inputs in (batch(model, 6, 16), batch(model, 6, 16, seed=5, types=True)):
        if "softmax" in point:
            inputs["attention_mask"][3] = 0
        seen.clear()
        expected = simulated(encoder, inputs)
        with torch.inference_mode():
            logits = integers(**inputs).logits
        if point == INT:
            for (wide, _), index in zip(seen, (0, 2), strict=True):
                np.testing.assert_array_equal(wide, expected["norm"][index])
            np.testing.assert_array_equal(seen[0][1], expected["shorten"][0])
        np.testing.assert_allclose(array(logits), expected["logits"][0], atol=1e-6 if point == INT else 1e-3)


def refused(encoder: Encoder, *words: str) -> None:
    with pytest.raises(UserError) as caught:
        constants_of(encoder)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    for word in words:
        assert word in message


def of_shape(point: Point = INT, **sizes: int) -> Encoder:
    """An encoder of one layer whose ranges are all 1."""
    changes = {"num_hidden_layers": 1, "intermediate_size": 8, **sizes}
    encoder = convert(random_model("bert", **changes), point)
    for module in encoder.modules():
        if isinstance(module, Range):
            module.largest.fill_(1.0)
    return encoder.eval()


def test_what_has_no_integers_is_refused() -> None:
    refused(convert(random_model(), frozenset()), "floating point")
    refused(convert(random_model(), INT), "calibrate")


def test_sizes_that_would_overflow_are_refused() -> None:
    refused(of_shape(hidden_size=1040, num_attention_heads=4), "1040", "1024", "'layernorm'")
    constants_of(of_shape(frozenset({"linear", "gelu", "softmax"}), hidden_size=1040, num_attention_heads=4))
    constants_of(of_shape(hidden_size=1024, num_attention_heads=2))
    refused(of_shape(hidden_size=514, num_attention_heads=1), "heads of 514", "512")


def test_texts_may_be_shorter_than_the_positions() -> None:
    encoder = of_shape(max_position_embeddings=LONGEST + 1)
    constants_of(encoder)
    check_shape(encoder.shape, LONGEST)
    with pytest.raises(UserError, match=f"{LONGEST + 1} tokens: integer softmax is exact up to {LONGEST};"):
        check_shape(encoder.shape, LONGEST + 1)
    check_shape(of_shape(frozenset({"linear"}), max_position_embeddings=LONGEST + 1).shape, LONGEST + 1)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
@pytest.mark.parametrize("key", ["layers.0.output.weight", "layers.1.attention.key_range.largest", "head.dense.bias"])
def test_weights_and_ranges_that_are_no_numbers_are_refused(key: str, wrong: float) -> None:
    encoder, _ = calibrated()
    encoder.state_dict()[key].view(-1)[0] = wrong
    refused(encoder, key)


@pytest.mark.parametrize("point", INTEGER_POINTS, ids=name)
@pytest.mark.parametrize("factor", [1e-30, 1e-8, 1e8, 1e30])
def test_any_ranges_either_fit_or_are_refused(point: Point, factor: float) -> None:
    for part in (Range, torch.nn.Linear, torch.nn.LayerNorm):
        encoder, model = calibrated(point)
        for module in encoder.modules():
            if isinstance(module, part):
                for tensor in module.state_dict().values():
                    tensor.mul_(factor)
        encoder.train().eval()
        try:
            constants = constants_of(encoder)
        except UserError as error:
            assert "overflow" in str(error) or "calibrate" in str(error)
            continue
        if point == INT:
            inputs = batch(model, 2, 8)
            expected = simulated(encoder, inputs)
            assert differing(rounded(expected), plain(constants, inputs)) == []
            assert differing(rounded(expected), rounded(executed(integer_model(encoder), inputs))) == []
