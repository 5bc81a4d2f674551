"""The contenders of integer_inference.py: one model in all forms in which it can be run."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from shapes import Batch, Call, Point, random_batch
from torch import Tensor, nn
from wrapped import ByLength, Graphed

from intaglio.arithmetic.operations import OPERATIONS
from intaglio.encoder.files import convert
from intaglio.encoder.model import Encoder
from intaglio.machine import instructions

Build = Callable[["Models"], Call]
# Batches (batch size, length) that OpenVINO's static int8 is calibrated on.
CALIBRATION: tuple[Point, ...] = ((8, 64),) * 16


def integer_encoder(model: Any) -> Encoder:
    """Return an encoder with the model's weights and all operations on integers, calibrated, in evaluation mode."""
    encoder = convert(model, frozenset(OPERATIONS))
    with encoder.calibrating(momentum=0.95):
        encoder(**random_batch(model, (16, 64), "cpu", padded=True))
    return encoder.eval()


class Models:
    """The forms of one model that several contenders share, each made on first use."""

    def __init__(self, model: Any, device: str, threads: int, folder: Path) -> None:
        self.encoder = integer_encoder(model).to(device)
        self.model = model.to(device)
        self.device, self.threads, self.folder = device, threads, folder

    @cached_property
    def integer(self) -> Any:
        """The model on int8 and int32 tensors of torch."""
        from intaglio.execution.on_torch import integer_model

        return integer_model(self.encoder).to(self.device).eval()

    @cached_property
    def bf16(self) -> Any:
        """The floating point model in bfloat16."""
        if self.device == "cpu":
            require_bf16()
        return copy.deepcopy(self.model).to(torch.bfloat16)

    @cached_property
    def float_onnx(self) -> Path:
        """Floating point for ONNX Runtime: torch's export, with attention and LayerNorm fused by onnxscript's rules."""
        import onnx

        from intaglio.onnx.float_graph import float_onnx

        proto = float_onnx(self.model, ["input_ids", "attention_mask"])
        # Recorded shapes are from before the fusions, and make quantize_dynamic fail.
        del proto.graph.value_info[:]
        path = self.folder / "float.onnx"
        onnx.save(proto, path)
        return path

    @cached_property
    def dynamic_onnx(self) -> Path:
        """Weights in 8 bits, ranges of activations computed at every call: ONNX Runtime's own quantization."""
        import onnx
        from onnxruntime.quantization import QuantType, quantize_dynamic

        path = self.folder / "dynamic.onnx"
        options = {"DefaultTensorType": onnx.TensorProto.FLOAT}
        # It would recommend its pre-processing, which the fusions replace.
        logging.disable(logging.WARNING)
        try:
            quantize_dynamic(self.float_onnx, path, weight_type=QuantType.QInt8, extra_options=options)
        finally:
            logging.disable(logging.NOTSET)
        return path

    @cached_property
    def integer_onnx(self) -> Path:
        """Intaglio's integer graph."""
        import onnx

        from intaglio.onnx.integer_graph import integer_onnx

        path = self.folder / "integer.onnx"
        onnx.save(integer_onnx(self.encoder, False), path)
        return path

    @cached_property
    def native_folder(self) -> Path:
        """The folder of Intaglio's native form: constants, its library taken from where it was built."""
        from intaglio.execution.native import write_constants
        from intaglio.native.runner import CONSTANTS

        folder = self.folder / "native"
        folder.mkdir()
        write_constants(self.encoder, folder / CONSTANTS)
        return folder

    @cached_property
    def openvino(self) -> Any:
        """OpenVINO's graph of the floating point model."""
        from openvino_forms import converted

        return converted(self.model, random_batch(self.model, (1, 32), "cpu", padded=False))

    @cached_property
    def openvino_int8(self) -> Any:
        """The same in 8 bits by NNCF: static, calibrated on random batches."""
        from openvino_forms import quantized

        batches = [
            random_batch(self.model, point, "cpu", padded=True, seed=seed) for seed, point in enumerate(CALIBRATION, 1)
        ]
        return quantized(self.openvino, batches)


def has_bf16() -> bool:
    """Return whether this processor has instructions for bfloat16; others compute it by way of float32."""
    return bool(instructions() & {"avx512_bf16", "amx_bf16", "bf16"})


def require_bf16() -> None:
    """Raise an error if this processor has no instructions for bfloat16."""
    if not has_bf16():
        raise RuntimeError("this processor has no bf16 instructions")


def _run(model: Any, batch: Batch) -> Tensor:
    logits: Tensor = model(**batch).logits
    return logits


def compiled(model: nn.Module, mode: str | None = None) -> Any:
    """Compile a model for each shape on its own; without `mode`, torch does not try kernels out."""
    # Every point is a shape of its own, and contenders share the code that is compiled.
    torch._dynamo.config.recompile_limit = 64
    return torch.compile(model, dynamic=False, mode=mode)


def _compiled_integer(models: Models) -> Call:
    model = copy.copy(models.integer)
    # In place, one program for all layers: compiling the whole model would unroll the layers and the parts of a large
    # batch.
    model.compile()
    return partial(_run, model)


def session_call(opened: Any) -> Call:
    """Return the call of an ONNX Runtime session, from tensors to tensors."""

    def call(batch: Batch) -> Tensor:
        (logits,) = opened.run(["logits"], {name: tensor.numpy() for name, tensor in batch.items()})
        return torch.from_numpy(logits)

    return call


