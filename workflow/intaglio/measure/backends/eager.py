"""PyTorch in eager mode: transformers' model, the float encoder, or the integers of an integer checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.autograd.profiler import profile as profiled

from intaglio.checkpoint import Checkpoint
from intaglio.encoder.model import Encoder
from intaglio.execution.on_torch import IntegerModel, integer_model
from intaglio.measure.backends.base import Arrays, Backend, Operators, Tensors


def torch_module(checkpoint: Checkpoint, device: str = "cpu") -> torch.nn.Module:
    """Return the module that PyTorch executes: a checkpoint's float model, or its integer model.

    Raises:
        UserError: the checkpoint is damaged.
    """
    module: torch.nn.Module = checkpoint.load(device)
    if isinstance(module, Encoder) and module.shape.integer:
        # On the device already, since the choice of kernels depends on the device of the weights.
        return integer_model(module)
    return module


class Eager(Backend):
    """PyTorch, operator by operator."""

    def open(self, checkpoint: Checkpoint, export: Path, device: str, threads: int) -> Any:
        """See `Backend`."""
        module = torch_module(checkpoint, device)
        return module.bfloat16() if self.precision == "bfloat16" else module

    def open_resident(self, path: Path, export: Path, threads: int) -> Callable[[Arrays], Any]:
        """See `Backend`."""
        torch.set_num_threads(threads)
        model = self.open(Checkpoint(path), export, "cpu", threads)
        # Loading maps the file, so rows of the embeddings take memory only once they are used.
        module = self.module(model)
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.sum()

        def call(inputs: Arrays) -> None:
            with torch.inference_mode():
                model(**{name: torch.from_numpy(array) for name, array in inputs.items()})

        return call

    def forget(self) -> None:
        """See `Backend`."""
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()

    def operators(self, model: Any, inputs: Tensors, warmup: int, passes: int) -> Operators:
        """See `Backend`; on a GPU, time is that of the kernels that the operators launch."""
        on_gpu = inputs["input_ids"].is_cuda
        for _ in range(warmup):
            model(**inputs)
        # The core of torch.profiler, without its schedules and exports, which import the whole compiler.
        with profiled(use_device="cuda" if on_gpu else None, use_kineto=True) as profiler:
            for _ in range(passes):
                model(**inputs)
            if on_gpu:
                torch.cuda.synchronize()
        # On a GPU, kernels are listed in addition to the operators that launch them; they count once, with the
        # operators.
        events = [event for event in profiler.key_averages() if event.device_type.name == "CPU"]
        return {event.key: (event.count, _self_time_ms(event, on_gpu)) for event in events}

    def kernel(self, model: Any, operators: Mapping[str, float]) -> str:
        """See `Backend`."""
        module = self.module(model)
        if isinstance(module, IntegerModel):
            return ", ".join(module.kernels())
        return str(next(module.parameters()).dtype).removeprefix("torch.")

    def module(self, model: Any) -> torch.nn.Module:
        """Return the torch module behind an open model."""
        module: torch.nn.Module = model
        return module


def _self_time_ms(event: Any, on_gpu: bool) -> float:
    microseconds = event.self_device_time_total if on_gpu else event.self_cpu_time_total
    return float(microseconds) / 1000
