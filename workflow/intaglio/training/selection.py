"""When the validation split is looked at, which weights are best on it, and when to stop."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

from transformers import TrainerControl, TrainerState, TrainingArguments

from intaglio.errors import UserError
from intaglio.metrics import named
from intaglio.training.callback_state import Remembering


class Finished(Exception):  # noqa: N818  (no error)
    """A resumed training has nothing left to do: its last step was taken, or early stopping had decided."""


def evaluation_steps(total: int, steps_an_epoch: int, evaluations: int) -> list[int]:
    """Return the optimizer steps after which to evaluate: evenly spaced, the last step always among them.

    Args:
        total: optimizer steps of the training.
        steps_an_epoch: optimizer steps of a pass over the data.
        evaluations: how many; 0 means one at the end of every epoch.
    """
    if evaluations == 0:
        return [*range(steps_an_epoch, total, steps_an_epoch), total]
    return sorted({max(1, round(total * number / evaluations)) for number in range(1, evaluations + 1)})


class Selection(Remembering):
    """Evaluate at the given steps, keep the weights of the best evaluation, stop when it gets no better.

    Of equally good evaluations the first is kept: the shortest training that reaches that value.
    """

    remembered: ClassVar[tuple[str, ...]] = ("best_step", "best_value", "values", "evaluated", "stale", "stopped")

    def __init__(
        self, steps: list[int], metric: str, patience: int | None, keep: Callable[[int], None], begin: int = 0
    ) -> None:
        """Set up.

        Args:
            steps: after which to evaluate.
            metric: by which weights are chosen, a name among the evaluation's metrics.
            patience: stop after so many evaluations without improvement.
            keep: called with the step whenever the model's present weights are the best so far.
            begin: the first step whose weights may be chosen; earlier evaluations are logged and judged by nobody.
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
        """Remember; and make up for an evaluation that an interruption cut off."""
        super().on_train_begin(args, state, control, **kwargs)
        if self.stopped or state.global_step >= state.max_steps:
            control.should_training_stop = True
        args.eval_on_start = state.global_step in self.steps and self.evaluated < state.global_step

    def on_epoch_begin(self, _args: TrainingArguments, _state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """End a training that was over when it was resumed: the Trainer would take one more step."""
        if control.should_training_stop:
            raise Finished

    def on_step_end(self, _args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Evaluate where it is time."""
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
        """Judge an evaluation.

        Raises:
            UserError: the loss is not finite, so the weights are not.
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
