"""The interface of backends."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from intaglio.machine import instructions

if TYPE_CHECKING:
    import torch

    from intaglio.checkpoint import Checkpoint

# Inputs of a model by name, int64 [batch, length]: input_ids, attention_mask and, if the tokenizer makes them,
# token_type_ids.
Tensors = Mapping[str, "torch.Tensor"]
Arrays = Mapping[str, NDArray[np.int64]]
# Calls and self time in ms, by the operator's name.
Operators = dict[str, tuple[int, float]]
# In which a backend computes; "integer" is for those that only run models on integers.
Precision = Literal["float32", "bfloat16", "float16", "integer"]
# Instruction sets that multiply in bfloat16: Linux's names for x86, then for Arm.
_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}


class Backend(ABC):
    """Executes models; integer checkpoints run on integers, as nothing that is timed is simulated.

    Attributes:
        devices: the devices that it supports.
        engine: the engine of those models of 8 bits that it runs.
        recompiles: whether every new shape of inputs takes it seconds.
        precision: in which it computes a model in floating point.
    """

    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")
    engine: ClassVar[str | None] = None
    recompiles: ClassVar[bool] = False

    def __init__(self, precision: Precision = "float32") -> None:
        self.precision = precision

    def missing(self, device: str) -> str | None:
        """Return what this machine lacks for the backend on one of its devices, in words; None if nothing."""
        return lacking_bfloat16(device) if self.precision == "bfloat16" else None

    def refusal(self, checkpoint: Checkpoint) -> str | None:
        """Return in one line why it cannot run a checkpoint; None if it can."""
        if checkpoint.engine is not None and checkpoint.engine != self.engine:
            return f"only {checkpoint.engine} runs this model of 8 bits"
        if self.precision == "bfloat16" and checkpoint.is_quantized:
            return "bf16 is a form of models in floating point"
        return None

    def failure(self, error: Exception) -> str | None:
        """Return in one line why a model could not be opened, or its first call failed; None if it is a defect."""
        return None

    @abstractmethod
    def open(self, checkpoint: Checkpoint, export: Path, device: str, threads: int) -> Any:
        """Return a model in evaluation mode.

        Args:
            checkpoint: the trained model.
            export: the [export] artifact of the checkpoint.
            device: one of `devices`.
            threads: number of CPU threads; torch's own number is set already.

        Returns:
            A callable that takes `Tensors` on the device as keywords; its result has `logits` ([batch, labels]).

        Raises:
            UserError: an artifact is damaged.
        """

    @abstractmethod
    def open_resident(self, path: Path, export: Path, threads: int) -> Callable[[Arrays], Any]:
        """Return a model on the CPU with all its weights in memory, as a function of arrays.

        `path` is that of the [checkpoint]. The memory is measured in a separate process, which should import no more
        than the model needs to run.
        """

    def forget(self) -> None:  # noqa: B027 (most backends keep nothing)
        """Free what outlives a model: compiled programs, caches."""

    @abstractmethod
    def operators(self, model: Any, inputs: Tensors, warmup: int, passes: int) -> Operators:
        """Profile calls of an open model, after warm-up; return its operators."""

    @abstractmethod
    def kernel(self, model: Any, operators: Mapping[str, float]) -> str:
        """Return the kernels that multiply weights in an open model, comma-separated.

        Args:
            model: the result of `open`.
            operators: time by the operator's name, from the profile.
        """


def lacking_bfloat16(device: str) -> str | None:
    """Return what a device lacks to multiply in bfloat16, in words; None if nothing."""
    if device == "cpu":
        return None if _BFLOAT16 & instructions() else "no bf16 instructions of the processor (avx512_bf16, amx_bf16)"
    import torch

    # Emulated bf16 would be slower than float32.
    return None if torch.cuda.is_bf16_supported(including_emulation=False) else "no bf16 on the GPU"
