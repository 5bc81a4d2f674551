"""What a callback of the Trainer keeps in a checkpoint, so that a resumed job goes on as if it had never stopped."""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState


class Remembering(TrainerCallback, ExportableState):  # type: ignore[misc]
    """A callback whose attributes named in `remembered` (JSON values) are saved in checkpoints and set on resuming.

    The Trainer saves the state of every `ExportableState`, but restores it by making another callback object; here the
    same object takes its state back when training begins. A subclass that has its own `on_train_begin` calls this one.
    """

    remembered: ClassVar[tuple[str, ...]] = ()

    def state(self) -> dict[str, Any]:
        """Return what the Trainer shall save."""
        return {"args": {}, "attributes": {name: getattr(self, name) for name in self.remembered}}

    def on_train_begin(
        self, _args: TrainingArguments, state: TrainerState, _control: TrainerControl, /, **_: Any
    ) -> None:
        """Take over what the checkpoint remembers; of a fresh run, this callback's own initial values."""
        saved = state.stateful_callbacks.get(type(self).__name__, {}).get("attributes", {})
        for name, value in saved.items():
            setattr(self, name, value)
