"""Texts as a model reads them, by the library tokenizers alone: as `tokens` makes them, which needs transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from intaglio.errors import UserError
from intaglio.predict.decode import QUESTIONS
from intaglio.spans import places_in_context, shortened

TOKENIZER_FILE = "tokenizer.json"
# Characters that are tokenized at once: the tokenizer's results take a hundred times the memory of their texts.
_CHARACTERS = 1_000_000
_NOWHERE = np.empty((0, 2), np.int64)

Text = str | tuple[str, str]


class TokenRow(NamedTuple):
    """A row of the model's inputs: a text, a pair of texts, or a question with a part of its context.

    Attributes:
        example: the position of its text.
        ids, types: its tokens and their types, [length].
        characters: where the tokens begin and end in a question's context, [length, 2]; -1 for those that are not of
            it. Of texts, [0, 2].
    """

    example: int
    ids: NDArray[np.int32]
    types: NDArray[np.int8]
    characters: NDArray[np.int64]


class Reader:
    """Makes rows of texts, or of questions with contexts.

    Args:
        folder: the bundle, with its tokenizer.
        facts: the content of bundle.json.

    Attributes:
        cut: number of the texts so far that were cut, as they have more than `max_length` tokens; contexts are not.

    Raises:
        UserError: the library tokenizers is not installed.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any]) -> None:
        self._folder, self._facts = folder, facts
        self.cut = 0
        self._rows = self._windows() if facts["kind"] == QUESTIONS else self._texts()

    def rows(self, texts: Sequence[Text]) -> list[TokenRow]:
        """Return the rows of texts, ascending by text; a text has one row, a question one or more."""
        found: list[TokenRow] = []
        done = 0
        for some in _portions(texts):
            found += self._rows(some, done)
            done += len(some)
        return found

    def _texts(self) -> Callable[[list[Any], int], Iterator[TokenRow]]:
        tokenizer = self._tokenizer()
        tokenizer.enable_truncation(self._facts["max_length"], direction=self._facts["truncation_side"])

        def rows(texts: list[Any], first: int) -> Iterator[TokenRow]:
            for at, each in enumerate(tokenizer.encode_batch(texts), first):
                self.cut += bool(each.overflowing)
                yield _row(at, each)

        return rows

    def _windows(self) -> Callable[[list[Any], int], Iterator[TokenRow]]:
        given, cutting, whole = self._facts["windows"], self._tokenizer(), self._tokenizer()
        cut = {"stride": given["stride"], "strategy": "only_second", "direction": self._facts["truncation_side"]}
        cutting.enable_truncation(self._facts["max_length"], **cut)
        longest: int = given["longest_question"]

        def rows(pairs: list[Any], first: int) -> Iterator[TokenRow]:
            questions = [question.lstrip() for question, _ in pairs]
            own = whole.encode_batch(questions, add_special_tokens=False)
            short = [shortened(question, each, longest) for question, each in zip(questions, own, strict=True)]
            contexts = (context for _, context in pairs)
            encoded = cutting.encode_batch(list(zip(short, contexts, strict=True)))
            for at, window in enumerate(encoded, first):
                for each in (window, *window.overflowing):
                    yield _row(at, each, places_in_context(each))

        return rows

    def _tokenizer(self) -> Any:
        """Return a new tokenizer that neither pads nor cuts."""
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise UserError(f"{self._folder}: needs tokenizers, which is not there; pip install tokenizers") from error
        tokenizer = Tokenizer.from_file(str(self._folder / TOKENIZER_FILE))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer


def _row(example: int, encoded: Any, characters: NDArray[np.int64] = _NOWHERE) -> TokenRow:
    return TokenRow(example, np.array(encoded.ids, np.int32), np.array(encoded.type_ids, np.int8), characters)


def _portions(texts: Sequence[Text]) -> Iterator[list[Text]]:
    """Yield successive texts that are tokenized at once."""
    portion: list[Text] = []
    held = 0
    for text in texts:
        size = len(text) if isinstance(text, str) else sum(map(len, text))
        if portion and held + size > _CHARACTERS:
            yield portion
            portion, held = [], 0
        portion.append(text)
        held += size
    if portion:
        yield portion
