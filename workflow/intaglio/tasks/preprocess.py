"""Named steps that change the texts of a task, before they are split and tokenized.

Word lists and lemmas come with installed packages, so no step needs a network.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial

import simplemma
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from intaglio.errors import UserError
from intaglio.study.task import Step, Task

# A word, with apostrophes in it: don't.
WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
# What is left of a text of which nothing is left.
PLACEHOLDER = "."
_SPACED_WORD = re.compile(rf"\s*(?P<word>{WORD.pattern})")
_URL = re.compile(r"(?:https?://|www\.)\S+", re.IGNORECASE)
# Not after a letter, a digit or a dot: addresses of electronic mail stay.
_USER = re.compile(r"(?<![\w.@])@\w+")


class Preprocessor:
    """Applies the steps of a task to texts, one after the other.

    A text of which nothing is left becomes `PLACEHOLDER`; one that was empty before stays empty.

    Attributes:
        emptied: number of texts of which no word is left.
    """

    def __init__(self, task: Task) -> None:
        """Load the word lists that the steps need.

        Raises:
            UserError: there is none for the task's language.
        """
        self.emptied = 0
        self._steps = [_STEPS[name](task.language) for name in task.preprocess]

    def of(self, texts: list[str]) -> list[str]:
        """Return the changed texts."""
        return [self._of(text) for text in texts] if self._steps else texts

    def _of(self, text: str) -> str:
        changed = text
        for step in self._steps:
            changed = step(changed)
        if changed != text and not WORD.search(changed):
            self.emptied += 1
        return changed or (PLACEHOLDER if text else "")


def is_stop_word(word: str) -> bool:
    """Return whether an English word, in any case, or the first part of a contraction (it's, don't) is a stop word."""
    plain = word.lower().replace("’", "'")
    return plain in ENGLISH_STOP_WORDS or plain.removesuffix("n't").partition("'")[0] in ENGLISH_STOP_WORDS


def _without_stop_words(language: str) -> Callable[[str], str]:
    if language != "en":
        raise UserError(f"preprocess: stop_words are English, the task's language is {language!r}; leave the step out")

    def kept(found: re.Match[str]) -> str:
        return "" if is_stop_word(found["word"]) else found[0]

    return lambda text: _SPACED_WORD.sub(kept, text).strip()


def _lemmatized(language: str) -> Callable[[str], str]:
    try:
        simplemma.lemmatize("a", lang=language)
    except ValueError as error:
        raise UserError(f"language: no lemmas for {language!r} ({error})") from error
    return lambda text: WORD.sub(lambda found: simplemma.lemmatize(found[0], lang=language), text)


_STEPS: Mapping[Step, Callable[[str], Callable[[str], str]]] = {
    "stop_words": _without_stop_words,
    "lemmatize": _lemmatized,
    # As the Twitter RoBERTa was trained: Barbieri et al., TweetEval, 2020.
    "mask_urls": lambda _: partial(_URL.sub, "http"),
    "mask_users": lambda _: partial(_USER.sub, "@user"),
}
