"""The progress of a training: a bar on stderr, with few redraws if stderr is a log file, and a journal for others."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm  # type: ignore[import-untyped]
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from intaglio import ranks
from intaglio.journal import note

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
        self._shown |= {name: f"{value:.4g}" for name, value in _told(logs).items()}
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


class Journal(TrainerCallback):  # type: ignore[misc]
    """Notes steps, losses and validation metrics in a training's work folder, see `intaglio.journal`."""

    def __init__(self, work: Path) -> None:
        self._work = work

    def on_train_begin(self, _args: TrainingArguments, state: TrainerState, _control: TrainerControl, **_: Any) -> None:
        """Note that an attempt begins."""
        self._note(state, {})

    def on_log(
        self,
        _args: TrainingArguments,
        state: TrainerState,
        _control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Note the loss, or the validation metrics."""
        if told := _told(logs):
            self._note(state, told)

    def _note(self, state: TrainerState, values: dict[str, float]) -> None:
        if ranks.is_first():
            note(self._work, state.global_step, state.max_steps, values)


def _told(logs: dict[str, float] | None) -> dict[str, float]:
    """Return what the Trainer's logs tell a user."""
    hidden = ("runtime", "per_second", "train_", "total_flos", "epoch", "grad_norm", "preparation_time")
    shown = {name: value for name, value in (logs or {}).items() if not any(part in name for part in hidden)}
    return {name.replace("eval_", "validation_"): value for name, value in shown.items()}
