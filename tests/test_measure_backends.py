import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from encoders import calibrated, integer_checkpoint, random_model
from intaglio.checkpoint import Checkpoint
from intaglio.encoder.cutting import Kept, cut_out
from intaglio.encoder.files import convert, save_encoder
from intaglio.errors import UserError
from intaglio.export.export import export
from intaglio.measure import inputs, places, profile
from intaglio.measure.agreement import agreeing
from intaglio.measure.backends import REGISTRY, backend, compiled, sparse
from intaglio.measure.places import Place, opened
from intaglio.native.runner import FORM
from intaglio.onnx.runtime import OnnxModel
from intaglio.onnx.session import MODEL
from intaglio.openvino.session import missing_openvino
from intaglio.products.kernels import ON_CPU
from intaglio.schemas import LATENCY, OPERATORS, SIZES, read_table
from intaglio.store import new_artifact
from intaglio.study.profile import Profile
from tiny import tiny_checkpoint, tiny_model, tiny_tokenizer

OPTIONS = Profile(batch_sizes=[2], lengths=[8], headline=(2, 8), warmup=1, calls=2, threads=1, devices=["cpu"])
TORCH, ORT, OV = (Place(name, "cpu") for name in ("torch", "onnxruntime", "openvino"))
POINT = (4, 16)
PACKAGE = Path(places.__file__).parents[2]


@pytest.fixture(scope="module")
def floats(tmp_path_factory):
    """Two checkpoints of different weights with their exports."""
    root = tmp_path_factory.mktemp("floats")
    found = []
    for seed in (0, 1):
        checkpoint = tiny_model(root / f"checkpoint{seed}", "roberta", seed=seed, kind="checkpoint")
        export(checkpoint, root / f"export{seed}")
        found.append((checkpoint, root / f"export{seed}"))
    return found


def differences(wanted, checkpoint, *further):
    """What every place that can be opened differs by."""
    with ExitStack() as held:
        return {model.place: value for model, value in agreeing(wanted, Checkpoint(checkpoint), *further, held)}


def test_padded_inputs_have_every_length_and_one_full_row():
    tokenizer = tiny_tokenizer("roberta")
    given = inputs.padded_inputs(tokenizer, (4, 32), "cpu")
    lengths = given["attention_mask"].sum(1)
    assert lengths.tolist() == [32, 24, 16, 8]
    padding = given["input_ids"] == tokenizer.pad_token_id
    assert torch.equal(padding, given["attention_mask"] == 0)
    assert "token_type_ids" in inputs.padded_inputs(tiny_tokenizer(), (1, 1), "cpu")


def test_backends_are_called_alike_and_compute_what_transformers_does(floats):
    checkpoint, exported = floats[0]
    given = inputs.padded_inputs(AutoTokenizer.from_pretrained(checkpoint), POINT, "cpu")
    reference = AutoModelForSequenceClassification.from_pretrained(checkpoint).eval()
    with torch.no_grad():
        expected = reference(**given).logits
    for place in (TORCH, ORT, OV):
        with opened(place, Checkpoint(checkpoint), exported, 1) as it, torch.inference_mode():
            assert it.place == place
            torch.testing.assert_close(it.model(**given).logits, expected, atol=1e-5, rtol=0)


def test_difference_is_that_to_torch_on_a_padded_batch(floats):
    """A graph of other weights: what its logits differ by, computed by hand."""
    (checkpoint, own), (_, other) = floats
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    given = inputs.padded_inputs(tokenizer, POINT, "cpu")
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint).eval()
    with torch.no_grad():
        expected = model(**given).logits.numpy()
    session = onnxruntime.InferenceSession(other / "model.onnx")
    (logits,) = session.run(["logits"], {one.name: given[one.name].numpy() for one in session.get_inputs()})
    found = differences([TORCH, ORT], checkpoint, other, POINT, 1)
    assert found == {TORCH: 0.0, ORT: pytest.approx(np.abs(logits - expected).max(), rel=1e-4)}
    assert found[ORT] > 0.01
    assert differences([ORT], checkpoint, own, POINT, 1)[ORT] < 1e-5


