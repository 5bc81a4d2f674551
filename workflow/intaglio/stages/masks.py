"""Masks: which weights of an encoder's linear layers are zero, and a callback that keeps them zero in training.

The mask of a model is its pattern of zero weights, and is stored nowhere else. To keep this true, a weight that
training happens to make exactly zero is set to the smallest normal number instead.
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
    """Return the zeros of every linear weight of the encoder's layers: `layer`, `weights`, `zeros`."""
    return [
        {"layer": name, "weights": linear.weight.numel(), "zeros": int((linear.weight == 0).sum())}
        for name, linear in linear_layers(model).items()
    ]


def removed(weights: int, sparsity: float) -> int:
    """Return the number of weights that a sparsity removes, rounded to the nearest number (ties to even)."""
    return round(sparsity * weights)


def cubic_sparsity(final: float, progress: float) -> float:
    """Return the sparsity by the schedule of Zhu and Gupta 2017 (arXiv 1710.01878), eq. 1, starting at zero.

    Args:
        final: the final sparsity.
        progress: completed share of the schedule, (t - t0) / (n * delta t).
    """
    return final * (1 - (1 - progress) ** 3)


def choose_masks(weights: Sequence[Tensor], sparsity: float, scope: Scope, structure: Structure) -> list[Tensor]:
    """Choose the weights of smallest magnitude; among equal ones the first, in the order given and row by row.

    Zero weights are chosen first, so masks of growing sparsities contain each other.

    Args:
        weights: tensors [out, in].
        sparsity: share to choose; for `2:4` at most 0.5, and only weights that are zero in the finished pattern.
        scope: whether the share applies to all weights together or to each tensor.
        structure: `2:4` restricts the choice to its pattern.

    Returns:
        Masks, bool [out, in], true for chosen weights.

    Raises:
        UserError: `2:4` with rows whose length is not a multiple of four.
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
    """Return the mask [out, in] of NVIDIA's semi-structured format: the two smallest of every four weights in a row.

    Among equal magnitudes the first count as smaller.

    Raises:
        UserError: the length of the rows is not a multiple of four.
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
    """Return a mask [n] that is true at the smallest values; among equal values at the first."""
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
    """Set the weights of these layers to zero where the masks are true."""
    for layer, mask in zip(layers, masks, strict=True):
        weight = layer.weight
        weight.masked_fill_(weight == 0, torch.finfo(weight.dtype).tiny).masked_fill_(mask, 0)


class HeldMasks(TrainerCallback):  # type: ignore[misc]
    """Keeps weights at zero that are zero when training begins or is resumed.

    They have no gradient, so they do not count for its norm, and each step's momentum update of them is undone.
    Training is thus equivalent to that of layers whose weights are multiplied by the masks.
    """

    def __init__(self, model: Any) -> None:
        self.layers = list(linear_layers(model).values())
        self.masks: list[Tensor] = []
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []

    def on_train_begin(
        self, _args: TrainingArguments, _state: TrainerState, _control: TrainerControl, /, **_: Any
    ) -> None:
        """Take the masks from the weights, which are a checkpoint's if training is resumed."""
        self.masks = [layer.weight.detach() == 0 for layer in self.layers]
        self._hooks = [
            layer.weight.register_post_accumulate_grad_hook(partial(self._stop_gradient, number))
            for number, layer in enumerate(self.layers)
        ]

    def on_optimizer_step(
        self, _args: TrainingArguments, _state: TrainerState, _control: TrainerControl, /, **_: Any
    ) -> None:
        """Reset masked weights to zero after the step."""
        set_to_zero(self.layers, self.masks)

    def on_train_end(
        self, _args: TrainingArguments, _state: TrainerState, _control: TrainerControl, /, **_: Any
    ) -> None:
        """Remove the gradient hooks."""
        for hook in self._hooks:
            hook.remove()

    def _stop_gradient(self, number: int, weight: Tensor) -> None:
        assert weight.grad is not None
        weight.grad.masked_fill_(self.masks[number], 0)


def held_masks(model: Any) -> list[HeldMasks]:
    """Return the callbacks that keep a model's zero weights at zero in training; empty if it has none.

    Raises:
        UserError: the architecture is not supported.
    """
    return [HeldMasks(model)] if any(row["zeros"] for row in sparsity_rows(model)) else []
