import json
import struct
import time

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from intaglio.errors import UserError
from intaglio.machine import device_name, fingerprint, machine_id
from intaglio.measure import inputs, memory, profile
from intaglio.measure.latency import latency_rows, summary, time_calls
from intaglio.measure.models import load_checkpoint
from intaglio.measure.operators import operator_rows
from intaglio.measure.sizes import size_rows
from intaglio.schemas import LATENCY, OPERATORS, SIZES, read_table
from intaglio.store import new_artifact, open_artifact
from intaglio.study.schema import Profile
from tiny import tiny_checkpoint, tiny_tokenizer

OPTIONS = Profile(batch_sizes=[4, 1], lengths=[8, 48], headline=(1, 48), warmup=1, calls=5, threads=1, devices=["cpu"])


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
def profiled(checkpoint, tmp_path_factory):
    threads = torch.get_num_threads()
    output = tmp_path_factory.mktemp("profiles") / "profile"
    profile.profile(checkpoint, OPTIONS, output)
    assert torch.get_num_threads() == threads
    return output


def test_latency_table(profiled):
    table = read_table(profiled / "latency.parquet", LATENCY)
    rows = table.to_pylist()
    assert [(row["batch_size"], row["length"]) for row in rows] == [(1, 8), (4, 8), (1, 48), (4, 48)]
    for row in rows:
        calls = np.array(row["calls"])
        assert len(calls) == 5
        assert (row["backend"], row["device"], row["threads"]) == ("torch", "cpu", 1)
        assert row["device_name"] == device_name("cpu")
        assert row["machine_id"] == machine_id()
        assert row["mean_ms"] == pytest.approx(calls.mean())
        assert row["std_ms"] == pytest.approx(calls.std(ddof=1))
        for percent in (50, 90, 99):
            assert row[f"p{percent}_ms"] == pytest.approx(np.percentile(calls, percent))
        assert row["throughput"] == pytest.approx(row["batch_size"] / (calls.mean() / 1000))
        assert row["peak_memory_mb"] is None or row["peak_memory_mb"] >= 0
    assert json.loads(table.schema.metadata[b"machine"]) == fingerprint()
    assert open_artifact(profiled, "profile")["devices"] == ["cpu"]


def test_operator_table(profiled):
    rows = read_table(profiled / "operators.parquet", OPERATORS).to_pylist()
    calls = {row["operator"]: row["calls"] for row in rows}
    # Two layers of six linear maps, and a head of two, in three passes.
    assert calls["aten::linear"] == 3 * (2 * 6 + 2)
    assert sum(row["share"] for row in rows) == pytest.approx(1)
    assert [row["self_time_ms"] for row in rows] == sorted((row["self_time_ms"] for row in rows), reverse=True)


def test_sizes_equal_the_file_counted_by_hand(profiled, checkpoint):
    rows = read_table(profiled / "sizes.parquet", SIZES).to_pylist()
    content = (checkpoint / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__", None)
    elements = sum(int(np.prod(entry["shape"])) for entry in header.values())
    assert {entry["dtype"] for entry in header.values()} == {"F32"}
    by_component = {row["component"]: row for row in rows}
    assert by_component["file"] == {"component": "file", "dtype": None, "bytes": len(content), "count": 1}
    assert by_component["tensors"] == {
        "component": "tensors",
        "dtype": "float32",
        "bytes": len(content) - 8 - length,
        "count": elements,
    }
    assert by_component["parameters"] == by_component["tensors"] | {"component": "parameters"}


def test_sizes_by_data_type(tmp_path, checkpoint):
    model = load_checkpoint(checkpoint)[0]
    model.classifier.half()
    rows = {(row["component"], row["dtype"]): row for row in size_rows(checkpoint, model)}
    halves = sum(parameter.numel() for parameter in model.classifier.parameters())
    assert rows["parameters", "float16"] == {
        "component": "parameters",
        "dtype": "float16",
        "bytes": 2 * halves,
        "count": halves,
    }
    with pytest.raises(UserError, match="no weights"):
        size_rows(tmp_path, model)


def test_latency_is_that_of_the_call():
    model = Sleeper(0.02)
    (row,) = latency_rows(model, tiny_tokenizer(), "cpu", [(2, 8)], warmup=3, calls=4)
    assert len(model.seen) == 7
    assert len(row["calls"]) == 4
    assert min(row["calls"]) >= 20
    # Other processes may hold up a call, hardly all of them.
    assert min(row["calls"]) < 40
    shape = (2, 8)
    assert model.seen[0] == {"input_ids": shape, "attention_mask": shape, "token_type_ids": shape}


def test_warm_up_is_not_timed():
    slow = iter([0.2, 0.2, 0.0, 0.0])
    assert max(time_calls(lambda: time.sleep(next(slow)), "cpu", warmup=2, calls=2)) < 150


def test_a_hook_counts(checkpoint):
    model, tokenizer = load_checkpoint(checkpoint)
    model.classifier.register_forward_hook(lambda *_: time.sleep(0.03))
    (row,) = latency_rows(model, tokenizer, "cpu", [(1, 8)], warmup=1, calls=3)
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
    assert "10000 asked for" in caplog.text


def test_operators_of_a_plain_product():
    class Product(torch.nn.Module):
        def forward(self, input_ids, **_):
            return input_ids.double() @ input_ids.double().T

    rows = operator_rows(Product(), tiny_tokenizer("roberta"), "cpu", (4, 8), 1)
    assert next(row["calls"] for row in rows if row["operator"] == "aten::mm") == 3


def test_length_beyond_the_positions(checkpoint, tmp_path):
    with pytest.raises(UserError, match=r"profile.lengths: 64 tokens, but the model in .* takes at most 48"):
        profile.profile(checkpoint, OPTIONS.model_copy(update={"lengths": [8, 64]}), tmp_path / "profile")


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_no_device(checkpoint, tmp_path):
    with pytest.raises(UserError, match=r"cuda asked for, but this machine has none"):
        profile.profile(checkpoint, OPTIONS.model_copy(update={"devices": ["cuda"]}), tmp_path / "profile")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu(checkpoint, tmp_path):
    profile.profile(checkpoint, OPTIONS.model_copy(update={"devices": ["cpu", "cuda"]}), tmp_path / "profile")
    rows = read_table(tmp_path / "profile" / "latency.parquet", LATENCY).to_pylist()
    assert [row["device"] for row in rows] == ["cpu"] * 4 + ["cuda"] * 4
    assert all(row["peak_memory_mb"] > 0 for row in rows[4:])
    operators = read_table(tmp_path / "profile" / "operators.parquet", OPERATORS).to_pylist()
    assert sum(row["share"] for row in operators if row["device"] == "cuda") == pytest.approx(1)


class TestPeak:
    def test_sees_what_was_held_and_let_go(self):
        if not memory._reset_peak():
            pytest.skip("the kernel cannot reset the peak")
        before = memory._peak()
        held = bytearray(100 * 10**6)
        held[::4096] = b"x" * len(held[::4096])
        del held
        assert 95e6 < memory._peak() - before < 125e6
        memory._reset_peak()
        assert memory._peak() - before < 25e6

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
        peaks = memory.cpu_peaks(tmp_path / "checkpoint", [(1, 8), (64, 64)], 1)
        if None in peaks.values():
            pytest.skip("the kernel cannot reset the peak")
        # At the larger point one layer's inner activations alone take 64 x 64 x 4096 x 4 bytes.
        assert weights - 5 < peaks[1, 8] < weights + 40
        assert peaks[64, 64] - peaks[1, 8] > 60
