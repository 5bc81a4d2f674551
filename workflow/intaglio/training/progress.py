"""The progress bar of a training, on stderr, with few redraws if stderr is a log file."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm  # type: ignore[import-untyped]
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

# Seconds between redraws, as a log file keeps each one as a line.
_TERMINAL, _LOG_FILE = 0.1, 30.0


class ProgressBar(TrainerCallback):  # type: ignore[misc]
    """Steps done, remaining time, and the last loss and validation metrics."""

    def __init__(self, description: str) -> None:
        self.description = description
        self._bar: Any = None

    def on_train_begin(self, _args: TrainingArguments, state: TrainerState, _control: TrainerControl, **_: Any) -> None:
        """Draw the bar; a resumed training begins at its last step."""
        self._bar = tqdm(
            desc=self.description,
            total=state.max_steps,
            initial=state.global_step,
            unit="step",
            file=sys.stderr,
            dynamic_ncols=True,
            mininterval=_TERMINAL if sys.stderr.isatty() else _LOG_FILE,
        )
        self._shown: dict[str, str] = {}

    def on_step_end(self, _args: TrainingArguments, state: TrainerState, _control: TrainerControl, **_: Any) -> None:
        """Advance by a step."""
        self._bar.update(state.global_step - self._bar.n)

    def on_log(
        self,
        _args: TrainingArguments,
        _state: TrainerState,
        _control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Show the loss and the validation metrics."""
        hidden = ("runtime", "per_second", "train_", "total_flos", "epoch", "grad_norm", "preparation_time")
        for name, value in (logs or {}).items():
            if not any(part in name for part in hidden):
                self._shown[name.replace("eval_", "validation_")] = f"{value:.4g}"
        if self._bar is not None:
            self._bar.set_postfix(self._shown, refresh=False)

    def on_train_end(self, _args: TrainingArguments, _state: TrainerState, _control: TrainerControl, **_: Any) -> None:
        """Keep the last state of the bar."""
        self.close()

    def close(self) -> None:
        """Keep the last state of the bar, also after an error."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
