import json
import os
import struct
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pyarrow as pa
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from intaglio.errors import UserError
from intaglio.export.export import export
from intaglio.export.sizes import size_rows
from intaglio.machine import device_name, fingerprint, machine_id
from intaglio.measure import disturbance, inputs, memory, profile, resident
from intaglio.measure.backends.onnx_runtime import recorded_operators
from intaglio.measure.disturbance import Usage, Watch, share_of_others
from intaglio.measure.operators import operator_rows
from intaglio.measure.places import Opened, Place
from intaglio.measure.timing.latency import latency_rows, summary
from intaglio.measure.timing.rounds import in_rounds
from intaglio.onnx.session import open_session
from intaglio.schemas import LATENCY, OPERATORS, SIZES, read_table
from intaglio.store import new_artifact, open_artifact
from intaglio.study.profile import Profile
from stage_runs import load_checkpoint
from tiny import tiny_checkpoint, tiny_tokenizer

OPTIONS = Profile(
    **{"batch_sizes": [4, 1], "lengths": [8, 48], "headline": (1, 48), "warmup": 1, "calls": 5, "threads": 1},
    devices=["cpu"],
    backends=["torch", "onnxruntime"],
)
CPU = Place("torch", "cpu")


class Sleeper(torch.nn.Module):
    """Sleeps and notes what it is given."""

    def __init__(self, seconds=0.0):
        super().__init__()
        self.seconds = seconds
        self.seen = []

    def forward(self, **given):
        self.seen.append({name: tuple(tensor.shape) for name, tensor in given.items()})
        time.sleep(self.seconds)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("models") / "checkpoint", "roberta")


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports") / "export"
    export(checkpoint, folder)
    return folder


@pytest.fixture(scope="module")
def profiled(checkpoint, exported, tmp_path_factory):
    threads = torch.get_num_threads()
    output = tmp_path_factory.mktemp("profiles") / "profile"
    profile.profile(checkpoint, exported, OPTIONS, output)
    assert torch.get_num_threads() == threads
    return output


def test_latency_table(profiled):
    table = read_table(profiled / "latency.parquet", LATENCY)
    rows = table.to_pylist()
    points = [(1, 8), (4, 8), (1, 48), (4, 48)]
    assert [(row["backend"], row["batch_size"], row["length"]) for row in rows] == [
        (backend, *point) for backend in ("torch", "onnxruntime") for point in points
    ]
    for row in rows:
        calls = np.array(row["calls"])
        assert len(calls) == 5
        assert (row["device"], row["threads"]) == ("cpu", 1)
        assert row["device_name"] == device_name("cpu")
        assert row["machine_id"] == machine_id()
        assert row["mean_ms"] == pytest.approx(calls.mean())
        assert row["std_ms"] == pytest.approx(calls.std(ddof=1))
        for percent in (50, 90, 99):
            assert row[f"p{percent}_ms"] == pytest.approx(np.percentile(calls, percent))
        assert row["throughput"] == pytest.approx(row["batch_size"] / (calls.mean() / 1000))
        # Which product takes most of a model as small as this one depends on what else computes.
        products = {"MatMul", "FusedMatMul", "Gemm", "FusedGemm", "Attention"}
        assert row["kernel"] == "float32" if row["backend"] == "torch" else set(row["kernel"].split(", ")) <= products
        assert row["peak_memory_mb"] is None or row["peak_memory_mb"] >= 0
        assert row["max_difference"] == 0 if row["backend"] == "torch" else 0 < row["max_difference"] < 1e-5
    assert json.loads(table.schema.metadata[b"machine"]) == fingerprint()
    about = open_artifact(profiled, "profile")
    assert about["devices"] == ["cpu"]
    busiest = max(row["busy"] for row in rows)
    assert about["disturbed"] == (busiest if busiest > 20 else None)
    assert about["differences"] == {
        "torch on cpu": 0.0,
        "onnxruntime on cpu": rows[-1]["max_difference"],
    }


def test_operator_table(profiled):
    table = read_table(profiled / "operators.parquet", OPERATORS).to_pylist()
    for backend in ("torch", "onnxruntime"):
        rows = [row for row in table if row["backend"] == backend]
        assert sum(row["share"] for row in rows) == pytest.approx(1)
        assert [row["self_time_ms"] for row in rows] == sorted((row["self_time_ms"] for row in rows), reverse=True)
    calls = {(row["backend"], row["operator"]): row["calls"] for row in table}
    # Two layers of six linear maps, and a head of two, in three passes.
    assert calls["torch", "aten::linear"] == 3 * (2 * 6 + 2)


