"""Masks: which weights of an encoder's linear layers are zero, and that they stay so while the others are trained.

The mask of a model is its pattern of zero weights; no file and no state of a training holds another. So that this stays
true, a weight that training brings to zero by chance is moved to the smallest normal number instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from intaglio.encoder.parts import linear_layers
from intaglio.errors import UserError

Structure = Literal["unstructured", "2:4"]
Scope = Literal["global", "layer"]
GROUP, GROUP_ZEROS = 4, 2


def sparsity_rows(model: Any) -> list[dict[str, Any]]:
    """Return what of every linear weight of the encoder's layers is zero: `layer`, `weights`, `zeros`."""
    return [
        {"layer": name, "weights": linear.weight.numel(), "zeros": int((linear.weight == 0).sum())}
        for name, linear in linear_layers(model).items()
    ]


def removed(weights: int, sparsity: float) -> int:
    """Return how many of so many weights a sparsity removes: the nearest number, of two the even one."""
    return round(sparsity * weights)


def cubic_sparsity(final: float, progress: float) -> float:
    """Return the sparsity of the schedule of Zhu and Gupta 2017 (arXiv 1710.01878), eq. 1, that begins at zero.

    Args:
        final: the sparsity in the end.
        progress: share of the schedule that is over, (t - t0) / (n * delta t).
    """
    return final * (1 - (1 - progress) ** 3)


def choose_masks(weights: Sequence[Tensor], sparsity: float, scope: Scope, structure: Structure) -> list[Tensor]:
    """Choose the weights of smallest magnitude; of equal ones the first, in the order given and row by row.

    Weights that are zero are chosen before all others, so masks of growing sparsities contain each other.

    Args:
        weights: [out, in] each.
        sparsity: share to choose; of `2:4` at most 0.5, and only what the finished pattern has zero.
        scope: whether the share is one of all weights together or of every tensor.
        structure: what is left to choose from.

    Returns:
        Bool [out, in] each, true where a weight is chosen.

    Raises:
        UserError: `2:4` of rows that do not divide into fours.
    """
    magnitudes = [weight.detach().abs() for weight in weights]
    if structure == "2:4":
        magnitudes = [values.masked_fill(~two_of_four(values), torch.inf) for values in magnitudes]
    if scope == "layer":
        return [_smallest(values.flatten(), sparsity).view_as(values) for values in magnitudes]
    chosen = _smallest(torch.cat([values.flatten() for values in magnitudes]), sparsity)
    parts = chosen.split([values.numel() for values in magnitudes])
    return [part.view_as(values) for part, values in zip(parts, magnitudes, strict=True)]


def two_of_four(weight: Tensor) -> Tensor:
    """Return where [out, in] is zero in NVIDIA's semi-structured format: the two smallest of every four in a row.

    Of equal magnitudes the first count as smaller.

    Raises:
        UserError: the rows do not divide into fours.
    """
    if weight.shape[1] % GROUP:
        raise UserError(
            f"structure: 2:4 takes linear layers whose inputs divide by {GROUP}, and one of the model's has "
            f"{weight.shape[1]}; choose unstructured"
        )
    groups = weight.detach().abs().unflatten(1, (-1, GROUP))
    order = groups.sort(dim=-1, stable=True).indices
    return torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, order[..., :GROUP_ZEROS], True).flatten(1)


def _smallest(values: Tensor, share: float) -> Tensor:
    """Return a mask of [n] that is true at the smallest values, the first of equal ones."""
    count = removed(len(values), share)
    if not count:
        return torch.zeros_like(values, dtype=torch.bool)
    largest = values.kthvalue(count).values
    chosen = values < largest
    equal = (values == largest).nonzero().squeeze(1)
    chosen[equal[: count - int(chosen.sum())]] = True
    return chosen


@torch.no_grad()
def set_to_zero(layers: Sequence[nn.Linear], masks: Sequence[Tensor]) -> None:
    """Make the weights of these layers zero where the masks are true, and nowhere else."""
    for layer, mask in zip(layers, masks, strict=True):
        weight = layer.weight
        weight.masked_fill_(weight == 0, torch.finfo(weight.dtype).tiny).masked_fill_(mask, 0)


class HeldMasks(TrainerCallback):  # type: ignore[misc]
    """Keeps the weights zero that are zero when training begins or is resumed.

    They have no gradient, so they do not count for its norm, and what momentum makes of them is undone after every
    step: training is that of the layers whose weights are multiplied by the masks.
    """

    def __init__(self, model: Any) -> None:
        self.layers = list(linear_layers(model).values())
        self.masks: list[Tensor] = []
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []

    def on_train_begin(
        self, _args: TrainingArguments, _state: TrainerState, _control: TrainerControl, /, **_: Any
    ) -> None:
        """Take the masks from the weights, which are a checkpoint's if the training was interrupted."""
        self.masks = [layer.weight.detach() == 0 for layer in self.layers]
        self._hooks = [
            layer.weight.register_post_accumulate_grad_hook(partial(self._stop_gradient, number))
            for number, layer in enumerate(self.layers)
        ]

    def on_optimizer_step(
        self, _args: TrainingArguments, _state: TrainerState, _control: TrainerControl, /, **_: Any
    ) -> None:
        """Undo what the step did to weights that are to be zero."""
        set_to_zero(self.layers, self.masks)

    def on_train_end(
        self, _args: TrainingArguments, _state: TrainerState, _control: TrainerControl, /, **_: Any
    ) -> None:
        """Let gradients pass again."""
        for hook in self._hooks:
            hook.remove()

    def _stop_gradient(self, number: int, weight: Tensor) -> None:
        assert weight.grad is not None
        weight.grad.masked_fill_(self.masks[number], 0)


def held_masks(model: Any) -> list[HeldMasks]:
    """Return the callback that a training of this model needs so that its zero weights stay; none if it has none.

    Raises:
        UserError: the model's architecture is not known here.
    """
    return [HeldMasks(model)] if any(row["zeros"] for row in sparsity_rows(model)) else []