def test_an_integer_model_that_differs_is_refused(floats, monkeypatch):
    (checkpoint, _), (_, other) = floats
    monkeypatch.setattr(Checkpoint, "is_integer_only", True)
    with pytest.raises(
        UserError, match=r"an integer model must .* of onnxruntime on cpu differ from torch's by \d"
    ) as it:
        differences([TORCH, ORT], checkpoint, other, POINT, 1)
    assert "\n" not in str(it.value)


def test_logits_that_are_not_finite_are_refused(floats, tmp_path):
    checkpoint, exported = floats[0]
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint)
    with torch.no_grad():
        model.classifier.out_proj.bias[0] = float("nan")
    with new_artifact(tmp_path / "checkpoint", "checkpoint") as draft:
        model.save_pretrained(draft)
        AutoTokenizer.from_pretrained(checkpoint).save_pretrained(draft)
    with pytest.raises(UserError, match="torch on cpu gives logits that are not finite"):
        differences([TORCH], tmp_path / "checkpoint", exported, POINT, 1)


def test_every_backend_of_a_study_is_registered():
    """The schema of profile.backends and the registry agree, in their order: the first is the reference."""
    (names,) = (get_args(kind) for kind in get_args(Profile.model_fields["backends"].annotation) if get_args(kind))
    assert tuple(REGISTRY) == names
    assert len({(type(backend(name)), backend(name).precision) for name in REGISTRY}) == len(REGISTRY)
    assert {name for name in REGISTRY if name.endswith("-bf16")} == {
        name for name, entry in REGISTRY.items() if entry.precision == "bfloat16"
    }


@pytest.mark.parametrize("name", REGISTRY)
def test_a_backend_names_the_kernel_of_a_float_model(name, floats):
    executes = backend(name)
    if name == "native" or "cpu" not in executes.devices or (executes.missing("cpu") and name != "torch-bf16"):
        pytest.skip("not on this machine")
    model = executes.open(Checkpoint(floats[0][0]), floats[0][1], "cpu", 1)
    found = executes.kernel(model, {"MatMul": 9.0, "FusedMatMul": 5.0, "Gemm": 0.1, "Softmax": 3.0})
    if name.startswith("openvino"):
        assert all(kernel.endswith("bf16" if "bf16" in name else "f32") for kernel in found.split(", "))
    else:
        assert found == ("MatMul, FusedMatMul" if name == "onnxruntime" else executes.precision)


@pytest.mark.skipif(bool(missing_openvino()), reason="no OpenVINO")
def test_a_signal_does_not_end_a_process_that_has_had_models_in_openvino(floats):
    """OpenVINO changes the stack of signal handlers with every model, and leaves that of a model that is gone."""
    program = f"""
import faulthandler, signal
from pathlib import Path
from intaglio.openvino.session import compiled_model
faulthandler.enable()
signal.signal(signal.SIGTERM, lambda *_: print("handled"))
models = [compiled_model(Path({str(floats[0][1] / MODEL)!r}), 1) for _ in range(3)]
while models:
    models.pop(0)
signal.raise_signal(signal.SIGTERM)
"""
    root = Path(profile.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=root)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


@pytest.mark.parametrize("arch", ["bert", "distilbert"])
def test_openvino_runs_cut_models_of_every_shape(arch, tmp_path):
    model = random_model(arch)
    encoder = cut_out(convert(model, frozenset()), Kept(((0,), (1,)), (tuple(range(40)), (3, 5))))
    with new_artifact(tmp_path / "checkpoint", "checkpoint") as draft:
        save_encoder(encoder, model.config, draft)
        tiny_tokenizer(arch).save_pretrained(draft)
    export(tmp_path / "checkpoint", tmp_path / "export")
    with opened(OV, Checkpoint(tmp_path / "checkpoint"), tmp_path / "export", 1) as it, torch.inference_mode():
        for point in ((1, 1), (3, 17), (4, 8)):
            given = inputs.padded_inputs(it.tokenizer, point, "cpu")
            torch.testing.assert_close(it.model(**given).logits, encoder(**given).logits, atol=1e-5, rtol=0)


