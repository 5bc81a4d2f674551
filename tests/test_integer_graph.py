"""The exported graph of an integer encoder: integers from the embeddings to the head, in standard operators."""

from __future__ import annotations

import re
from functools import cache

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import reference
from encoders import ARCHITECTURES, INT, INTEGER_POINTS, Point, calibrated, name
from intaglio.execution.constants import NormConstants
from intaglio.onnx.graph import Graph
from intaglio.onnx.integer_graph import integer_onnx
from intaglio.onnx.integer_rows import RowArithmetic, _root, exponential_table, norm_rows, softmax_rows
from streams import session

# Operator: the places of its second factor and of that factor's zero point among its inputs.
PRODUCTS = {"MatMulInteger": (1, 3), "QLinearMatMul": (3, 5), "QGemm": (3, 5)}
FLOATS = {"tensor(float)", "tensor(float16)", "tensor(double)", "tensor(bfloat16)"}


@cache
def graph(arch: str, point: Point, token_types: bool = False) -> onnx.ModelProto:
    return integer_onnx(calibrated(point, arch)[0], token_types)


def types(model: onnx.ModelProto) -> dict[str, str]:
    """The type of every tensor that a node makes, inferred by ONNX Runtime (ONNX itself does not know QGemm)."""
    made = [output for node in model.graph.node for output in node.output]
    opened = session(model, made, optimized=False)
    return {output.name: output.type for output in opened.get_outputs()}


def inferred_types(model: onnx.ModelProto) -> dict[str, int]:
    """The element type of every tensor that onnx's own inference reaches."""
    found = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    return {value.name: value.type.tensor_type.elem_type for value in [*found.value_info, *found.output]}


def dependent(model: onnx.ModelProto) -> set[str]:
    """Every tensor that depends on the inputs of the graph, and is no shape of one."""
    reached = {given.name for given in model.graph.input}
    for node in model.graph.node:
        if node.op_type != "Shape" and reached & set(node.input):
            reached |= set(node.output)
    return reached


def needed(model: onnx.ModelProto, names: set[str]) -> set[str]:
    """These tensors, and all that they are computed from."""
    found = set(names)
    for node in reversed(model.graph.node):
        if found & set(node.output):
            found |= set(node.input)
    return found


def floats_between_integers(model: onnx.ModelProto) -> list[str]:
    """The tensors of floating point that depend on the inputs and that integers are computed from."""
    kinds, alive = types(model), dependent(model)
    integers = {key for key, kind in kinds.items() if key in alive and kind not in FLOATS}
    return sorted(key for key in needed(model, integers) & alive if kinds.get(key) in FLOATS)


def floats_before_the_head(model: onnx.ModelProto) -> list[str]:
    """The tensors of floating point that depend on the inputs and that `hidden` is computed from, in order."""
    kinds, before = types(model), needed(model, {"hidden"}) & dependent(model)
    made = [output for node in model.graph.node for output in node.output]
    return [key for key in made if key in before and kinds[key] in FLOATS]


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_no_float_between_two_integers(arch: str) -> None:
    model = graph(arch, INT)
    assert floats_between_integers(model) == []
    # `hidden` itself, and what it is scaled from: the last integers, converted
    *others, cast, hidden = floats_before_the_head(model)
    assert others == [] and hidden == "hidden"
    (node,) = (node for node in model.graph.node if cast in node.output)
    assert node.op_type == "Cast"
    assert types(model)[node.input[0]] == "tensor(int32)"


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_onnx_infers_no_other_types(arch: str) -> None:
    model = graph(arch, INT)
    found, kinds = inferred_types(model), types(model)
    known = {key for key, kind in found.items() if kind != TensorProto.UNDEFINED}
    assert len(known) > len(kinds) / 3
    for key in known & kinds.keys():
        assert (found[key] in (TensorProto.FLOAT, TensorProto.DOUBLE)) == (kinds[key] in FLOATS), key


@pytest.mark.parametrize("point", [point for point in INTEGER_POINTS if point != INT], ids=name)
def test_islands_are_found(point: Point) -> None:
    # a last LayerNorm in floating point would be followed by no integer
    assert floats_between_integers(graph("bert", point))


@pytest.mark.parametrize("kind", ["Cast", "DequantizeLinear"])
def test_a_float_in_the_middle_is_found(kind: str) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(graph("bert", INT))
    place, node = next((place, node) for place, node in enumerate(model.graph.node) if node.op_type == "QGemm")
    taken = node.input[0]
    node.input[0] = "back"
    if kind == "Cast":
        there = [helper.make_node("Cast", [taken], ["there"], to=TensorProto.FLOAT)]
        back = [helper.make_node("Cast", ["there"], ["back"], to=TensorProto.UINT8)]
    else:
        model.graph.initializer.append(numpy_helper.from_array(np.float32(1), "step"))
        there = [helper.make_node("DequantizeLinear", [taken, "step"], ["there"])]
        back = [helper.make_node("QuantizeLinear", ["there", "step"], ["back"])]
    for added in [*back, *there]:
        model.graph.node.insert(place, added)
    assert floats_between_integers(model) == ["there"]


