"""Parts of optimizer batches, which are halved once a GPU's memory does not suffice."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from intaglio.errors import UserError
from intaglio.training.callback_state import StatefulCallback

_log = logging.getLogger(__name__)
Inputs = Mapping[str, Tensor]


class Parts(StatefulCallback):
    """Computes the gradients of the parts of an optimizer batch; each in two halves after memory did not suffice once.

    That is a gradient accumulation of twice as many parts: batches, their order and the mean over their examples stay
    as they are, and a resumed training goes on with halves.

    Attributes:
        since: the optimizer step in which memory did not suffice; None as long as it does.
        examples: the number of examples of the part for which it did not.
    """

    saved: ClassVar[tuple[str, ...]] = ("since", "examples")

    def __init__(self, alone: bool = True) -> None:
        """Make it; `alone`: whether no other process computes the same steps, and would have to halve, too."""
        self.since: int | None = None
        self.examples: int | None = None
        self._alone = alone
        self.begin()

    def begin(self) -> None:
        """Begin with another optimizer batch."""
        self._done: list[Inputs] = []
        self._loss: Tensor | float = 0.0

    def add(self, compute: Callable[[Inputs], Tensor], part: Inputs, step: int, forget: Callable[[], object]) -> Tensor:
        """Add the gradients of a part to those of the parts before it; return by how much the batch's loss has grown.

        Args:
            compute: adds the gradients of inputs, and returns their share of the batch's loss.
            part: inputs with `labels`, each [examples, ...].
            step: number of the optimizer step.
            forget: drops the gradients of all parts of this batch: those of a failed one are incomplete.

        Raises:
            UserError: memory does not suffice for half of a part, or for a part that cannot be halved.
        """
        self._done.append(part)
        again = [part]
        if self.since is None:
            try:
                loss = compute(part)
            except torch.OutOfMemoryError:
                pass
            else:
                self._loss = self._loss + loss
                return loss
            # Behind the handler, as the exception keeps the tensors of the failed computation.
            self._halve(part, step)
            forget()
            again = self._done
        try:
            loss = torch.stack([compute(half) for each in again for half in _halves(each)]).sum()
        except torch.OutOfMemoryError as error:
            raise _refused(len(part["labels"])) from error
        if again is self._done:
            # The parts before this one have been counted.
            loss = loss - self._loss
        return loss

    def _halve(self, part: Inputs, step: int) -> None:
        examples = len(part["labels"])
        if examples < 2 or not self._alone:
            raise _refused(examples)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.since, self.examples = step, examples
        for warning in self.warnings():
            _log.warning(warning)

    def warnings(self) -> list[str]:
        """Return what the user should know of this training; empty if memory sufficed."""
        if self.since is None:
            return []
        return [
            f"the GPU's memory did not suffice for {self.examples} examples at a time: from step {self.since} on, half "
            "of them and twice the gradient_accumulation, with the same batch"
        ]


def _halves(part: Inputs) -> Iterator[dict[str, Any]]:
    examples = len(part["labels"])
    middle = (examples + 1) // 2
    for rows in (slice(0, middle), slice(middle, examples)):
        if rows.start < rows.stop:
            yield {name: tensor[rows] for name, tensor in part.items()}


def _refused(examples: int) -> UserError:
    return UserError(
        f"training: the GPU's memory does not suffice for {examples} examples at a time, nor for half of them; raise "
        "gradient_accumulation, or lower batch_size or max_length"
    )
