"""Answers to questions: where the tokens of a window are in the context, and the answers from their logits.

A question is read with its context, in as many windows as the context needs. What is predicted for the question is its
best answer in all of them, or that it has none. It is copied into bundles and imports nothing but NumPy.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# What is known of a question: the text of its best answer, the sum of the logits of its first and last token, and that
# sum for no answer, where it is smallest among the windows; minus infinity if every question has an answer.
OUTPUTS = np.dtype([("text", object), ("score", np.float64), ("none", np.float64)])
# The score of an answer that no window has.
NO_SCORE = -1e6
# Number of tokens of an answer, at most, where the task does not say.
LONGEST_ANSWER = 30


def shortened(question: str, encoding: Any, longest: int) -> str:
    """Return a question cut after so many tokens; `encoding` is its own, of the library tokenizers."""
    return question if len(encoding.ids) <= longest else question[: encoding.offsets[longest - 1][1]]


def places_in_context(encoding: Any) -> NDArray[np.int64]:
    """Return where the tokens of a window begin and end in the context, [length, 2]; -1 for those that are not of it.

    Args:
        encoding: of a pair of question and context, of the library tokenizers.
    """
    of_context = np.array([sequence == 1 for sequence in encoding.sequence_ids])
    return np.where(of_context[:, None], np.array(encoding.offsets, np.int64), -1)


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


def best_answers(
    windows: Iterable[tuple[int, NDArray[np.int64], NDArray[Any]]],
    contexts: Sequence[str],
    longest: int,
    unanswerable: bool,
) -> NDArray[Any]:
    """Return the best answer of every question in all its windows, `OUTPUTS` [questions].

    Args:
        windows: of each window, the position of its question; where its tokens begin and end in the context, [length,
            2], -1 for tokens that are not of it; and logits of first and last tokens, [length or more, 2], of which
            those beyond the tokens are ignored.
        contexts: of the questions, [questions].
        longest: largest number of tokens of an answer.
        unanswerable: whether a question may have no answer.
    """
    found = np.zeros(len(contexts), OUTPUTS)
    found["text"], found["score"], found["none"] = "", NO_SCORE, np.inf if unanswerable else -np.inf
    for at, characters, logits in windows:
        first, last, score = best_span(logits[: len(characters)], characters[:, 0] >= 0, longest)
        if score > found["score"][at]:
            found["text"][at] = contexts[at][characters[first, 0] : characters[last, 1]]
            found["score"][at] = score
        # A question has no answer if no window has one.
        found["none"][at] = min(found["none"][at], logits[0].sum(dtype=np.float64))
    return found


def answers_of(outputs: NDArray[Any], thresholds: Sequence[float] | None = None) -> NDArray[Any]:
    """Return the texts of the answers, [questions]; empty where none is better by more than the threshold.

    Args:
        outputs: `OUTPUTS` of the questions, [questions].
        thresholds: the threshold, which is the only one; None for 0.
    """
    least = 0.0 if thresholds is None else thresholds[0]
    chosen: NDArray[Any] = np.where(outputs["none"] - outputs["score"] > least, "", outputs["text"])
    return chosen


def scores_of(outputs: NDArray[Any]) -> NDArray[np.float64]:
    """Return the scores of the best answer and of none, [questions, 2], or [questions, 1] if all have answers."""
    scores = np.stack([outputs["score"], outputs["none"]], axis=1)
    return scores if np.isfinite(scores).all() else scores[:, :1]
