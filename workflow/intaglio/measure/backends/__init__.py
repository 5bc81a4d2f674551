"""Backends, which execute a model: one class each, imported on request.

This module does not import torch: a process that only runs a graph in ONNX Runtime does not need it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module

from intaglio.measure.backends.base import Backend

# Module and class by the name in profile.backends. The first one that runs a checkpoint on the CPU is the reference for
# the comparison of results.
REGISTRY: Mapping[str, str] = {
    "torch": "eager.Eager",
    "torch.compile": "compiled.Compiled",
    "torch.sparse": "sparse.Sparse",
    "onnxruntime": "onnx_runtime.OnnxRuntime",
}


@cache
def backend(name: str) -> Backend:
    """Return a backend by its name in profile.backends."""
    module, _, kind = REGISTRY[name].partition(".")
    made: Backend = getattr(import_module(f"{__name__}.{module}"), kind)()
    return made
