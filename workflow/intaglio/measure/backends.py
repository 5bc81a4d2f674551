"""What executes a model: PyTorch as it is, PyTorch compiled, or ONNX Runtime. All are called alike.

An integer checkpoint of ours is executed on integers here, whatever the backend; nothing that is timed is simulated.
"""

from __future__ import annotations

import gc
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from intaglio.encoder.model import Encoder
from intaglio.errors import UserError
from intaglio.measure.models import is_int8, load_model, load_tokenizer
from intaglio.measure.semi_structured import fitting_layers, has_sparse_cores, semi_structured
from intaglio.onnx.runtime import OnnxModel
from intaglio.onnx.session import MODEL, open_session

TORCH, COMPILED, SPARSE, ONNXRUNTIME = "torch", "torch.compile", "torch.sparse", "onnxruntime"
log = logging.getLogger(__name__)


class Place(NamedTuple):
    """What computes: a backend on a device."""

    backend: str
    device: str


@dataclass(frozen=True)
class Opened:
    """A model in a backend.

    Attributes:
        place: the backend and the device.
        model: called with input_ids, attention_mask and, where the tokenizer makes them, token_type_ids (int64,
            [batch, length], on the device); its output has `logits` ([batch, labels]).
        tokenizer: the checkpoint's.
        module: the torch module behind it; None where there is none.
    """

    place: Place
    model: Any
    tokenizer: Any
    module: torch.nn.Module | None = None


class Compiled:
    """A torch module that is compiled for every shape of its inputs anew, and for that one alone.

    Left to itself, torch keeps a few shapes and runs the next ones uncompiled.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        self.module = module
        self._shape: torch.Size | None = None

    def __call__(self, **inputs: torch.Tensor) -> Any:
        """Call the program for these inputs, after compiling it where the last call's shape was another."""
        shape = inputs["input_ids"].shape
        if shape != self._shape:
            torch.compiler.reset()
            # In place, as the module itself would have it: ours compiles one layer for all.
            self.module.compile(dynamic=False)
            self._shape = shape
        return self.module(**inputs)


def places_of(checkpoint: Path, backends: Sequence[str], devices: Sequence[str]) -> list[Place]:
    """Return where a checkpoint can run; say in one line what is left out.

    Raises:
        UserError: it is of 8 bits, and the only backend that can run it is not asked for.
    """
    if not is_int8(checkpoint):
        found = places(backends, devices)
        sparse = any(place.backend == SPARSE for place in found) and bool(fitting_layers(load_model(checkpoint)))
        return [place for place in found if place.backend != SPARSE or sparse]
    if ONNXRUNTIME not in backends:
        raise UserError(f"profile.backends: {checkpoint} is of 8 bits, and only onnxruntime runs it; add onnxruntime")
    others = [backend for backend in backends if backend != ONNXRUNTIME]
    if others:
        log.warning("%s: only onnxruntime runs a model of 8 bits; %s left out", checkpoint, ", ".join(others))
    return places([ONNXRUNTIME], devices)


def places(backends: Sequence[str], devices: Sequence[str]) -> list[Place]:
    """Return which of the wanted backends can run on which device; say so in one line where a compiler is missing."""
    found = [Place(backend, device) for device in devices for backend in backends if _belongs(backend, device)]
    if any(place.backend == COMPILED for place in found) and not _has_compiler():
        log.warning("profile.backends: no C++ compiler (g++ or clang++) for torch.compile; it is left out")
        found = [place for place in found if place.backend != COMPILED]
    return found


def _belongs(backend: str, device: str) -> bool:
    if backend == SPARSE:
        return device == "cuda" and has_sparse_cores()
    return backend != ONNXRUNTIME or device == "cpu"


def _has_compiler() -> bool:
    names = (os.environ.get("CXX", ""), "g++", "clang++")
    return any(shutil.which(name) for name in names if name)


def torch_module(checkpoint: Path, device: str = "cpu") -> torch.nn.Module:
    """Return what PyTorch executes of a checkpoint: transformers' model, or for an integer one integers.

    Raises:
        UserError: the checkpoint is damaged.
    """
    module: torch.nn.Module = load_model(checkpoint, device)
    if isinstance(module, Encoder) and module.shape.integer:
        from intaglio.execution.on_torch import integer_model

        # On the device already: which kernels it takes depends on where the weights are.
        module = integer_model(module)
    return module


@contextmanager
def opened(place: Place, checkpoint: Path, export: Path, threads: int) -> Iterator[Opened]:
    """Open a checkpoint in a backend; on leaving, give its memory and its threads back.

    Args:
        place: the backend and the device.
        checkpoint: a [checkpoint] artifact.
        export: the [export] artifact made of it.
        threads: of ONNX Runtime; torch has those of `cpu_threads`.

    Raises:
        UserError: an artifact is damaged.
    """
    try:
        yield _open(place, checkpoint, export, threads)
    finally:
        gc.collect()
        if place.backend == COMPILED:
            torch.compiler.reset()
        if place.device == "cuda":
            torch.cuda.empty_cache()


def _open(place: Place, checkpoint: Path, export: Path, threads: int) -> Opened:
    tokenizer = load_tokenizer(checkpoint)
    if place.backend == ONNXRUNTIME:
        return Opened(place, OnnxModel(open_session(export / MODEL, threads)), tokenizer)
    if place.backend == SPARSE:
        module = semi_structured(load_model(checkpoint))
        return Opened(place, module, tokenizer, module)
    module = torch_module(checkpoint, place.device)
    return Opened(place, Compiled(module) if place.backend == COMPILED else module, tokenizer, module)
