"""Metrics of extractive question answering: the official ones of SQuAD 1.1 and 2.0.

Targets are the accepted answers of every question, dictionaries with `text`; none if the question cannot be answered.
Predictions are texts; an empty one says that there is no answer.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial

import numpy as np

from intaglio.metrics.metric import QUESTION_ANSWERING, Floats, Judged, Means, Metric

_KINDS = frozenset({QUESTION_ANSWERING})
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
# From an accepted answer and a prediction, as words, to a score.
_Score = Callable[[list[str], list[str]], float]


def words_of(text: str) -> list[str]:
    """Return the words of an answer in small letters, without punctuation and English articles."""
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def exact(true: list[str], predicted: list[str]) -> float:
    """Return 1 if the words are the same, else 0."""
    return float(true == predicted)


def overlap(true: list[str], predicted: list[str]) -> float:
    """Return the F1 of the words, which may repeat; without words on either side, 1 if there are none on both."""
    if not true or not predicted:
        return float(true == predicted)
    common = (Counter(true) & Counter(predicted)).total()
    return 2 * common / (len(true) + len(predicted))


def best_score(score: _Score, answers: Iterable[str], predicted: str) -> float:
    """Return the best score of a prediction over the accepted answers; of none, the score against an empty text."""
    accepted = [words for words in map(words_of, answers) if words] or [[]]
    return max(score(words, words_of(predicted)) for words in accepted)


def _of_questions(score: _Score, judged: Judged) -> Floats:
    """Return the score of every question, [questions, 1]."""
    pairs = zip(judged.targets, judged.predictions, strict=True)
    return np.array([[best_score(score, (answer["text"] for answer in answers), text)] for answers, text in pairs])


def _mean(means: Floats) -> Floats:
    value: Floats = means[..., 0]
    return value


_EXACT, _F1 = (Means(partial(_of_questions, score), _mean) for score in (exact, overlap))
OF_ANSWERS = (
    Metric("exact_match", "exact match", "%", _EXACT, _KINDS, means=_EXACT),
    Metric("answer_f1", "F1 of answers", "%", _F1, _KINDS, means=_F1),
)
