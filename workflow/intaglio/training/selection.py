"""Selection on the validation split: when to evaluate, which weights are best, and when to stop."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

from transformers import TrainerControl, TrainerState, TrainingArguments

from intaglio.errors import UserError
from intaglio.metrics import named
from intaglio.training.callback_state import StatefulCallback


class TrainingFinished(Exception):  # noqa: N818  (no error)
    """A resumed training was complete already: its last step was done, or early stopping had decided."""


def evaluation_steps(total: int, steps_an_epoch: int, evaluations: int) -> list[int]:
    """Return the optimizer steps after which to evaluate: evenly spaced, including the last step.

    Args:
        total: number of optimizer steps of the training.
        steps_an_epoch: number of optimizer steps per epoch.
        evaluations: number of evaluations; 0 for one at the end of every epoch.
    """
    if evaluations == 0:
        return [*range(steps_an_epoch, total, steps_an_epoch), total]
    return sorted({max(1, round(total * number / evaluations)) for number in range(1, evaluations + 1)})


class Selection(StatefulCallback):
    """Evaluate at the given steps, keep the weights of the best evaluation, and stop early without improvement.

    Of equally good evaluations the first is kept, as the shortest training that reaches the value.
    """

    saved: ClassVar[tuple[str, ...]] = ("best_step", "best_value", "values", "evaluated", "stale", "stopped")

    def __init__(
        self, steps: list[int], metric: str, patience: int | None, keep: Callable[[int], None], begin: int = 0
    ) -> None:
        """Create the callback.

        Args:
            steps: steps after which to evaluate.
            metric: name of the metric that selects weights.
            patience: number of evaluations without improvement after which to stop.
            keep: called with the step whenever the present weights are the best so far.
            begin: first step whose weights may be selected; earlier evaluations are only logged.
        """
        self.steps = set(steps)
        self.metric = metric
        self._sign = 1.0 if named(metric).higher_is_better else -1.0
        self.patience = patience
        self.keep = keep
        self.begin = begin
        self.best_step = 0
        self.best_value: float | None = None
        self.values: dict[str, float] = {}
        self.evaluated = 0
        self.stale = 0
        self.stopped = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, /, **kwargs: Any
    ) -> None:
        """Restore the state, and make up for an evaluation that an interruption cut off."""
        super().on_train_begin(args, state, control, **kwargs)
        if self.stopped or state.global_step >= state.max_steps:
            control.should_training_stop = True
        args.eval_on_start = state.global_step in self.steps and self.evaluated < state.global_step

    def on_epoch_begin(self, _args: TrainingArguments, _state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """End a training that was complete when it was resumed: the Trainer would do one more step."""
        if control.should_training_stop:
            raise TrainingFinished

    def on_step_end(self, _args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Evaluate if it is due."""
        if state.global_step in self.steps:
            control.should_evaluate = True

    def on_evaluate(
        self,
        _args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float],
        **_: Any,
    ) -> None:
        """Compare an evaluation with the best one.

        Raises:
            UserError: the loss is not finite, nor are the weights then.
        """
        values = {name: metrics[f"eval_{name}"] for name in (self.metric, "loss")}
        if not math.isfinite(values["loss"]):
            raise UserError(
                f"training: the validation loss became {values['loss']} at step {state.global_step}; "
                "lower learning_rate, lengthen warmup, or check the model's weights"
            )
        value = -self._sign * math.inf if math.isnan(values[self.metric]) else values[self.metric]
        self.evaluated = state.global_step
        if state.global_step < self.begin:
            return
        if self.best_value is None or self._sign * value > self._sign * self.best_value:
            self.best_step, self.best_value, self.values, self.stale = state.global_step, value, values, 0
            self.keep(state.global_step)
            return
        self.stale += 1
        if self.patience is not None and self.stale >= self.patience:
            self.stopped = control.should_training_stop = True
