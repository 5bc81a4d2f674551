"""Questions with their contexts as windows of tokens.

A context that is longer than a model can read is read in several windows, which overlap, each after the question. How
windows become questions again is in `spans`; bundles make them in `predict.tokenized`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from intaglio.errors import UserError
from intaglio.schemas import as_array
from intaglio.spans import places_in_context, shortened

# Longer questions are cut.
_LONGEST_QUESTION = 64
_Integers = NDArray[np.int64]


def windows_of(
    tokenizer: Any, examples: pa.Table | pa.RecordBatch, task: Mapping[str, Any], max_length: int
) -> tuple[_Integers, dict[str, list[Any]]]:
    """Return the windows of questions.

    Args:
        tokenizer: a transformers tokenizer.
        examples: with columns text_a (questions), text_b (contexts) and label (accepted answers).
        task: the content of task.json.
        max_length: number of tokens of a window, special ones included.

    Returns:
        The question of every window, its position among the examples, int64 [windows], ascending; and by name, with an
        entry for every window, the model's inputs, `label` (the first and the last token of the first accepted answer;
        0, which is the first token of all, where a window lacks a part of it) and `characters` (where each token begins
        and ends in the context, one number after the other; -1 for tokens that are not of the context).

    Raises:
        UserError: the tokenizer does not tell where its tokens are in the text.
    """
    if not tokenizer.is_fast:
        raise UserError(
            f"question answering needs a tokenizer that tells where tokens are in the text; {type(tokenizer).__name__}"
            " does not: take a model with tokenizer.json"
        )
    stride, longest = shape_of(task, max_length)
    encoded = tokenizer(
        _shortened(tokenizer, examples["text_a"].to_pylist(), longest),
        examples["text_b"].to_pylist(),
        truncation="only_second",
        max_length=max_length,
        stride=stride,
        return_overflowing_tokens=True,
    )
    questions = np.array(encoded["overflow_to_sample_mapping"], dtype=np.int64)
    characters = [places_in_context(encoding) for encoding in encoded.encodings]
    answers = as_array(examples["label"])
    columns = {name: list(encoded[name]) for name in tokenizer.model_input_names if name in encoded}
    columns["label"] = [place_of(answers[of], own) for of, own in zip(questions, characters, strict=True)]
    columns["characters"] = [own.ravel() for own in characters]
    return questions, columns


def shape_of(task: Mapping[str, Any], max_length: int) -> tuple[int, int]:
    """Return the numbers of tokens that neighbouring windows share, and that a question has at most.

    Args:
        task: the content of task.json.
        max_length: number of tokens of a window.
    """
    third = max_length // 3
    stride = task.get("stride")
    return third if stride is None else int(stride), min(_LONGEST_QUESTION, third)


def _shortened(tokenizer: Any, questions: Sequence[str], longest: int) -> list[str]:
    """Return the questions without leading blanks, cut after so many tokens."""
    questions = [question.lstrip() for question in questions]
    encodings = tokenizer(questions, add_special_tokens=False).encodings
    return [shortened(question, encoding, longest) for question, encoding in zip(questions, encodings, strict=True)]


def place_of(answers: Sequence[Mapping[str, Any]], characters: _Integers) -> tuple[int, int]:
    """Return the first and the last token of the first answer in a window; 0 and 0 if it is not all there.

    Args:
        answers: accepted answers, with `text` and `start`.
        characters: where the window's tokens begin and end in the context, [length, 2]; -1 for others.
    """
    tokens = np.flatnonzero(characters[:, 0] >= 0)
    if not answers or not len(tokens):
        return 0, 0
    begin = answers[0]["start"]
    end = begin + len(answers[0]["text"])
    begins, ends = characters[tokens].T
    if begin < begins[0] or end > ends[-1]:
        return 0, 0
    first = int(np.searchsorted(begins, begin, side="right")) - 1
    last = int(np.searchsorted(ends, end, side="left"))
    return int(tokens[first]), int(tokens[last])