@pytest.mark.parametrize("point", INTEGER_POINTS, ids=name)
def test_weights_are_unsigned_with_zero_point_128(point: Point) -> None:
    model = graph("electra", point)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    weights = 0
    for node in model.graph.node:
        assert node.op_type != "MatMul"
        if node.op_type not in PRODUCTS:
            continue
        factor, zero = (node.input[place] for place in PRODUCTS[node.op_type])
        assert (numpy_helper.to_array(stored[zero]) == 128).all()
        assert stored[zero].data_type == TensorProto.UINT8
        if factor in stored:
            weights += 1
            assert stored[factor].data_type == TensorProto.UINT8
            # within 127 of the zero point
            assert numpy_helper.to_array(stored[factor]).min() >= 1
    # the projection of embeddings; query, key and value together, and three more a layer
    assert weights == 1 + 2 * 4
    # the only large tensors of floating point are those of the head
    large = [tensor for tensor in stored.values() if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) > 1]
    assert sorted(tuple(tensor.dims) for tensor in large) == [(2, 32), (32, 32)]


@pytest.mark.parametrize("token_types", [False, True])
def test_opset_inputs_and_axes(token_types: bool) -> None:
    model = graph("bert", INT, token_types)
    onnx.checker.check_model(model, full_check=False)
    domains = {each.domain: each.version for each in model.opset_import}
    assert domains[""] >= 18 and domains.keys() <= {"", "com.microsoft"}
    assert {node.op_type for node in model.graph.node if node.domain} == {"QGemm"}
    names = ["input_ids", "attention_mask", *["token_type_ids"] * token_types]
    assert [given.name for given in model.graph.input] == names
    for given in model.graph.input:
        assert given.type.tensor_type.elem_type == TensorProto.INT64
        assert [axis.dim_param for axis in given.type.tensor_type.shape.dim] == ["batch", "length"]
    (logits,) = model.graph.output
    assert logits.name == "logits" and logits.type.tensor_type.elem_type == TensorProto.FLOAT
    assert [axis.dim_param or axis.dim_value for axis in logits.type.tensor_type.shape.dim] == ["batch", 2]


def test_one_graph_takes_every_shape() -> None:
    opened = session(graph("bert", INT), ["hidden"])
    for rows, length in ((1, 1), (3, 7), (2, 48), (9, 5)):
        given = {key: np.ones((rows, length), np.int64) for key in ("input_ids", "attention_mask")}
        logits, hidden = opened.run(["logits", "hidden"], given)
        assert logits.shape == (rows, 2) and hidden.shape == (rows, 32)


def test_names_tell_nothing_of_where_they_were_made() -> None:
    model = graph("bert", INT)
    assert model.producer_name == "intaglio"
    assert all(re.fullmatch(r"c\d+", tensor.name) for tensor in model.graph.initializer)
    assert all(node.doc_string == "" for node in model.graph.node) and not model.metadata_props


def computed(graph: Graph, result: str, x: np.ndarray) -> np.ndarray:
    """What a graph makes of rows of integers, which it takes as `x`."""
    graph.add("Cast", result, to=TensorProto.FLOAT, output="result")
    (found,) = session(graph.model(["x"], {"result": x.shape[1]}), []).run(["result"], {"x": x})
    return found.astype(np.int64)


def integer_input() -> tuple[Graph, str]:
    graph = Graph()
    return graph, graph.add("Cast", "x", to=TensorProto.INT32)


@pytest.mark.parametrize("width", [1, 2, 7, 96])
@pytest.mark.parametrize("scale", [1e-6, 1e-2])
def test_layer_norm_of_rows(width: int, scale: float) -> None:
    random = np.random.default_rng(width)
    # deviations of every size, so that all shifts and roots occur
    sizes = 2.0 ** random.uniform(0, 20, (3000, 1))
    x = np.rint(random.uniform(-1, 1, (3000, width)) * sizes + random.uniform(-1, 1, (3000, 1)) * 2**20).astype(int)
    x = np.concatenate([x, np.full((1, width), 2**21 - 1), np.full((1, width), 1 - 2**21)])
    guards = reference.guards(1e-12, width, scale)
    graph, rows = integer_input()
    ones = torch.ones(width, dtype=torch.int32)
    found = computed(graph, norm_rows(graph, rows, NormConstants(ones, ones, 1e-12, True, torch.tensor(guards))), x)
    deviations = x - (x.sum(1, keepdims=True) + width // 2) // width
    np.testing.assert_array_equal(found, [reference.normalized(row, guards) for row in deviations])


def test_roots() -> None:
    random = np.random.default_rng(0)
    squares = np.concatenate([np.arange(2, 2000), random.integers(2, 2**20, 3000), [2**14, 2**15, 2**20]]) ** 2
    numbers = np.unique(np.concatenate([np.arange(1, 999), squares - 1, squares, squares + 1, [2**41]]))[:, None]
    numbers = numbers[numbers[:, 0] <= 2**41]
    graph = Graph()
    root, _ = _root(RowArithmetic(graph), "x")
    expected = np.array([reference.square_root(int(n)) for n in numbers[:, 0]])
    np.testing.assert_array_equal(computed(graph, root, numbers)[:, 0], expected[:, 0])
    graph = Graph()
    _, half = _root(RowArithmetic(graph), "x")
    np.testing.assert_array_equal(computed(graph, half, numbers)[:, 0], expected[:, 1])


@pytest.mark.parametrize("width", [1, 5, 600])
def test_softmax_of_rows(width: int) -> None:
    random = np.random.default_rng(width)
    distance = (random.random((2000, width)) ** random.uniform(0.2, 8, (2000, 1)) * 4096).astype(int)
    distance[np.arange(2000), random.integers(0, width, 2000)] = 0
    table = exponential_table()
    np.testing.assert_array_equal(table, reference.exponential(np.arange(4096)))
    graph, rows = integer_input()
    found = computed(graph, softmax_rows(graph, rows), table[distance].astype(np.int64))
    # scores whose distance is one on the grid
    np.testing.assert_array_equal(found, reference.softmax(-distance, (0, 4096, 1024, 10)))
