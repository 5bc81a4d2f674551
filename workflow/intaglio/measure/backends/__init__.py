"""Backends, which execute a model: one class each, imported on request.

This module does not import torch: a process that only runs a graph in ONNX Runtime does not need it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import NamedTuple

from intaglio.measure.backends.base import Backend, Precision


class Registered(NamedTuple):
    """A backend that is not imported yet.

    Attributes:
        path: its module and class.
        precision: in which it computes models in floating point.
    """

    path: str
    precision: Precision = "float32"


# By the name in profile.backends. The first one that runs a checkpoint on the CPU is the reference that results are
# compared with.
REGISTRY: Mapping[str, Registered] = {
    "torch": Registered("eager.Eager"),
    "torch.compile": Registered("compiled.Compiled"),
    "torch.sparse": Registered("sparse.Sparse", "float16"),
    "onnxruntime": Registered("onnx_runtime.OnnxRuntime"),
    "openvino": Registered("openvino_runtime.OpenVino"),
    "native": Registered("native.Native", "integer"),
    "torch-bf16": Registered("eager.Eager", "bfloat16"),
    "torch.compile-bf16": Registered("compiled.Compiled", "bfloat16"),
    "openvino-bf16": Registered("openvino_runtime.OpenVino", "bfloat16"),
}


@cache
def backend(name: str) -> Backend:
    """Return a backend by its name in profile.backends."""
    path, precision = REGISTRY[name]
    module, _, kind = path.partition(".")
    made: Backend = getattr(import_module(f"{__name__}.{module}"), kind)(precision)
    return made
