"""The training loss: its value for a batch, its running mean, and the check that it is finite."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from intaglio.errors import UserError
from intaglio.imbalance import Loss
from intaglio.training.callback_state import StatefulCallback

Tensor = torch.Tensor


def batch_loss(loss: Loss, outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
    """Return the mean loss of an optimizer batch, or the share of this part in it.

    The Trainer does not divide the loss of classifiers by the number of accumulated parts (they accept loss arguments
    and ignore them), and the last part of an epoch may be smaller. So the sum over a part is divided by the number of
    examples in the whole batch.

    Args:
        loss: the sum of the losses of examples, as `imbalance.training_loss` returns it.
        outputs: the model's outputs, with `logits` [examples, outputs].
        labels: the targets, [examples]; or [0], if this is no part of the batch (see `ranks.share_of`).
        num_items_in_batch: number of examples in the whole optimizer batch; None for the mean of these examples.
    """
    logits = outputs["logits"] if isinstance(outputs, dict) else outputs.logits
    return loss(logits[: len(labels)].float(), labels) / (
        len(labels) if num_items_in_batch is None else num_items_in_batch
    )


class LossMeter(StatefulCallback):
    """Sum the loss since the last log on its own device, and detect the first step whose loss is not finite.

    If eager (on a CPU), a loss that is not finite raises immediately. On other devices the step is recorded there and
    `check` reads it whenever the Trainer logs, evaluates or saves: reading it at each step would make the host wait.
    """

    saved: ClassVar[tuple[str, ...]] = ("mean_parts",)

    def __init__(self, eager: bool) -> None:
        self.eager = eager
        # Sum of the losses and number of steps since the last log; a log right after a resumption needs both.
        self.mean_parts: list[float] = [0.0, 0.0]
        self._sum: Tensor | None = None
        self._bad_step: Tensor | None = None
        self._bad_loss: Tensor | None = None
        self._last_step = 0
        self.rates: dict[int, float] = {}

    def add(self, loss: Tensor, step: int, rate: float) -> None:
        """Add the loss of a part of a step (scalar, its share of the step's mean) and the step's learning rate."""
        if self._sum is None or self._bad_step is None or self._bad_loss is None:
            self._sum = torch.tensor(self.mean_parts[0], dtype=loss.dtype, device=loss.device)
            self._bad_step = torch.full((), -1, dtype=torch.int64, device=loss.device)
            self._bad_loss = torch.zeros_like(loss)
        self.mean_parts[1] += step != self._last_step
        self._last_step = step
        self.rates[step] = rate
        self._sum += loss
        first = ~torch.isfinite(loss) & (self._bad_step < 0)
        self._bad_step = torch.where(first, step, self._bad_step)
        self._bad_loss = torch.where(first, loss, self._bad_loss)
        if self.eager:
            self.check()

    def check(self) -> None:
        """Raise if a loss was not finite; copy the sum to the host.

        Raises:
            UserError: names the first such step, its loss and its learning rate.
        """
        if self._sum is None or self._bad_step is None or self._bad_loss is None:
            return
        step = int(self._bad_step.item())
        if step >= 0:
            raise UserError(
                f"training: the loss became {self._bad_loss.item()} at step {step}, learning rate "
                f"{self.rates[step]:.3g}; lower learning_rate, lengthen warmup, or check the model's weights"
            )
        self.mean_parts[0] = float(self._sum.item())
        self.rates = {self._last_step: self.rates[self._last_step]} if self.rates else {}

    def drain(self) -> float:
        """Return the mean loss per step since the last call."""
        self.check()
        total, steps = self.mean_parts
        self.mean_parts = [0.0, 0.0]
        if self._sum is not None:
            self._sum.zero_()
        return total / max(steps, 1)
