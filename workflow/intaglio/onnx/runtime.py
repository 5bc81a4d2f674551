"""ONNX Runtime sessions with the interface of torch modules."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch


class Output(NamedTuple):
    """Result of a model: `logits` float32 [batch, labels]."""

    logits: torch.Tensor


class OnnxModel:
    """An ONNX Runtime session that is called like a torch module, with tensors on the CPU."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self._names = [given.name for given in session.get_inputs()]

    def __call__(self, **inputs: torch.Tensor) -> Output:
        """Run the graph, without copying inputs or logits."""
        (logits,) = self.session.run(["logits"], {name: inputs[name].numpy() for name in self._names})
        return Output(torch.from_numpy(logits))
