"""OpenVINO models with the interface of torch modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from intaglio.onnx.runtime import Output


class OpenVinoModel:
    """An OpenVINO model that is called like a torch module, with tensors on the CPU.

    Attributes:
        file: its file.
        compiled: the compiled model.
        request: an inference request of it, which all calls use.
    """

    def __init__(self, file: Path, compiled: Any) -> None:
        self.file = file
        self.compiled = compiled
        self.request = compiled.create_infer_request()
        self._names = [given.any_name for given in compiled.inputs]

    def __call__(self, **inputs: torch.Tensor) -> Output:
        """Run the model, without copying its inputs."""
        found = self.request.infer({name: inputs[name].numpy() for name in self._names}, share_inputs=True)
        return Output(torch.from_numpy(found["logits"]))
