"""Question answering: logits of first and last tokens, and the answers of questions from them.

A question is read with its context, in as many windows as the context needs. What is predicted for the question is its
best answer in all of them, or that it has none (`tokens.encoded` makes questions of windows).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from intaglio.encoder.padding import PADDING
from intaglio.metrics.answers import best_score, overlap

if TYPE_CHECKING:
    import torch

# What is known of a question: the text of its best answer, the sum of the logits of its first and last token, and that
# sum for no answer, where it is smallest among the windows; minus infinity if every question has an answer.
OUTPUTS = np.dtype([("text", object), ("score", np.float64), ("none", np.float64)])
# The score of an answer that no window has.
NO_SCORE = -1e6


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


def best_span(logits: NDArray[Any], allowed: NDArray[np.bool_], longest: int) -> tuple[int, int, float]:
    """Return the first and the last token of the best answer in a window, and its score.

    Args:
        logits: of first and last tokens, [length, 2].
        allowed: the tokens that an answer may have, [length]: those of the context.
        longest: largest number of tokens of an answer.
    """
    first, last = np.where(allowed[:, None], logits.astype(np.float64), NO_SCORE).T
    ends = np.lib.stride_tricks.sliding_window_view(np.append(last, np.full(longest - 1, NO_SCORE)), longest)
    further = ends.argmax(1)
    scores = first + ends[np.arange(len(first)), further]
    start = int(scores.argmax())
    return start, start + int(further[start]), float(scores[start])


def answers_of(outputs: NDArray[Any], thresholds: Sequence[float] | None = None) -> NDArray[Any]:
    """Return the texts of the answers, [questions]; empty where none is better by more than the threshold.

    Args:
        outputs: `OUTPUTS` of the questions, [questions].
        thresholds: the threshold, which is the only one; None for 0.
    """
    least = 0.0 if thresholds is None else thresholds[0]
    chosen: NDArray[Any] = np.where(outputs["none"] - outputs["score"] > least, "", outputs["text"])
    return chosen


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


def scores_of(outputs: NDArray[Any]) -> NDArray[np.float64]:
    """Return the scores of the best answer and of none, [questions, 2], or [questions, 1] if all have answers."""
    scores = np.stack([outputs["score"], outputs["none"]], axis=1)
    return scores if np.isfinite(scores).all() else scores[:, :1]


def answerable(targets: NDArray[Any]) -> NDArray[np.int64]:
    """Return 1 for questions that have an answer, else 0, [questions]."""
    return np.array([len(answers) > 0 for answers in targets], dtype=np.int64)
