"""Training time and energy: of optimizer steps, without set-up, evaluation and saving, over all attempts."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from transformers import TrainerControl, TrainerState, TrainingArguments

from intaglio.meters import Meter, Tally
from intaglio.training.callback_state import StatefulCallback


class Clock(StatefulCallback):
    """Measure every optimizer step, from the end of the step before (data loading included) to its own end.

    The clock starts with the first step, stops between `pause` and the next step, and continues after a resumption from
    the seconds in the checkpoint. On CUDA, a step's end is an event in the stream, so the host does not wait for the
    device at each step; it waits once when the clock is paused.

    Meters, if there are any, count while the clock goes: to train once more for them would cost as much again.

    Attributes:
        seconds: of every step.
        energy: of all steps by the meter's name, as `Tally` has it.
    """

    saved: ClassVar[tuple[str, ...]] = ("seconds", "energy")

    def __init__(self, device: torch.device, by: Sequence[Meter] = ()) -> None:
        self.device = device
        self.seconds: list[float] = []
        self.energy: dict[str, dict[str, float]] = {}
        self._meters, self._tally = by, Tally((), self.energy)
        self._marks: list[Any] = []

    def on_train_begin(self, *given: Any, **more: Any) -> None:
        """Go on from the checkpoint; the machine's power at rest is measured first."""
        super().on_train_begin(*given, **more)
        self._tally = Tally(self._meters, self.energy)

    def on_step_begin(self, _args: TrainingArguments, _state: TrainerState, _control: TrainerControl, **_: Any) -> None:
        """Start the clock if it is stopped."""
        if not self._marks:
            self._marks.append(self._mark())
            self._tally.start()

    def on_step_end(self, _args: TrainingArguments, _state: TrainerState, _control: TrainerControl, **_: Any) -> None:
        """Record the end of a step."""
        self._marks.append(self._mark())
        self._tally.refresh()

    def on_train_end(self, _args: TrainingArguments, _state: TrainerState, _control: TrainerControl, **_: Any) -> None:
        """Stop the clock."""
        self.pause()

    def pause(self) -> None:
        """Stop until the next step begins; the recorded steps are converted to seconds."""
        if self._marks and self.device.type == "cuda":
            self._marks[-1].synchronize()
        self._tally.stop()
        for before, after in zip(self._marks, self._marks[1:], strict=False):
            # Microseconds are enough, and keep the checkpoint's state small.
            self.seconds.append(round(self._between(before, after), 6))
        self._marks.clear()

    def _mark(self) -> Any:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _between(self, before: Any, after: Any) -> float:
        seconds = before.elapsed_time(after) / 1000 if self.device.type == "cuda" else after - before
        return float(seconds)

    @property
    def total(self) -> float:
        """Seconds of all steps."""
        return sum(self.seconds)

    @property
    def mean(self) -> float:
        """Mean seconds per step."""
        return statistics.fmean(self.seconds) if self.seconds else 0.0

    @property
    def median(self) -> float:
        """Median seconds per step, which the slow first steps do not affect."""
        return statistics.median(self.seconds) if self.seconds else 0.0
