"""The native library on the CPU, which executes the native form of an exported integer model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from intaglio.measure.backends.base import Arrays, Backend, Operators, Tensors
from intaglio.native.runner import FORM, NativeModel

if TYPE_CHECKING:
    from intaglio.checkpoint import Checkpoint


class Native(Backend):
    """An exported integer model in the native library."""

    devices = ("cpu",)

    def refusal(self, checkpoint: Checkpoint) -> str | None:
        """See `Backend`."""
        return None if checkpoint.integers else "the native library runs integer models only"

    def failure(self, error: Exception) -> str | None:
        """See `Backend`."""
        return str(error) if isinstance(error, _MissingFormError) else None

    def open(self, checkpoint: Checkpoint, export: Path, device: str, threads: int) -> Any:
        """See `Backend`."""
        return _Opened(export, threads)

    def open_resident(self, path: Path, export: Path, threads: int) -> Callable[[Arrays], Any]:
        """See `Backend`; it imports no torch."""
        model = NativeModel(export / FORM, threads)
        return lambda inputs: model(**inputs)

    def operators(self, model: Any, inputs: Tensors, warmup: int, passes: int) -> Operators:
        """See `Backend`; operators are those that the library fuses."""
        for _ in range(warmup):
            model(**inputs)
        before = model.model.operators()
        for _ in range(passes):
            model(**inputs)
        after = model.model.operators()
        return {name: (after[name][0] - calls, after[name][1] - time) for name, (calls, time) in before.items()}

    def kernel(self, model: Any, operators: Mapping[str, float]) -> str:
        """See `Backend`; the instruction set."""
        return f"native {model.model.instructions}"


class _MissingFormError(Exception):
    """The export has no native form, as there was no compiler."""


class _Opened:
    """A model that takes tensors, as others do."""

    def __init__(self, export: Path, threads: int) -> None:
        self.model = NativeModel(export / FORM, threads) if (export / FORM).is_dir() else None

    def __call__(self, **inputs: Any) -> Any:
        """Return an object with `logits`, float32 [batch, labels].

        Raises:
            _MissingFormError: the export has no native form.
        """
        import torch
        from transformers.modeling_outputs import SequenceClassifierOutput

        if self.model is None:
            raise _MissingFormError("exported without its native form, for there was no C++ compiler; install g++ 12")
        logits = self.model(**{name: tensor.numpy() for name, tensor in inputs.items()})
        return SequenceClassifierOutput(logits=torch.from_numpy(logits))
