"""OpenVINO's forms of a model: float32, bf16, and 8 bits by NNCF."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from intaglio.openvino.session import import_openvino

Batch = dict[str, Tensor]


def converted(model: torch.nn.Module, example: Batch) -> Any:
    """Return OpenVINO's graph of a torch model, for any batch size and length."""
    openvino = import_openvino()
    # The tracer warns of every size that Python sees.
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        return openvino.convert_model(model, example_input=example)


def quantized(graph: Any, batches: Sequence[Batch]) -> Any:
    """Return the graph in 8 bits: NNCF's static quantization for transformers, with ranges from these batches."""
    # It keeps both from reporting their use.
    import_openvino()
    import nncf

    nncf.set_log_level(logging.ERROR)
    arrays = [{name: tensor.numpy() for name, tensor in batch.items()} for batch in batches]
    # NNCF prints progress bars.
    with contextlib.redirect_stdout(io.StringIO()):
        return nncf.quantize(graph, nncf.Dataset(arrays), model_type=nncf.ModelType.TRANSFORMER)


def opened(graph: Any, threads: int, precision: str) -> Any:
    """Return the call of a graph on the CPU, from tensors to tensors.

    Args:
        graph: of `converted` or `quantized`.
        threads: that compute.
        precision: "f32" or "bf16", of what is not in 8 bits.
    """
    config = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": precision,
    }
    request = import_openvino().Core().compile_model(graph, "CPU", config).create_infer_request()

    def call(batch: Batch) -> Tensor:
        results = request.infer({name: tensor.numpy() for name, tensor in batch.items()}, share_inputs=True)
        return torch.from_numpy(results["logits"])

    return call