def test_openvino_names_operators_and_its_memory_needs_no_torch(floats):
    checkpoint, exported = floats[0]
    given = inputs.padded_inputs(tiny_tokenizer("roberta"), POINT, "cpu")
    with opened(OV, Checkpoint(checkpoint), exported, 1) as it:
        found = backend("openvino").operators(it.model, given, 1, 3)
    # Two layers of four products with weights, and two of the head, in three passes.
    assert found["FullyConnected"][0] == 3 * (2 * 4 + 2) and found["FullyConnected"][1] > 0
    program = (
        "import sys, numpy as np; from pathlib import Path; from intaglio.measure.backends import backend\n"
        f"call = backend('openvino').open_resident(Path({str(checkpoint)!r}), Path({str(exported)!r}), 1)\n"
        "call({name: np.ones((2, 3), np.int64) for name in ('input_ids', 'attention_mask')})\n"
        "assert not {'torch', 'openvino_telemetry.main'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=PACKAGE, check=True)


def test_openvino_is_left_out_where_it_cannot_run_a_model(floats, tmp_path, monkeypatch, caplog):
    checkpoint, exported = floats[0]
    graph = onnx.load(exported / "model.onnx")
    next(node for node in graph.graph.node if node.op_type == "BiasGelu").op_type = "NewGelu"
    (tmp_path / "export").mkdir()
    onnx.save(graph, tmp_path / "export" / "model.onnx")
    assert list(differences([OV, TORCH], checkpoint, tmp_path / "export", POINT, 1)) == [TORCH]
    assert "openvino fails on cpu" in caplog.text and "NewGelu" in caplog.text
    monkeypatch.setattr("intaglio.openvino.session.find_spec", lambda _: None)
    assert places.places(["openvino", "torch"], ["cpu"]) == [TORCH]
    assert (
        caplog.records[-1].getMessage() == "profile.backends: no OpenVINO (pip install openvino) for openvino; left out"
    )


def test_integer_models_are_not_for_openvino_nor_for_bf16(tmp_path):
    checkpoint = Checkpoint(integer_checkpoint(tmp_path / "int"))
    assert places.places_of(checkpoint, ["torch", "openvino"], ["cpu"]) == [TORCH]
    for name in ("openvino", "torch-bf16", "torch.compile-bf16", "openvino-bf16"):
        assert "\n" not in str(backend(name).refusal(checkpoint))


BF16 = ("torch-bf16", "openvino-bf16")


@pytest.mark.parametrize("flags", ["avx2 avx512f", "avx512_bf16", "amx_bf16", "bf16"])
def test_bf16_is_for_processors_that_have_it(flags, monkeypatch, caplog):
    monkeypatch.setattr("intaglio.measure.backends.base.instructions", lambda: frozenset(flags.split()))
    caplog.set_level("INFO")
    wanted = Profile.model_fields["backends"].default
    assert set(BF16) < set(wanted)
    found = {place.backend for place in places.places(wanted, ["cpu"])}
    if "bf16" in flags:
        assert found == set(wanted) and not caplog.records
        return
    assert found == set(wanted) - set(BF16)
    places.places(BF16, ["cpu"])
    # Nobody asked for what is on by default.
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]
    assert caplog.text.count("no bf16 instructions of the processor") == 2
    assert "for torch-bf16, openvino-bf16; left out" in caplog.text


@pytest.mark.parametrize("has", [True, False])
def test_bf16_on_a_gpu(has, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: has)
    assert places.places(["torch-bf16"], ["cuda"]) == ([Place("torch-bf16", "cuda")] if has else [])