def session(path: Path, threads: int, fitted: bool) -> Any:
    """Open a graph in ONNX Runtime, with the same options for all; `fitted` gives it signed weights if exact here."""
    from intaglio.onnx.session import open_session, session_options

    if fitted:
        return open_session(path, threads)
    import onnxruntime

    return onnxruntime.InferenceSession(str(path), session_options(threads), providers=["CPUExecutionProvider"])


def native_call(folder: Path, threads: int) -> Call:
    """Return the call of the native library, from tensors to tensors."""
    from intaglio.native.build import built
    from intaglio.native.runner import NativeModel

    model = NativeModel(folder, threads, library_file=built())

    def call(batch: Batch) -> Tensor:
        return torch.from_numpy(model(**{name: tensor.numpy() for name, tensor in batch.items()}))

    return call


def _openvino(models: Models, precision: str) -> Call:
    from openvino_forms import opened

    if precision == "bf16":
        require_bf16()
    return opened(models.openvino, models.threads, precision)


def _openvino_int8(models: Models) -> Call:
    from openvino_forms import opened

    # What is not in 8 bits is in OpenVINO's own default for the processor.
    return opened(models.openvino_int8, models.threads, "bf16" if has_bf16() else "f32")


def _torch_ao(models: Models) -> Call:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantized = torch.ao.quantization.quantize_dynamic(models.model, {nn.Linear}, dtype=torch.qint8)
    return partial(_run, quantized)


def _precise(model: Any, precision: str) -> Call:
    """Run a float32 model with its products in float32 ("highest") or TF32 ("high")."""

    def call(batch: Batch) -> Tensor:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(precision)
        try:
            return _run(model, batch)
        finally:
            torch.set_float32_matmul_precision(before)

    return call


FLOAT32_TORCH: dict[str, Build] = {
    "torch float32": lambda m: _precise(m.model, "highest"),
    "torch.compile float32": lambda m: _precise(compiled(m.model), "highest"),
}
BF16_TORCH: dict[str, Build] = {
    "torch bf16": lambda m: partial(_run, m.bf16),
    "torch.compile bf16": lambda m: partial(_run, compiled(m.bf16)),
}
FLOAT32: dict[str, Build] = {
    **FLOAT32_TORCH,
    "onnxruntime float32": lambda m: session_call(session(m.float_onnx, m.threads, fitted=False)),
    "openvino float32": lambda m: _openvino(m, "f32"),
}
FLOAT_CPU: dict[str, Build] = {
    **FLOAT32,
    **BF16_TORCH,
    "openvino bf16": lambda m: _openvino(m, "bf16"),
}
FLOAT_CUDA: dict[str, Build] = {
    **FLOAT32_TORCH,
    "torch tf32": lambda m: _precise(m.model, "high"),
    "torch.compile tf32": lambda m: _precise(compiled(m.model), "high"),
    **BF16_TORCH,
    # With CUDA graphs.
    "torch.compile bf16, reduce-overhead": lambda m: partial(_run, compiled(m.bf16, "reduce-overhead")),
}
# With CUDA graphs and the fastest of many kernels, which takes minutes to find: the last to be compiled.
AUTOTUNED: dict[str, Build] = {
    "torch.compile bf16, max-autotune": lambda m: partial(_run, compiled(m.bf16, "max-autotune")),
}
INT8: dict[str, Build] = {
    "openvino int8": _openvino_int8,
    "onnxruntime dynamic int8": lambda m: session_call(session(m.dynamic_onnx, m.threads, fitted=False)),
    "torch.ao dynamic int8": _torch_ao,
}
# What runs from an exported folder, without a compiler.
EXPORTED: dict[str, Build] = {
    "intaglio onnxruntime": lambda m: session_call(session(m.integer_onnx, m.threads, fitted=True)),
    "intaglio native": lambda m: native_call(m.native_folder, m.threads),
}
INTAGLIO_TORCH: dict[str, Build] = {
    "intaglio torch": lambda m: partial(_run, m.integer),
    "intaglio torch.compile": _compiled_integer,
}
INTAGLIO_CUDA: dict[str, Build] = {
    **INTAGLIO_TORCH,
    "intaglio torch.compile, CUDA graph": lambda m: Graphed(_compiled_integer(m)),
}
# For batches with padding.
BY_LENGTH: dict[str, Build] = {
    f"{name}, by length": lambda m, build=build: ByLength(build(m))  # type: ignore[misc]
    for name, build in {**FLOAT_CUDA, **INTAGLIO_CUDA}.items()
    if name in ("torch bf16", "torch.compile bf16", "intaglio torch.compile")
}
INTAGLIO = frozenset({**INTAGLIO_CUDA, **EXPORTED}) | {name for name in BY_LENGTH if name.startswith("intaglio")}
FLOAT = frozenset({**FLOAT_CPU, **FLOAT_CUDA, **AUTOTUNED}) | (BY_LENGTH.keys() - INTAGLIO)


def builders(device: str, padded: bool) -> dict[str, Build]:
    """Return what is compared on a device, by name."""
    if device == "cuda":
        return {**FLOAT_CUDA, **INTAGLIO_CUDA, **(BY_LENGTH if padded else {}), **AUTOTUNED}
    return {**FLOAT_CPU, **INT8, **INTAGLIO_TORCH, **EXPORTED}
