"""Regression in standard scores: while a model trains, its head gives (value - mean) / deviation of the training split.

A step of AdamW moves a weight by about the learning rate, whatever the unit of the values. So values in thousands would
never be reached, and values in thousandths be overshot. Scores make training independent of the unit. Saved models give
values: the last layer of the head contains mean and deviation. For other kinds of task, nothing here changes anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from intaglio.imbalance import Loss, training_loss
from intaglio.metrics import REGRESSION
from intaglio.models.weights import output_layer


@torch.no_grad()
def to_scores(model: Any, task: Mapping[str, Any]) -> None:
    """Change a model of values, in place, to one of scores; `task` is the content of task.json."""
    if task["kind"] == REGRESSION:
        layer = output_layer(model)
        layer.weight.copy_(layer.weight.double() / task["deviation"])
        layer.bias.copy_((layer.bias.double() - task["mean"]) / task["deviation"])


@torch.no_grad()
def to_values(model: Any, task: Mapping[str, Any]) -> None:
    """Change a model of scores, in place, to one of values; `task` is the content of task.json."""
    if task["kind"] == REGRESSION:
        layer = output_layer(model)
        layer.weight.copy_(layer.weight.double() * task["deviation"])
        layer.bias.copy_(layer.bias.double() * task["deviation"] + task["mean"])


def values_of(outputs: NDArray[Any], task: Mapping[str, Any]) -> NDArray[Any]:
    """Return the values of scores [examples, 1], float64; outputs of other kinds of task as they are."""
    return outputs.astype(np.float64) * task["deviation"] + task["mean"] if task["kind"] == REGRESSION else outputs


def label_loss(task: Mapping[str, Any], data: Path, seed: int) -> Loss:
    """Return the loss of the labels to train with: of regression, that of scores for targets in values.

    The arguments are those of `imbalance.training_loss`.
    """
    loss = training_loss(task, data, seed)
    if task["kind"] != REGRESSION:
        return loss
    return lambda outputs, targets: loss(outputs, (targets - task["mean"]) / task["deviation"])
