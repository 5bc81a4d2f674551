"""A floating-point classifier as an ONNX graph, in the operators that ONNX Runtime is fastest with."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    import onnx

OPSET = 20
OUTPUT = "logits"
# What the graph is traced with; both sizes stay dynamic. Neither is 1, which tracing would take for a constant.
_EXAMPLE = (2, 5)


class _Logits(nn.Module):
    """The model as a function of tensors in the order of the graph's inputs."""

    def __init__(self, model: nn.Module, inputs: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.inputs = tuple(inputs)

    def forward(self, *tensors: Tensor) -> Tensor:
        """Return the logits, [batch, labels]."""
        logits: Tensor = self.model(**dict(zip(self.inputs, tensors, strict=True))).logits
        return logits


def float_onnx(model: Any, inputs: Sequence[str]) -> onnx.ModelProto:
    """Return a sequence classification model of floating point as an ONNX graph.

    Constants are folded; attention, the residual sums with LayerNorm, and GELU with its bias are fused into ONNX
    Runtime's operators of domain com.microsoft, which every build of it has. They compute the same but for the order of
    summation.

    Args:
        model: of transformers or an encoder of ours, in evaluation mode, on the CPU.
        inputs: names of its inputs: input_ids, attention_mask(, token_type_ids).

    Returns:
        A graph from those inputs, int64 [batch, length], both dynamic, to `logits`, float32 [batch, labels].
    """
    import onnx_ir
    from onnxscript.rewriter.ort_fusions import optimize_for_ort

    # Ones: a token, a mask without padding, and types that every model with types has.
    example = tuple(torch.ones(_EXAMPLE, dtype=torch.int64) for _ in inputs)
    dynamic = tuple({0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC} for _ in inputs)
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            _Logits(model, inputs).eval(),
            example,
            dynamo=True,
            input_names=list(inputs),
            output_names=[OUTPUT],
            dynamic_shapes=(dynamic,),
            opset_version=OPSET,
            optimize=True,
            verbose=False,
        )
        assert program is not None
        # The metadata would hold the paths of this machine's Python files.
        fused, _ = optimize_for_ort(program.model, clear_metadata=True)
    return onnx_ir.to_proto(fused)


@contextmanager
def _quiet() -> Iterator[None]:
    """Spare the log what the exporter says of libraries that are not there, and of its own deprecations."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