def test_operators_of_onnxruntime_are_those_of_its_optimized_graph(profiled, exported, tmp_path):
    rows = read_table(profiled / "operators.parquet", OPERATORS).to_pylist()
    options = open_session(exported, 1).get_session_options()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(exported / "model.onnx", options)
    nodes = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    found = {row["operator"]: row["calls"] for row in rows if row["backend"] == "onnxruntime"}
    # What takes less than a microsecond is not timed.
    assert found == {name: 3 * nodes[name] for name in found}
    assert sum(found.values()) > 3 * 2 * 6


def test_sizes_of_the_deployed_file_counted_by_hand(exported):
    rows = read_table(exported / "sizes.parquet", SIZES).to_pylist()
    path = exported / "model.onnx"
    graph = onnx.load(path).graph
    arrays = [onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer]
    constants = [node.attribute[0].t for node in graph.node if node.op_type == "Constant"]
    arrays += [onnx.numpy_helper.to_array(tensor) for tensor in constants]
    by_component = {(row["component"], row["dtype"]): (row["bytes"], row["count"]) for row in rows}
    assert by_component["file", None] == (path.stat().st_size, 1)
    for dtype in {array.dtype for array in arrays}:
        mine = [array for array in arrays if array.dtype == dtype]
        expected = (sum(array.nbytes for array in mine), sum(array.size for array in mine))
        assert by_component["tensors", dtype.name] == expected
    weights = sum(size for (component, _), (size, _) in by_component.items() if component == "tensors")
    assert 0.8 * path.stat().st_size < weights < path.stat().st_size