@pytest.mark.parametrize("as_encoder", [False, True])
def test_bf16_in_torch_is_that_of_a_model_in_bf16(as_encoder, floats, tmp_path):
    checkpoint, exported = floats[0]
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint).eval()
    if as_encoder:
        checkpoint = tmp_path / "checkpoint"
        with new_artifact(checkpoint, "checkpoint") as draft:
            save_encoder(convert(model, frozenset()), model.config, draft)
            tiny_tokenizer("roberta").save_pretrained(draft)
    place = Place("torch-bf16", "cpu")
    with opened(place, Checkpoint(checkpoint), exported, 1) as it, torch.inference_mode():
        given = inputs.padded_inputs(it.tokenizer, POINT, "cpu")
        logits = it.model(**given).logits
        assert logits.dtype == torch.bfloat16
        expected = model(**given).logits
    assert 0 < float((logits - expected).abs().max()) < 0.05
    assert 0 < differences([place], checkpoint, exported, POINT, 1)[place] < 0.05


def test_onnxruntime_stays_on_the_cpu():
    wanted = ("torch", "onnxruntime")
    assert places.places(wanted, ["cpu", "cuda"]) == [TORCH, ORT, Place("torch", "cuda")]
    assert places.places(["onnxruntime"], ["cuda"]) == []


def test_without_a_compiler_one_line_says_so(monkeypatch, caplog):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(compiled.shutil, "which", lambda _: None)
    assert places.places(("torch.compile", "torch"), ["cpu", "cuda"]) == [TORCH, Place("torch", "cuda")]
    (record,) = caplog.records
    assert record.getMessage().startswith("profile.backends: no C++ compiler")
    assert places.places(("torch",), ["cpu"]) == [TORCH]
    assert len(caplog.records) == 1


def test_every_shape_is_compiled_for_itself(monkeypatch):
    programs = []

    def fake(module, dynamic):
        assert dynamic is False
        programs.append(module)
        return module

    monkeypatch.setattr(torch, "compile", fake)
    model = compiled.CompiledModule(torch.nn.Embedding(9, 2))
    monkeypatch.setattr(model.module, "forward", lambda input_ids: input_ids.shape)
    shapes = [(1, 8), (1, 8), (4, 8), (4, 8), (1, 8)]
    for shape in shapes:
        assert model(input_ids=torch.zeros(shape, dtype=torch.int64)) == shape
    assert len(programs) == 3


def test_what_cannot_be_compiled_is_left_out(floats, monkeypatch, caplog, tmp_path):
    checkpoint, exported = floats[0]

    def broken(**_):
        raise torch._dynamo.exc.InternalTorchDynamoError("no Python.h\nmore of it")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: broken)
    monkeypatch.setattr(compiled.shutil, "which", lambda name: name)
    found = differences([Place("torch.compile", "cpu"), TORCH], checkpoint, exported, POINT, 1)
    assert list(found) == [TORCH]
    assert "torch.compile fails on cpu (no Python.h); it is left out" in caplog.text
    only = OPTIONS.model_copy(update={"backends": ("torch.compile",)})
    with pytest.raises(UserError, match="of which nothing is there; add torch"):
        profile.profile(checkpoint, exported, only, tmp_path / "profile")


@pytest.mark.slow
@pytest.mark.skipif(compiled.Compiled().missing("cpu") is not None, reason="needs a C++ compiler")
def test_compiled(tmp_path, floats):
    checkpoint, exported = floats[0]
    options = OPTIONS.model_copy(update={"backends": ("torch.compile", "torch")})
    profile.profile(checkpoint, exported, options, tmp_path / "profile")
    rows = read_table(tmp_path / "profile" / "latency.parquet", LATENCY).to_pylist()
    # What all are compared with comes first.
    assert [row["backend"] for row in rows] == ["torch", "torch.compile"]
    assert 0 == rows[0]["max_difference"] < rows[1]["max_difference"] < 1e-5


def test_only_all_four_operations_are_integer(tmp_path):
    assert Checkpoint(integer_checkpoint(tmp_path / "int")).is_integer_only
    assert not Checkpoint(integer_checkpoint(tmp_path / "some", frozenset({"linear", "gelu"}))).is_integer_only
    assert not Checkpoint(tiny_checkpoint(tmp_path / "float")).is_integer_only


