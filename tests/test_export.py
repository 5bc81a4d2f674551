"""Checkpoints as ONNX models: what ONNX Runtime computes of them, what lies beside them, and what is refused."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from encoders import INT, Point, batch, integer_checkpoint, name, random_model
from intaglio.cli import main
from intaglio.encoder.files import read_encoder
from intaglio.errors import UserError
from intaglio.export.export import FLOAT_LIMIT, INTEGER_LIMIT, ISLANDS_LIMIT, export
from intaglio.export.parity import check_batches, text_differences
from intaglio.onnx import session as sessions
from intaglio.onnx import signed
from intaglio.onnx.session import open_session
from tiny import ARCHITECTURES, MAX_LENGTH, tiny_checkpoint, tiny_tokenizer

LABELS = ("bad", "so so", "good")
# The last one is the longest that the models take.
SHAPES = ((1, 1), (1, 7), (6, 19), (2, MAX_LENGTH))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exports")


def exported_once(folder: Path, arch: str) -> tuple[Path, Path]:
    checkpoint, exported = folder / f"{arch}-checkpoint", folder / arch
    if not exported.exists():
        export(tiny_checkpoint(checkpoint, arch, LABELS), exported)
    return checkpoint, exported


@pytest.fixture(params=ARCHITECTURES)
def made(request: pytest.FixtureRequest, folder: Path) -> tuple[Path, Path]:
    """A checkpoint of an architecture, and its export."""
    return exported_once(folder, request.param)


@pytest.fixture
def one(folder: Path) -> tuple[Path, Path]:
    """A checkpoint of any architecture, and its export."""
    return exported_once(folder, "distilbert")


def run(session: Any, inputs: dict[str, torch.Tensor]) -> np.ndarray:
    (logits,) = session.run(["logits"], {given.name: inputs[given.name].numpy() for given in session.get_inputs()})
    return logits


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_logits_are_those_of_transformers(made: tuple[Path, Path], shape: tuple[int, int]) -> None:
    checkpoint, exported = made
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint).eval()
    session = open_session(exported, 1)
    types = "token_type_ids" in [given.name for given in session.get_inputs()]
    inputs = batch(model, *shape, types=types)
    with torch.no_grad():
        expected = model(**inputs).logits.numpy()
    np.testing.assert_allclose(run(session, inputs), expected, atol=1e-5)


def test_padding_changes_nothing(made: tuple[Path, Path]) -> None:
    _, exported = made
    tokenizer = AutoTokenizer.from_pretrained(exported)
    session = open_session(exported, 1)
    texts = ["good", "a film that was quite bad and long"]
    together = run(session, tokenizer(texts, padding=True, return_tensors="pt"))
    alone = [run(session, tokenizer([text], return_tensors="pt"))[0] for text in texts]
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_tokenizer_labels_and_record_lie_beside(made: tuple[Path, Path]) -> None:
    checkpoint, exported = made
    text = ("a good film", "was it")
    assert AutoTokenizer.from_pretrained(exported)(*text) == AutoTokenizer.from_pretrained(checkpoint)(*text)
    assert json.loads((exported / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert AutoConfig.from_pretrained(exported).id2label == dict(enumerate(LABELS))
    record = json.loads((exported / "export.json").read_text())
    graph = onnx.load(exported / "model.onnx")
    assert record["inputs"] == [given.name for given in graph.graph.input]
    assert set(record["inputs"]) == set(AutoTokenizer.from_pretrained(checkpoint).model_input_names)
    assert record["opset"] >= 18
    assert (record["format"], record["integer"]) == ("onnx", [])
    assert record["floating"] == ["linear", "gelu", "softmax", "layernorm"]
    assert 0 <= record["difference"] <= record["tolerance"]


def test_the_file_is_whole_and_tells_nothing_of_this_machine(made: tuple[Path, Path]) -> None:
    _, exported = made
    content = (exported / "model.onnx").read_bytes()
    assert str(Path(__file__).parents[1]).encode() not in content
    assert sys.prefix.encode() not in content
    assert sorted(path.name for path in exported.glob("model*")) == ["model.onnx"]


def test_attention_layernorm_and_gelu_are_fused(made: tuple[Path, Path]) -> None:
    _, exported = made
    found = [node.op_type for node in onnx.load(exported / "model.onnx").graph.node]
    assert found.count("Attention") == found.count("BiasGelu") == 2
    assert found.count("SkipLayerNormalization") >= 4


def test_the_model_is_compared_on_padding_pairs_and_several_shapes() -> None:
    config = {"vocab_size": 30, "max_position_embeddings": 20, "type_vocab_size": 2}
    batches = check_batches(tiny_tokenizer(), config)
    assert len({inputs["input_ids"].shape for inputs in batches}) == len(batches) > 1
    assert all(inputs["input_ids"].shape[1] <= 20 and inputs["input_ids"].max() < 30 for inputs in batches)
    assert all((inputs["attention_mask"].sum(1) > 0).all() for inputs in batches)
    assert any((inputs["attention_mask"] == 0).any() for inputs in batches)
    assert any((inputs["token_type_ids"] == 1).any() for inputs in batches)


@pytest.mark.parametrize(("wrong", "words"), [(0.25, "0.25"), (np.nan, "inf")])
def test_a_file_that_computes_something_else_is_refused(
    one: tuple[Path, Path], wrong: float, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, exported = one
    changed = onnx.load(exported / "model.onnx")
    bias = next(each for each in changed.graph.initializer if each.name.endswith(".classifier.bias"))
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(wrong), bias.name))
    monkeypatch.setattr("intaglio.onnx.float_graph.float_onnx", lambda *_: changed)
    with pytest.raises(UserError) as caught:
        export(checkpoint, tmp_path / "out" / "export")
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    for word in (str(checkpoint), words, "0.001"):
        assert word in message
    assert list((tmp_path / "out").iterdir()) == []


def test_what_cannot_be_exported_is_one_line(
    one: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise torch.onnx.OnnxExporterError("no such operator\nand pages more")

    monkeypatch.setattr("intaglio.onnx.float_graph.float_onnx", fails)
    with pytest.raises(UserError, match=r"^.*distilbert.*no such operator\).*$"):
        export(one[0], tmp_path / "export")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_checkpoint_is_one_line_of_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint = tiny_checkpoint(tmp_path / "checkpoint")
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    capsys.readouterr()
    assert main(["export", "--checkpoint", "checkpoint", "--output", "export"]) == 2
    printed = capsys.readouterr().err.strip()
    assert len(printed.splitlines()) == 1 and "model.safetensors" in printed
    assert not (tmp_path / "export").exists()


def test_a_damaged_export_is_named(one: tuple[Path, Path], tmp_path: Path) -> None:
    exported = tmp_path / "export"
    shutil.copytree(one[1], exported)
    content = (exported / "model.onnx").read_bytes()
    (exported / "model.onnx").write_bytes(content[:1000])
    with pytest.raises(UserError, match=r"model\.onnx has 1000 bytes"):
        open_session(exported, 1)
    # The right size, but not the right content.
    (exported / "model.onnx").write_bytes(content[:1000] + bytes(len(content) - 1000))
    with pytest.raises(UserError, match=r"^.*model\.onnx: not an ONNX model.*$"):
        open_session(exported, 1)
    with pytest.raises(UserError, match=r"nothing\.onnx: no such file"):
        open_session(exported / "nothing.onnx", 1)


def test_a_session_takes_the_threads_it_is_given_and_frees_them(one: tuple[Path, Path]) -> None:
    options = open_session(one[1] / "model.onnx", 2).get_session_options()
    assert options.intra_op_num_threads == 2
    assert options.get_session_config_entry("session.force_spinning_stop") == "1"


def test_running_a_file_needs_no_torch() -> None:
    program = "import sys; import intaglio.onnx.session as s; s.session_options(1); assert 'torch' not in sys.modules"
    workflow = Path(sessions.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=workflow, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def products(scale: int = 128, twice: bool = False) -> onnx.ModelProto:
    """A graph of the three products of integers, with weights as uint8 with a zero point."""
    random = np.random.default_rng(0)
    stored = {
        # Small, so that two products fit into 16 bits and the CPU need not be good for it.
        "weight": random.integers(98, 158, (24, 16), dtype=np.uint8),
        "other": random.integers(98, 158, (24, 16), dtype=np.uint8),
        "columns": random.integers(98, 158, (24, 16), dtype=np.uint8),
        "zero": np.uint8(scale),
        "zeros": np.full(16, scale, dtype=np.uint8),
        "middle": np.uint8(128),
        "one": np.float32(1),
        "step": np.float32(0.01),
        "steps": np.full(16, 0.01, dtype=np.float32),
    }
    nodes = [
        helper.make_node("MatMulInteger", ["x", "weight", "middle", "zero"], ["a"]),
        helper.make_node("QLinearMatMul", ["x", "one", "middle", "other", "step", "zero", "one", "middle"], ["b"]),
        helper.make_node(
            "QGemm",
            ["x", "one", "middle", "columns", "steps", "zeros", "", "one", "middle"],
            ["c"],
            domain="com.microsoft",
        ),
    ]
    outputs = {"a": TensorProto.INT32, "b": TensorProto.UINT8, "c": TensorProto.UINT8}
    if twice:
        nodes.append(helper.make_node("Cast", ["weight"], ["d"], to=TensorProto.INT32))
        outputs["d"] = TensorProto.INT32
    graph = helper.make_graph(
        nodes,
        "products",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [None, 24])],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()],
    )
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def results(model: onnx.ModelProto) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.random.default_rng(1).integers(0, 256, (5, 24), dtype=np.uint8)})


def kinds(model: onnx.ModelProto) -> dict[str, int]:
    return {tensor.name: tensor.data_type for tensor in model.graph.initializer}


def test_signed_weights_are_the_same_weights() -> None:
    model = products()
    before = results(model)
    assert signed.with_signed_weights(model) == 3
    assert {kinds(model)[name] for name in ("weight", "other", "columns")} == {TensorProto.INT8}
    # The first factors keep their zero point.
    assert kinds(model)["middle"] == TensorProto.UINT8
    for expected, found in zip(before, results(model), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_weights_that_others_read_or_of_another_zero_point_stay() -> None:
    model = products(twice=True)
    before = results(model)
    assert signed.with_signed_weights(model) == 2
    assert kinds(model)["weight"] == TensorProto.UINT8
    for expected, found in zip(before, results(model), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert signed.with_signed_weights(products(scale=127)) == 0


@pytest.mark.parametrize(
    ("flags", "has"),
    [
        ("fpu avx2 avx512f", False),
        ("fpu avx2 avx512_vnni", True),
        ("fpu avx2 avx_vnni", True),
        ("amx_int8", True),
        (None, False),
    ],
)
def test_the_cpu_says_whether_it_adds_in_32_bits(
    flags: str | None, has: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signed, "CPUINFO", tmp_path / "cpuinfo")
    if flags is not None:
        (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\nbugs\t\t: none\n")
    assert signed.has_dot_products() is has


def test_a_cpu_with_dot_products_does_not_saturate() -> None:
    assert not (signed.has_dot_products() and signed.saturates())


@pytest.mark.parametrize(
    ("claims", "wrong", "exact"), [(True, False, True), (True, True, False), (False, False, False)]
)
def test_signed_weights_want_both_the_flag_and_the_check(
    claims: bool, wrong: bool, exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signed, "has_dot_products", lambda: claims)
    monkeypatch.setattr(signed, "saturates", lambda: wrong)
    signed.signed_is_exact.cache_clear()
    assert signed.signed_is_exact() is exact
    signed.signed_is_exact.cache_clear()


def test_a_session_on_a_cpu_with_dot_products_computes_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(products(), path)
    inputs = {"x": np.random.default_rng(1).integers(0, 256, (5, 24), dtype=np.uint8)}
    found = []
    for exact in (False, True):
        monkeypatch.setattr(sessions, "signed_is_exact", lambda exact=exact: exact)
        found.append(open_session(path, 1).run(None, inputs))
    for expected, each in zip(*found, strict=True):
        np.testing.assert_array_equal(each, expected)


@pytest.mark.parametrize("arch", ["bert", "roberta"])
@pytest.mark.parametrize("point", [INT, frozenset({"linear", "softmax"})], ids=name)
def test_integer_checkpoints_are_exported_as_integers(arch: str, point: Point, tmp_path: Path) -> None:
    checkpoint = integer_checkpoint(tmp_path / "checkpoint", point, arch)
    export(checkpoint, tmp_path / "export")
    record = json.loads((tmp_path / "export" / "export.json").read_text())
    assert set(record["integer"]) == point
    assert set(record["integer"]) | set(record["floating"]) == INT
    assert record["difference"] <= record["tolerance"]
    # A transformers configuration, for whoever has no Intaglio.
    assert "intaglio" not in json.loads((tmp_path / "export" / "config.json").read_text())
    encoder = read_encoder(checkpoint)
    inputs = batch(random_model(arch), 5, 11, types=arch == "bert")
    with torch.no_grad():
        expected = encoder(**inputs).logits.numpy()
    found = run(open_session(tmp_path / "export", 1), inputs)
    np.testing.assert_allclose(found, expected, atol=1e-5 if point == INT else 2e-2)


def test_an_integer_that_is_off_by_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = integer_checkpoint(tmp_path / "checkpoint")
    from intaglio.onnx import integer_graph as integers

    make = integers.integer_onnx

    def off_by_one(*arguments: Any) -> onnx.ModelProto:
        made = make(*arguments)
        weight = next(
            tensor
            for tensor in made.graph.initializer
            if tensor.data_type == TensorProto.UINT8 and len(tensor.dims) == 2
        )
        values = numpy_helper.to_array(weight).copy()
        values ^= 1
        weight.CopyFrom(numpy_helper.from_array(values, weight.name))
        return made

    monkeypatch.setattr(integers, "integer_onnx", off_by_one)
    with pytest.raises(UserError, match=r"^.*its integers differ.*0 is allowed.*$"):
        export(checkpoint, tmp_path / "export")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_of_a_partly_integer_model_one_text_may_differ_by_rounding_but_not_all() -> None:
    """What MiniLM with integer linear layers once did: float32 rounded to another integer, in one of eleven texts."""
    expected = torch.tensor([[-0.27, 0.32]] * 11)
    rounded = expected.numpy().copy()
    rounded[8] = (-0.001, 0.042)
    of_texts = text_differences(lambda _: expected, lambda _: rounded, [{}])
    assert of_texts.argmax() == 8 and of_texts[8] == pytest.approx(0.278) and np.count_nonzero(of_texts) == 1
    assert ISLANDS_LIMIT.of(of_texts) == pytest.approx(0.278 / 11)
    assert [limit.of(of_texts) > limit.tolerance for limit in (ISLANDS_LIMIT, INTEGER_LIMIT, FLOAT_LIMIT)] == [0, 1, 1]
    moved = text_differences(lambda _: expected, lambda _: expected.numpy() + 0.15, [{}])
    assert ISLANDS_LIMIT.of(moved) > ISLANDS_LIMIT.tolerance
    rounded[3] = np.nan
    assert ISLANDS_LIMIT.of(text_differences(lambda _: expected, lambda _: rounded, [{}])) == np.inf
