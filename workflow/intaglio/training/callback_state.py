"""State of Trainer callbacks in checkpoints, so that a resumed job continues as if it had not been interrupted."""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState


class StatefulCallback(TrainerCallback, ExportableState):  # type: ignore[misc]
    """A callback whose attributes named in `saved` (JSON values) are stored in checkpoints and restored on resumption.

    The Trainer stores the state of every `ExportableState`, but restores it by creating another callback object; here,
    the same object restores its state when training begins. Subclasses that override `on_train_begin` must call this
    one.
    """

    saved: ClassVar[tuple[str, ...]] = ()

    def state(self) -> dict[str, Any]:
        """Return the state for the Trainer to store."""
        return {"args": {}, "attributes": {name: getattr(self, name) for name in self.saved}}

    def on_train_begin(
        self, _args: TrainingArguments, state: TrainerState, _control: TrainerControl, /, **_: Any
    ) -> None:
        """Restore the state from the checkpoint; a fresh run keeps the initial values."""
        saved = state.stateful_callbacks.get(type(self).__name__, {}).get("attributes", {})
        for name, value in saved.items():
            setattr(self, name, value)
