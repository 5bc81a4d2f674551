"""Class imbalance: oversampling, class weights and focal loss. Only training changes, never validation or test."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from intaglio.kinds import kind_of
from intaglio.tasks.stored import read_split

# Maps outputs [examples, outputs] and targets [examples] to the sum of the examples' losses.
Loss = Callable[[Tensor, Tensor], Tensor]


class ClassLoss(nn.Module):
    """Cross-entropy that weights examples by their class and by how certain the model is of it (Lin et al. 2017).

    The loss of an example is weight of its class x (1 - p)^gamma x -log p, where p is the probability that the model
    gives to that class. A mean is over the number of examples, not the sum of their weights, so that the loss of a
    batch does not depend on its parts. Weights by inverse frequency have a mean of 1 over the training data.
    """

    weights: Tensor | None

    def __init__(self, weights: Tensor | None = None, gamma: float = 0.0) -> None:
        """Set the weights of classes, [classes], None for equal ones, and the exponent of the focal loss."""
        super().__init__()
        self.gamma = gamma
        self.register_buffer("weights", weights)

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the sum of the losses of outputs [examples, classes] for int64 targets [examples]."""
        losses = cross_entropy(outputs, targets, reduction="none")
        if self.gamma:
            # 1 - p; the slope of its power is infinite at 0 if gamma is below 1.
            missed = (-torch.expm1(-losses)).clamp_min(torch.finfo(losses.dtype).tiny)
            losses = missed**self.gamma * losses
        if self.weights is not None:
            losses = self.weights[targets] * losses
        total: Tensor = losses.sum()
        return total


def training_loss(task: Mapping[str, Any], data: Path, seed: int) -> Loss:
    """Return the loss of the labels to train with: that of the task's kind, or a `ClassLoss`.

    Args:
        task: the content of task.json.
        data: the [data] or [tokens] artifact.
        seed: of the job, which decides what is oversampled.
    """
    if not task.get("class_weights") and not task.get("focal"):
        return kind_of(task).loss
    weights = None
    if task.get("class_weights"):
        labels = read_split(data, "train", ["label"])["label"].to_numpy()
        rows = oversampled(task, labels, seed)
        weights = inverse_frequencies(labels if rows is None else labels[rows], len(task["labels"]))
    return ClassLoss(weights, task.get("focal") or 0.0)


def inverse_frequencies(labels: Any, classes: int) -> Tensor:
    """Return the weights of classes, float32 [classes]: examples / (classes that occur x examples of the class).

    Args:
        labels: int64 [examples].
        classes: number of declared classes; the weight of one that does not occur is 1.
    """
    counts = np.bincount(labels, minlength=classes)
    present = counts > 0
    weights = np.divide(len(labels), present.sum() * counts, out=np.ones(classes), where=present)
    return torch.from_numpy(weights).float()


def oversampled(task: Mapping[str, Any], labels: Sequence[int] | Any, seed: int) -> Any:
    """Return the rows to train on, so that every class has as many as the largest; None if the task does not ask.

    Every example occurs as often as any other of its class, or once more; the seed decides which ones do.

    Args:
        task: the content of task.json.
        labels: of the training split, int64 [examples].
        seed: of the job.

    Returns:
        int64 [rows]: all examples in order, then the repeated ones, class by class.
    """
    if not task.get("oversample"):
        return None
    labels = np.asarray(labels)
    random = np.random.default_rng(seed)
    classes, counts = np.unique(labels, return_counts=True)
    rows = [np.arange(len(labels))]
    for label, count in zip(classes, counts, strict=True):
        wanted, own = counts.max() - count, np.flatnonzero(labels == label)
        rows += [np.tile(own, wanted // count), random.permutation(own)[: wanted % count]]
    return np.concatenate(rows)