def test_sizes_of_a_checkpoint_equal_the_file_counted_by_hand(exported, checkpoint):
    rows = read_table(exported / "sizes.parquet", SIZES).to_pylist()
    content = (checkpoint / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__", None)
    elements = sum(int(np.prod(entry["shape"])) for entry in header.values())
    assert {entry["dtype"] for entry in header.values()} == {"F32"}
    by_component = {row["component"]: row for row in rows}
    assert by_component["checkpoint"] == {"component": "checkpoint", "dtype": None, "bytes": len(content), "count": 1}
    assert by_component["checkpoint_tensors"] == {
        "component": "checkpoint_tensors",
        "dtype": "float32",
        "bytes": len(content) - 8 - length,
        "count": elements,
    }
    assert by_component["parameters"] == by_component["checkpoint_tensors"] | {"component": "parameters"}


def bitmask_bytes(array, zero=0):
    """A bit an element and the elements that are not zero, written down; or the array, if that is smaller."""
    absent = array.ravel() == zero
    return min(len(array.tobytes()), len(np.packbits(absent).tobytes()) + len(array.ravel()[~absent].tobytes()))


def test_compressed_sizes_of_the_deployed_file_counted_by_hand(exported):
    rows = {row["component"]: row for row in read_table(exported / "sizes.parquet", SIZES).to_pylist()}
    path = exported / "model.onnx"
    graph = onnx.load(path).graph
    constants = [node.attribute[0].t for node in graph.node if node.op_type == "Constant"]
    arrays = [onnx.numpy_helper.to_array(tensor) for tensor in [*graph.initializer, *constants]]
    assert rows["nonzero"]["count"] == rows["sparse"]["count"] == sum((array != 0).sum() for array in arrays)
    assert rows["nonzero"]["bytes"] == sum(array[array != 0].nbytes for array in arrays)
    assert rows["sparse"]["bytes"] == sum(bitmask_bytes(array) for array in arrays)
    packed = pa.Codec("zstd", 3).compress(path.read_bytes(), asbytes=True)
    assert pa.Codec("zstd").decompress(packed, path.stat().st_size, asbytes=True) == path.read_bytes()
    assert (rows["zstd"]["bytes"], rows["zstd"]["count"]) == (len(packed), 1)


def test_zeros_of_quantized_weights_are_their_zero_points(tmp_path, checkpoint):
    helper, make = onnx.helper, onnx.numpy_helper.from_array
    random = np.random.default_rng(0)
    arrays = {
        "weight": random.integers(0, 256, (40, 24), dtype=np.uint8),
        "table": random.integers(0, 256, (50, 8), dtype=np.uint8),
        # A lookup table: its integers are no weights, so 128 is a number like others.
        "lookup": np.full(256, 128, np.uint8),
    }
    arrays["weight"][::2] = 128
    arrays["weight"][1, :4] = 0
    arrays["table"][:45] = 7
    small = {"zeros": np.full(24, 128, np.uint8), "seven": np.uint8(7), "step": np.float32(0.1)}
    nodes = [
        helper.make_node("MatMulInteger", ["x", "weight", "", "zeros"], ["a"]),
        helper.make_node("Gather", ["table", "i"], ["rows"]),
        helper.make_node("DequantizeLinear", ["rows", "step", "seven"], ["b"]),
        helper.make_node("Gather", ["lookup", "i"], ["c"]),
    ]
    graph = helper.make_graph(nodes, "graph", [], [], [make(np.asarray(v), n) for n, v in (arrays | small).items()])
    onnx.save(helper.make_model(graph), tmp_path / "model.onnx")
    rows = {row["component"]: row for row in size_rows(checkpoint, tmp_path, torch.nn.Linear(1, 1))}
    zeros = {"weight": 128, "table": 7}
    counted = {**arrays, **{name: np.asarray(value) for name, value in small.items()}}
    left = [array[array != zeros.get(name, 0)] for name, array in counted.items()]
    assert rows["nonzero"]["count"] == sum(len(array) for array in left) < 480 + 40 + 256 + 27
    assert rows["nonzero"]["bytes"] == sum(array.nbytes for array in left)
    assert rows["sparse"]["bytes"] == sum(bitmask_bytes(array, zeros.get(name, 0)) for name, array in counted.items())


def test_sizes_by_data_type(tmp_path, checkpoint, exported):
    model = load_checkpoint(checkpoint)[0]
    model.classifier.half()
    rows = {(row["component"], row["dtype"]): row for row in size_rows(checkpoint, exported, model)}
    halves = sum(parameter.numel() for parameter in model.classifier.parameters())
    assert rows["parameters", "float16"] == {
        "component": "parameters",
        "dtype": "float16",
        "bytes": 2 * halves,
        "count": halves,
    }
    with pytest.raises(UserError, match="no weights"):
        size_rows(tmp_path, exported, model)
    with pytest.raises(UserError, match=r"no model.onnx"):
        size_rows(checkpoint, tmp_path, model)


def test_sizes_of_small_and_inner_and_outer_tensors(tmp_path, checkpoint):
    """Weights of a graph, of a branch in it, of a constant, and of one in a file beside it."""
    helper, types = onnx.helper, onnx.TensorProto

    def branch(number):
        weight = helper.make_tensor(f"w{number}", types.INT32, [3], [number] * 3)
        node = helper.make_node("Identity", [f"w{number}"], [f"y{number}"])
        output = helper.make_tensor_value_info(f"y{number}", types.INT32, [3])
        return helper.make_graph([node], "branch", [], [output], [weight])

    outer = onnx.numpy_helper.from_array(np.ones((50, 40), dtype=np.float32), "outer")
    onnx.external_data_helper.set_external_data(outer, "weights.data")
    inner = helper.make_tensor("inner", types.INT8, [7], list(range(7)))
    constant = helper.make_node("Constant", [], ["c"], value=helper.make_tensor("c", types.UINT8, [2, 2], [1] * 4))
    choice = helper.make_node("If", ["b"], ["y"], then_branch=branch(1), else_branch=branch(2))
    inputs = [helper.make_tensor_value_info("b", types.BOOL, [])]
    outputs = [helper.make_tensor_value_info("y", types.INT32, [3])]
    graph = helper.make_graph([constant, choice], "graph", inputs, outputs, [inner, outer])
    onnx.save(helper.make_model(graph), tmp_path / "model.onnx")
    rows = size_rows(checkpoint, tmp_path, torch.nn.Linear(1, 1))
    found = {(row["component"], row["dtype"]): (row["bytes"], row["count"]) for row in rows}
    assert (tmp_path / "weights.data").stat().st_size == 8000
    files = [tmp_path / "model.onnx", tmp_path / "weights.data"]
    assert found["file", None] == (sum(file.stat().st_size for file in files), 2)
    by_component = {row["component"]: row for row in rows}
    packed = sum(len(pa.Codec("zstd", 3).compress(file.read_bytes(), asbytes=True)) for file in files)
    assert (by_component["zstd"]["bytes"], by_component["zstd"]["count"]) == (packed, 2)
    # Of seven integers from zero on, all but the first.
    assert (by_component["nonzero"]["bytes"], by_component["nonzero"]["count"]) == (6 + 4 + 24 + 8000, 6 + 4 + 6 + 2000)
    assert {dtype: value for (component, dtype), value in found.items() if component == "tensors"} == {
        "int8": (7, 7),
        "uint8": (4, 4),
        "int32": (24, 6),
        "float32": (8000, 2000),
    }


def test_latency_is_that_of_the_call():
    model = Sleeper(0.02)
    opened = Opened(Place("torch.compile", "cpu"), model, tiny_tokenizer())
    ((row,), _) = latency_rows([opened], None, [(2, 8)], warmup=3, calls=4)
    assert (row["backend"], row["device"]) == ("torch.compile", "cpu")
    assert len(model.seen) == 7
    assert len(row["calls"]) == 4
    assert min(row["calls"]) >= 20
    # Other processes may hold up a call, hardly all of them.
    assert min(row["calls"]) < 40
    shape = (2, 8)
    assert model.seen[0] == {"input_ids": shape, "attention_mask": shape, "token_type_ids": shape}


def test_warm_up_is_not_timed():
    slow = iter([0.2, 0.2, 0.0, 0.0])
    (times,) = in_rounds([lambda: time.sleep(next(slow))], "cpu", 2, 2, Watch())
    assert max(times) < 150


def test_the_share_of_others_by_hand():
    # Two cores for a second, one of them ours, the other taken for half of it; and another second without anybody.
    assert share_of_others([Usage(2.0, 1.5, 1.0)]) == 25
    assert share_of_others([Usage(2.0, 1.5, 1.0), Usage(2.0, 0.0, 0.0)]) == 12.5
    # The kernel counts in ticks, the process exactly.
    assert share_of_others([Usage(2.0, 0.99, 1.0)]) == 0


def test_a_short_piece_is_measured_with_its_neighbours():
    pieces = [Usage(1.0, 1.0, 0.0), Usage(0.1, 0.1, 0.1), Usage(3.0, 0.0, 0.0), Usage(0.2, 0.0, 0.0)]
    joined = list(disturbance._joined(pieces, 1.0))
    assert joined == [pieces[:1], pieces[:2], pieces[2:3], pieces[2:]]


def test_processes_that_compute_beside_are_seen():
    command = [sys.executable, "-c", "while True: pass"]
    running = [subprocess.Popen(command) for _ in os.sched_getaffinity(0)]
    watch = Watch()
    try:
        with watch.timing():
            time.sleep(1)
    finally:
        for process in running:
            process.kill()
            process.wait()
    (share,) = watch.shares()
    assert 80 < share <= 100


def test_a_hook_counts(checkpoint):
    model, tokenizer = load_checkpoint(checkpoint)
    model.classifier.register_forward_hook(lambda *_: time.sleep(0.03))
    ((row,), _) = latency_rows([Opened(CPU, model, tokenizer)], None, [(1, 8)], warmup=1, calls=3)
    assert row["mean_ms"] >= 30


def test_summary_of_known_times():
    found = summary([1.0, 2.0, 3.0, 4.0, 10.0], batch_size=8)
    assert (found["mean_ms"], found["p50_ms"], found["throughput"]) == (4.0, 3.0, 2000.0)
    assert found["std_ms"] == pytest.approx(np.sqrt(50 / 4))
    assert found["p90_ms"] == pytest.approx(7.6)


@pytest.mark.parametrize("arch", ["bert", "roberta"])
def test_inputs_have_no_padding(arch):
    tokenizer = tiny_tokenizer(arch)
    given = inputs.random_inputs(tokenizer, (16, 48), "cpu")
    assert not set(given["input_ids"].unique().tolist()) & set(tokenizer.all_special_ids)
    assert given["attention_mask"].all()
    assert ("token_type_ids" in given) == (arch == "bert")
    assert len(given["input_ids"].unique(dim=0)) == 16


def test_no_more_threads_than_cores(caplog):
    before = torch.get_num_threads()
    with inputs.cpu_threads(10**4) as threads:
        assert threads == torch.get_num_threads() == fingerprint()["cores"]
    assert torch.get_num_threads() == before
    assert "10000 requested" in caplog.text


def test_operators_of_a_plain_product():
    class Product(torch.nn.Module):
        def forward(self, input_ids, **_):
            return input_ids.double() @ input_ids.double().T

    rows = operator_rows(Opened(CPU, Product(), tiny_tokenizer("roberta")), (4, 8), 1)
    assert next(row["calls"] for row in rows if row["operator"] == "aten::mm") == 3


def test_operators_of_onnxruntime_in_a_record_by_hand():
    """Two runs to warm up and two that count, with a branch whose node lies within that of `If`."""
    events = [{"cat": "Session", "name": "session_initialization", "ts": 0, "dur": 9, "args": {}}]
    for start in (100, 200, 300, 400):
        events += [
            {"cat": "Session", "name": "model_run", "ts": start, "dur": 90, "args": {}},
            {"cat": "Node", "name": "a_kernel_time", "ts": start + 1, "dur": 10, "args": {"op_name": "MatMul"}},
            {"cat": "Node", "name": "a_fence_after", "ts": start + 11, "dur": 0, "args": {"op_name": "MatMul"}},
            # Nodes are recorded when they end.
            {"cat": "Node", "name": "c_kernel_time", "ts": start + 25, "dur": 5, "args": {"op_name": "MatMul"}},
            {"cat": "Node", "name": "b_kernel_time", "ts": start + 20, "dur": 30, "args": {"op_name": "If"}},
            {"cat": "Node", "name": "d_kernel_time", "ts": start + 50, "dur": 2, "args": {"op_name": "Add"}},
        ]
    found = recorded_operators(events, passes=2)
    assert {name: calls for name, (calls, _) in found.items()} == {"MatMul": 4, "If": 2, "Add": 2}
    assert {name: time for name, (_, time) in found.items()} == pytest.approx(
        {"MatMul": 0.03, "If": 0.05, "Add": 0.004}
    )


def test_length_beyond_the_positions(checkpoint, exported, tmp_path):
    with pytest.raises(UserError, match=r"profile.lengths: 64 tokens, but the model in .* takes at most 48"):
        profile.profile(checkpoint, exported, OPTIONS.model_copy(update={"lengths": [8, 64]}), tmp_path / "profile")


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_no_device(checkpoint, exported, tmp_path):
    with pytest.raises(UserError, match=r"cuda asked for, but this machine has none"):
        profile.profile(checkpoint, exported, OPTIONS.model_copy(update={"devices": ["cuda"]}), tmp_path / "profile")


@pytest.mark.gpu
def test_gpu(checkpoint, exported, tmp_path):
    backends = ["torch", "torch.compile", "onnxruntime"]
    options = OPTIONS.model_copy(update={"devices": ["cpu", "cuda"], "backends": backends})
    profile.profile(checkpoint, exported, options, tmp_path / "profile")
    rows = read_table(tmp_path / "profile" / "latency.parquet", LATENCY).to_pylist()
    assert list(dict.fromkeys((row["device"], row["backend"]) for row in rows)) == [
        *(("cpu", backend) for backend in backends),
        *(("cuda", backend) for backend in backends[:2]),
    ]
    assert all(row["peak_memory_mb"] > 0 for row in rows if row["device"] == "cuda")
    operators = read_table(tmp_path / "profile" / "operators.parquet", OPERATORS).to_pylist()
    of_torch = [row for row in operators if (row["backend"], row["device"]) == ("torch", "cuda")]
    assert sum(row["share"] for row in of_torch) == pytest.approx(1)


class TestPeak:
    def test_sees_what_was_held_and_let_go(self):
        if not resident.reset_peak():
            pytest.skip("the kernel cannot reset the peak")
        before = resident.peak()
        held = bytearray(100 * 10**6)
        held[::4096] = b"x" * len(held[::4096])
        del held
        assert 95e6 < resident.peak() - before < 125e6
        resident.reset_peak()
        assert resident.peak() - before < 25e6

    @pytest.mark.slow
    def test_of_a_model_holds_its_weights(self, tmp_path):
        tokenizer = tiny_tokenizer()
        config = BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=512,
            intermediate_size=4096,
            num_hidden_layers=4,
            num_attention_heads=8,
            max_position_embeddings=64,
        )
        model = BertForSequenceClassification(config)
        weights = sum(parameter.numel() * 4 for parameter in model.parameters()) / 1e6
        with new_artifact(tmp_path / "checkpoint", "checkpoint") as draft:
            model.save_pretrained(draft)
            tokenizer.save_pretrained(draft)
        export(tmp_path / "checkpoint", tmp_path / "export")
        backends, points = ("torch", "onnxruntime"), [(1, 8), (64, 64)]
        folders = (tmp_path / "checkpoint", tmp_path / "export")
        with memory.cpu_memory(backends, *folders, tokenizer, points, 1) as measuring:
            found = {backend: measuring.peaks(backend) for backend in backends}
        for backend, peaks in found.items():
            if None in peaks.values():
                pytest.skip("the kernel cannot reset the peak")
            # At the larger point one layer's inner activations alone take 64 x 64 x 4096 x 4 bytes.
            assert weights - 5 < peaks[1, 8] < weights + 40, backend
            assert peaks[64, 64] - peaks[1, 8] > 60, backend
