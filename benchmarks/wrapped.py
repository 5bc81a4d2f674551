"""Calls of a model in another way: without padding, and as a CUDA graph."""

from __future__ import annotations

import torch
from shapes import Batch, Call
from torch import Tensor


class ByLength:
    """A call for each length that occurs in a batch, without padding: what a user has who sorts by length.

    The parts are made in the first call with a batch, as a data loader would have made them.
    """

    def __init__(self, call: Call) -> None:
        self.call = call
        self._batch: Batch | None = None

    def __call__(self, batch: Batch) -> Tensor:
        """Return the logits in the order of the batch."""
        if batch is not self._batch:
            self._batch = batch
            lengths = batch["attention_mask"].sum(1)
            places = [torch.nonzero(lengths == length).flatten() for length in lengths.unique().tolist()]
            self._order = torch.cat(places).argsort()
            self._parts = [{"input_ids": batch["input_ids"][at, : int(lengths[at[0]])].contiguous()} for at in places]
        return torch.cat([self.call(part) for part in self._parts])[self._order]


class Graphed:
    """A call recorded as a CUDA graph for each batch, so that its kernels are launched at once."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self._batch: Batch | None = None

    def __call__(self, batch: Batch) -> Tensor:
        """Return the logits; the next call overwrites them."""
        if batch is not self._batch:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    self.call(batch)
            torch.cuda.current_stream().wait_stream(side)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._logits = self.call(batch)
            self._batch = batch
        self._graph.replay()
        return self._logits
