"""A floating-point classifier as an ONNX graph, in the operators that are fastest in ONNX Runtime."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from intaglio.encoder.files import CONFIG
from intaglio.errors import UserError

if TYPE_CHECKING:
    import onnx

OPSET = 20
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
LOGITS = "logits"
# Size of the traced inputs; both dimensions stay dynamic. Neither is 1, which tracing would take for a constant.
_EXAMPLE = (2, 5)


class _Logits(nn.Module):
    """The model as a function of tensors, in the order of the graph's inputs."""

    def __init__(self, model: nn.Module, inputs: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.inputs = tuple(inputs)

    def forward(self, *tensors: Tensor) -> Tensor:
        """Return the logits, [batch, labels]."""
        logits: Tensor = self.model(**dict(zip(self.inputs, tensors, strict=True))).logits
        return logits


def float_graph(checkpoint: Path, model: Any, inputs: Sequence[str]) -> onnx.ModelProto:
    """Return the graph of a float checkpoint's model; see `float_onnx`.

    Raises:
        UserError: torch cannot express the model in ONNX.
    """
    try:
        return float_onnx(model, inputs)
    except torch.onnx.OnnxExporterError as error:
        kind = json.loads((checkpoint / CONFIG).read_text())["model_type"]
        raise UserError(
            f"{checkpoint}: torch.onnx cannot export a {kind!r} "
            f"({str(error).strip().splitlines()[0]}); take a model of another type"
        ) from error


def graph_inputs(tokenizer: Any) -> list[str]:
    """Return the names of the inputs of a graph of a model with this tokenizer."""
    return [name for name in INPUTS if name in tokenizer.model_input_names]


def float_onnx(model: Any, inputs: Sequence[str]) -> onnx.ModelProto:
    """Convert a sequence classification model in floating point to an ONNX graph.

    Constants are folded. Attention, residual sums with LayerNorm, and GELU with its bias are fused into ONNX Runtime's
    operators of the domain com.microsoft, which every build has. They compute the same except for the order of
    summation.

    Args:
        model: of transformers, or an `Encoder`, in evaluation mode, on the CPU.
        inputs: names of its inputs: input_ids, attention_mask(, token_type_ids).

    Returns:
        A graph from those inputs, int64 [batch, length], both dynamic, to `logits`, float32 [batch, labels].
    """
    import onnx_ir
    from onnxscript.rewriter.ort_fusions import optimize_for_ort

    # All ones: a token id, a mask without padding, and a type that every model with types has.
    example = tuple(torch.ones(_EXAMPLE, dtype=torch.int64) for _ in inputs)
    dynamic = tuple({0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC} for _ in inputs)
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            _Logits(model, inputs).eval(),
            example,
            dynamo=True,
            input_names=list(inputs),
            output_names=[LOGITS],
            dynamic_shapes=(dynamic,),
            opset_version=OPSET,
            optimize=True,
            verbose=False,
        )
        assert program is not None
        # The metadata contains paths of this machine's Python files.
        fused, _ = optimize_for_ort(program.model, clear_metadata=True)
    return onnx_ir.to_proto(fused)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporter's log messages on missing libraries and on its own deprecations."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