def test_an_integer_checkpoint_is_executed_on_integers(tmp_path):
    checkpoint = integer_checkpoint(tmp_path / "int")
    with opened(TORCH, Checkpoint(checkpoint), tmp_path, 1) as it:
        assert type(it.model).__name__ == "IntegerModel"
        given = inputs.padded_inputs(it.tokenizer, POINT, "cpu")
        with torch.inference_mode():
            logits = it.model(**given).logits
    with torch.inference_mode():
        simulated = calibrated()[0](**given).logits
    torch.testing.assert_close(logits, simulated, atol=1e-6, rtol=0)


@pytest.mark.parametrize("integer", [("linear", "gelu", "softmax", "layernorm"), ("linear", "softmax")], ids="-".join)
def test_profile_of_an_integer_checkpoint(tmp_path, integer):
    checkpoint = integer_checkpoint(tmp_path / "checkpoint", frozenset(integer))
    export(checkpoint, tmp_path / "export")
    profile.profile(checkpoint, tmp_path / "export", OPTIONS, tmp_path / "profile")
    rows = read_table(tmp_path / "profile" / "latency.parquet", LATENCY).to_pylist()
    native = ["native"] if (tmp_path / "export" / FORM).is_dir() else []
    assert [row["backend"] for row in rows] == ["torch", "onnxruntime", *native]
    of_torch, of_onnxruntime, *of_native = (row["kernel"] for row in rows)
    assert set(of_torch.split(", ")) <= {kind.name for kind in ON_CPU}
    # Beside other tests, the few float products may take longest.
    products = {"MatMulInteger", "QLinearMatMul", "QGemm", "MatMul", "FusedMatMul", "Gemm", "FusedGemm"}
    assert set(of_onnxruntime.split(", ")) <= products
    operators = read_table(tmp_path / "profile" / "operators.parquet", OPERATORS).to_pylist()
    executed = {row["operator"] for row in operators if row["backend"] == "onnxruntime"}
    assert executed & {"MatMulInteger", "QLinearMatMul", "QGemm"}
    assert all(kernel in {"native avx2", "native avx512-vnni", "native avx-vnni", "native amx"} for kernel in of_native)
    assert max(row["max_difference"] for row in rows) < (1e-6 if len(integer) == 4 else 1e-2)
    sizes = read_table(tmp_path / "export" / "sizes.parquet", SIZES).to_pylist()
    weights = {row["dtype"]: row["count"] for row in sizes if row["component"] == "tensors"}
    # Two layers of four linear maps of the width and two of twice the width.
    assert weights.get("int8", 0) + weights.get("uint8", 0) >= 2 * (4 * 32 * 32 + 2 * 32 * 64)


def test_onnxruntime_is_given_what_the_graph_takes_and_nothing_is_copied():
    class Session:
        def get_inputs(self):
            return [SimpleNamespace(name="input_ids")]

        def run(self, names, given):
            assert (names, list(given)) == (["logits"], ["input_ids"])
            assert np.shares_memory(given["input_ids"], ids.numpy())
            return [array]

    array = np.ones((1, 2), dtype=np.float32)
    ids = torch.zeros((1, 1), dtype=torch.int64)
    logits = OnnxModel(Session())(input_ids=ids, token_type_ids=ids).logits
    array[0, 0] = 5
    assert logits.tolist() == [[5, 1]]


def test_sparse_kernels_are_for_models_with_the_pattern_on_gpus_that_have_them(floats, monkeypatch):
    checkpoint, _ = floats[0]
    wanted = ("torch", "torch.sparse")
    assert places.places(wanted, ["cpu"]) == [TORCH]
    monkeypatch.setattr(sparse, "has_sparse_cores", lambda: True)
    on_gpu = Place("torch.sparse", "cuda")
    assert places.places(wanted, ["cpu", "cuda"]) == [TORCH, Place("torch", "cuda"), on_gpu]
    assert on_gpu not in places.places_of(Checkpoint(checkpoint), wanted, ["cpu", "cuda"])
    monkeypatch.setattr(sparse, "fitting_layers", lambda _: {"0.query": None})
    assert on_gpu in places.places_of(Checkpoint(checkpoint), wanted, ["cpu", "cuda"])
