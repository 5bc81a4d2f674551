"""Question answering in training: losses of first and last tokens, and the threshold of no answer.

How questions get their answers is in `spans`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from intaglio.encoder.padding import PADDING
from intaglio.metrics.answers import best_score, overlap

if TYPE_CHECKING:
    import torch


def loss_of_spans(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the sum over windows of the mean of two cross-entropies, of the first and of the last token.

    Args:
        outputs: logits, [windows, length, 2].
        targets: positions of the answer's first and last token, int64 [windows, 2].
    """
    from torch.nn.functional import cross_entropy

    return cross_entropy(outputs, targets, reduction="sum") / 2


def divergence_of_spans(
    of_classes: Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor],
) -> Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]:
    """Return the mean divergence over first and last tokens of logits [windows, length, 2], by that of classes."""

    def divergence(teacher: torch.Tensor, student: torch.Tensor, temperature: float) -> torch.Tensor:
        # The temperature must not bring padding back.
        taught, learned = (
            logits.masked_fill(logits <= PADDING, PADDING * PADDING * -temperature).transpose(1, 2)
            for logits in (teacher, student)
        )
        return of_classes(taught, learned, temperature).mean(-1)

    return divergence


def tuned_no_answer(targets: NDArray[Any], outputs: NDArray[Any]) -> list[float] | None:
    """Return the threshold with the best mean F1 on these questions; None if every question has an answer.

    Candidates are 0, the midpoints between neighbouring differences of scores, and 1 beyond the smallest and the
    largest of these; of equally good ones the closest to 0 is taken.

    Args:
        targets: accepted answers, [questions].
        outputs: `OUTPUTS` of the questions, [questions].
    """
    if not np.isfinite(outputs["none"]).all():
        return None
    answered, silent = (
        np.array([best_score(overlap, (answer["text"] for answer in true), text) for true, text in pairs])
        for pairs in (zip(targets, outputs["text"], strict=True), ((true, "") for true in targets))
    )
    differences = outputs["none"] - outputs["score"]
    order = np.argsort(differences, kind="stable")
    known = np.unique(differences)
    candidates = np.array([known[0] - 1, *(known[1:] + known[:-1]) / 2, known[-1] + 1, 0.0])
    # With a threshold, the questions with smaller differences are answered.
    below = np.searchsorted(differences[order], candidates, side="right")
    totals = np.append(0, answered[order].cumsum())[below] + silent.sum() - np.append(0, silent[order].cumsum())[below]
    best = candidates[totals >= totals.max() - 1e-9]
    return [float(best[np.abs(best).argmin()])]


def answerable(targets: NDArray[Any]) -> NDArray[np.int64]:
    """Return 1 for questions that have an answer, else 0, [questions]."""
    return np.array([len(answers) > 0 for answers in targets], dtype=np.int64)
