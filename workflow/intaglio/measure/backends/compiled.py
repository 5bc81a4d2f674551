"""PyTorch with torch.compile, compiled for every shape of the inputs."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, ClassVar

import torch

from intaglio.checkpoint import Checkpoint
from intaglio.measure.backends.eager import Eager


class CompiledModule:
    """A torch module that is compiled for each shape of its inputs, and only for that shape.

    By default, torch would keep a few shapes and run further ones uncompiled. Modules that are called in turns keep
    their programs while all take the same shape.
    """

    # Of the last call of any module: to forget programs, torch forgets those of all modules.
    _latest: ClassVar[torch.Size | None] = None

    def __init__(self, module: torch.nn.Module) -> None:
        self.module = module
        self._shape: torch.Size | None = None

    def __call__(self, **inputs: torch.Tensor) -> Any:
        """Call the program for these inputs; compile it first if the shape differs from the last call's."""
        shape = inputs["input_ids"].shape
        if shape != CompiledModule._latest:
            torch.compiler.reset()
            CompiledModule._latest = shape
        if shape != self._shape:
            # In place, as the module's own method defines it: the integer model compiles one program for all layers.
            self.module.compile(dynamic=False)
            self._shape = shape
        return self.module(**inputs)


class Compiled(Eager):
    """torch.compile."""

    recompiles = True

    def missing(self, device: str) -> str | None:
        """See `Backend`."""
        names = (os.environ.get("CXX", ""), "g++", "clang++")
        if not any(shutil.which(name) for name in names if name):
            return "no C++ compiler (g++ or clang++)"
        return super().missing(device)

    def failure(self, error: Exception) -> str | None:
        """See `Backend`."""
        # Only if something was compiled, since the import takes as long as torch's own.
        from torch._dynamo.exc import TorchDynamoException

        if not isinstance(error, TorchDynamoException):
            return None
        return (str(error).splitlines() or [type(error).__name__])[0]

    def open(self, checkpoint: Checkpoint, export: Path, device: str, threads: int) -> Any:
        """See `Backend`."""
        return CompiledModule(super().open(checkpoint, export, device, threads))

    def forget(self) -> None:
        """See `Backend`."""
        torch.compiler.reset()
        super().forget()

    def module(self, model: Any) -> torch.nn.Module:
        """See `Eager`."""
        return super().module(model.module)
