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
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from intaglio.arithmetic.operations import OPERATIONS
from intaglio.encoder.files import convert
from intaglio.encoder.model import Encoder

Batch = dict[str, Tensor]
Call = Callable[[Batch], Tensor]
Build = Callable[["Models"], Call]
# (batch size, length)
Point = tuple[int, int]

MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
ROBERTA = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1, "pad_token_id": 1}
SHAPES = ("roberta-base", "minilm")


def random_model(shape: str, layers: int | None) -> Any:
    """Return a transformers classifier with random weights, in evaluation mode; `layers` None is the shape's own."""
    torch.manual_seed(0)
    depth = {} if layers is None else {"num_hidden_layers": layers}
    model: Any
    if shape == "minilm":
        model = BertForSequenceClassification(BertConfig(**{**MINILM, **depth}))
    else:
        model = RobertaForSequenceClassification(RobertaConfig(**{**ROBERTA, **depth}))
    return model.eval()


def random_batch(model: Any, point: Point, device: str, padded: bool) -> Batch:
    """Return random tokens [batch, length], int64; with `padded`, a quarter of the examples end at half the length."""
    batch_size, length = point
    generator = torch.Generator().manual_seed(batch_size * 1000 + length)
    input_ids = torch.randint(5, 20000, (batch_size, length), generator=generator)
    attention_mask = torch.ones_like(input_ids)
    if padded:
        attention_mask[: batch_size // 4, length // 2 :] = 0
        input_ids[attention_mask == 0] = model.config.pad_token_id
    return {"input_ids": input_ids.to(device), "attention_mask": attention_mask.to(device)}


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


def _run(model: Any, batch: Batch) -> Tensor:
    logits: Tensor = model(**batch).logits
    return logits


def compiled(model: nn.Module) -> Any:
    """Compile a model for each shape on its own: the fastest that torch.compile makes without trying kernels out."""
    # Every point is a shape of its own, and contenders share the code that is compiled.
    torch._dynamo.config.recompile_limit = 64
    return torch.compile(model, dynamic=False)


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


INTAGLIO_TORCH: dict[str, Build] = {
    "intaglio torch": lambda m: partial(_run, m.integer),
    "intaglio torch.compile": _compiled_integer,
}
INTAGLIO: dict[str, Build] = {
    **INTAGLIO_TORCH,
    "intaglio onnxruntime": lambda m: session_call(session(m.integer_onnx, m.threads, fitted=True)),
}
FLOAT_CPU: dict[str, Build] = {
    "torch float": lambda m: partial(_run, m.model),
    "torch.compile float": lambda m: partial(_run, compiled(m.model)),
}
DYNAMIC: dict[str, Build] = {
    "onnxruntime dynamic int8": lambda m: session_call(session(m.dynamic_onnx, m.threads, fitted=False)),
    "torch.ao dynamic int8": _torch_ao,
}
OTHERS_CPU: dict[str, Build] = {
    "onnxruntime float": lambda m: session_call(session(m.float_onnx, m.threads, fitted=False)),
    **DYNAMIC,
}
FLOAT_CUDA: dict[str, Build] = {
    "torch fp32": lambda m: _precise(m.model, "highest"),
    "torch.compile fp32": lambda m: _precise(compiled(m.model), "highest"),
    "torch tf32": lambda m: _precise(m.model, "high"),
    "torch.compile tf32": lambda m: _precise(compiled(m.model), "high"),
    "torch bf16": lambda m: partial(_run, m.bf16),
    "torch.compile bf16": lambda m: partial(_run, compiled(m.bf16)),
}
FLOAT = {**FLOAT_CPU, **FLOAT_CUDA}


def builders(device: str) -> dict[str, Build]:
    """Return what is compared on a device, by name."""
    return {**FLOAT_CUDA, **INTAGLIO_TORCH} if device == "cuda" else {**FLOAT_CPU, **OTHERS_CPU, **INTAGLIO}
