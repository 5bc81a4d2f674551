"""What every backend can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

    from intaglio.checkpoint import Checkpoint

# Inputs of a model by name, int64 [batch, length]: input_ids, attention_mask and, where the tokenizer makes them,
# token_type_ids.
Tensors = Mapping[str, "torch.Tensor"]
Arrays = Mapping[str, NDArray[np.int64]]
# Calls and time within the operator itself, ms, by the operator's name.
Operators = dict[str, tuple[int, float]]


class Backend(ABC):
    """What executes a model; integer checkpoints are executed on integers, and nothing that is timed is simulated.

    Attributes:
        devices: on which it can run at all.
    """

    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")

    def missing(self) -> str | None:
        """Return what this machine lacks to run it, in words; None if nothing."""
        return None

    def refusal(self, checkpoint: Checkpoint) -> str | None:
        """Return in a line why it does not run a checkpoint; None where it does."""
        return None

    def failure(self, error: Exception) -> str | None:
        """Return in a line why a model's first call may fail here without a defect of the model; None if it is one."""
        return None

    @abstractmethod
    def open(self, checkpoint: Checkpoint, export: Path, device: str, threads: int) -> Any:
        """Return a model in evaluation mode.

        Args:
            checkpoint: what was trained.
            export: the [export] artifact made of it.
            device: one of `devices`.
            threads: CPU threads; torch has its own number already.

        Returns:
            A callable that takes `Tensors` on the device as keywords; its result has `logits` ([batch, labels]).

        Raises:
            UserError: an artifact is damaged.
        """

    @abstractmethod
    def open_resident(self, path: Path, export: Path, threads: int) -> Callable[[Arrays], Any]:
        """Return a model on the CPU with all its weights in memory, as a function of arrays.

        `path` is that of the [checkpoint]. Its memory is measured in a process of its own, which should import no more
        than running it takes.
        """

    def forget(self) -> None:  # noqa: B027 (most backends keep nothing)
        """Let go of what outlives a model: compiled programs, caches."""

    @abstractmethod
    def operators(self, model: Any, inputs: Tensors, warmup: int, passes: int) -> Operators:
        """Return the operators of so many calls of an open model, after some to warm up."""

    @abstractmethod
    def kernel(self, model: Any, operators: Mapping[str, float]) -> str:
        """Return the kernels that multiply weights in an open model, comma-separated.

        Args:
            model: what `open` returned.
            operators: time by the operator's name, as profiled.
        """
