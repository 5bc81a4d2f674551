"""Named steps that change the texts of a task, before they are split and tokenized, and those a bundle predicts for.

Word lists and lemmas come with installed packages, so no step needs a network. It is copied into bundles: the libraries
are imported where a step needs them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache, partial

from intaglio.errors import UserError

# A word, with apostrophes in it: don't.
WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
# What is left of a text of which nothing is left.
PLACEHOLDER = "."
_SPACED_WORD = re.compile(rf"\s*(?P<word>{WORD.pattern})")
_URL = re.compile(r"(?:https?://|www\.)\S+", re.IGNORECASE)
# Not after a letter, a digit or a dot: addresses of electronic mail stay.
_USER = re.compile(r"(?<![\w.@])@\w+")


class Preprocessor:
    """Applies steps to texts, one after the other.

    A text of which nothing is left becomes `PLACEHOLDER`; one that was empty before stays empty.

    Example:
        Preprocessor(["mask_urls", "stop_words"]).of(["see the film at http://x.org"])   # ["see film http"]

    Args:
        steps: their names.
        language: of the texts.
        stop_words: those that `stop_words` removes; by default scikit-learn's.

    Attributes:
        emptied: number of texts of which no word is left.

    Raises:
        UserError: there are no words or lemmas of the language.
        ImportError: a library that a step needs is not installed.
    """

    def __init__(self, steps: Sequence[str], language: str = "en", stop_words: Collection[str] | None = None) -> None:
        self.emptied = 0
        makers: Mapping[str, Callable[[], Callable[[str], str]]] = {
            "stop_words": lambda: _without_stop_words(language, stop_words),
            "lemmatize": lambda: _lemmatized(language),
            # As the Twitter RoBERTa was trained: Barbieri et al., TweetEval, 2020.
            "mask_urls": lambda: partial(_URL.sub, "http"),
            "mask_users": lambda: partial(_USER.sub, "@user"),
        }
        self._steps = [makers[name]() for name in steps]

    def of(self, texts: list[str]) -> list[str]:
        """Return the changed texts."""
        return [self.of_text(text) for text in texts] if self._steps else texts

    def of_text(self, text: str) -> str:
        """Return a changed text."""
        changed = text
        for step in self._steps:
            changed = step(changed)
        if changed != text and not WORD.search(changed):
            self.emptied += 1
        return changed or (PLACEHOLDER if text else "")


@cache
def english_stop_words() -> frozenset[str]:
    """Return the list of scikit-learn."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return frozenset(ENGLISH_STOP_WORDS)


def is_stop_word(word: str, stop_words: Collection[str]) -> bool:
    """Return whether an English word, in any case, or the first part of a contraction (it's, don't) is a stop word."""
    plain = word.lower().replace("’", "'")
    return plain in stop_words or plain.removesuffix("n't").partition("'")[0] in stop_words


def _without_stop_words(language: str, stop_words: Collection[str] | None) -> Callable[[str], str]:
    if language != "en":
        raise UserError(f"preprocess: stop_words are English, the task's language is {language!r}; leave the step out")
    removed = english_stop_words() if stop_words is None else frozenset(stop_words)

    def kept(found: re.Match[str]) -> str:
        return "" if is_stop_word(found["word"], removed) else found[0]

    return lambda text: _SPACED_WORD.sub(kept, text).strip()


def _lemmatized(language: str) -> Callable[[str], str]:
    import simplemma

    try:
        simplemma.lemmatize("a", lang=language)
    except ValueError as error:
        raise UserError(f"language: no lemmas for {language!r} ({error})") from error
    return lambda text: WORD.sub(lambda found: simplemma.lemmatize(found[0], lang=language), text)
