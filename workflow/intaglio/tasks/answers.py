"""From a column of answers to targets: the accepted answers of every question, and where they are in the context."""

from __future__ import annotations

from typing import Any

from intaglio.errors import UserError, shown
from intaglio.reading.raw_table import Chunk, missing
from intaglio.schemas import PREDICTED_ANSWERS
from intaglio.study.task import Task

_SHAPES = "an object with lists `text` and `answer_start`, or a list of objects with `text` and `answer_start`"


class Answers:
    """Targets from a column of answers: dictionaries with `text` and `start`, their first character in the context."""

    type = PREDICTED_ANSWERS.field("label").type

    def __init__(self, task: Task) -> None:
        (self._column,), self._context = task.label_columns, task.text[1]

    def of(self, chunk: Chunk) -> list[list[dict[str, Any]]]:
        """Return the answers of every row; none if the question cannot be answered.

        Raises:
            UserError: a context is empty, answers are in another form, or an answer is not in the context.
        """
        return [self._of_row(value, chunk, row) for row, value in enumerate(chunk.columns[self._column])]

    def check(self) -> None:
        """Do nothing: wrong values have been refused."""

    def _of_row(self, value: Any, chunk: Chunk, row: int) -> list[dict[str, Any]]:
        context = chunk.columns[self._context][row]
        if missing(context) or not isinstance(context, str):
            raise UserError(f"{chunk.where(row)}: no text in column {self._context!r}, the context; delete the row")
        return [self._placed(text, start, context, chunk, row) for text, start in self._pairs(value, chunk, row)]

    def _pairs(self, value: Any, chunk: Chunk, row: int) -> list[tuple[str, int]]:
        """Return texts and first characters; both of the usual layouts are read."""
        try:
            if isinstance(value, dict):
                pairs = list(zip(value["text"], value["answer_start"], strict=True))
            else:
                pairs = [(answer["text"], answer["answer_start"]) for answer in value]
            return [(text, int(start)) for text, start in pairs if len(text)]
        except (KeyError, TypeError, ValueError):
            advice = "; a text file cannot hold it: give JSON Lines or Parquet" if isinstance(value, str) else ""
            raise UserError(
                f"{chunk.where(row)}: column {self._column!r} holds {shown(value)}, where answers belong: {_SHAPES}"
                f" (empty for a question without an answer){advice}"
            ) from None

    def _placed(self, text: str, start: int, context: str, chunk: Chunk, row: int) -> dict[str, Any]:
        """Return an answer where it is in the context: at its place, or else at the closest one with its text."""
        if context[max(start, 0) : start + len(text)] != text:
            places = _places(text, context)
            if not places:
                raise UserError(f"{chunk.where(row)}: the answer {shown(text)} is not in the context; correct the row")
            start = min(places, key=lambda place: abs(place - start))
            chunk.table.warn(chunk.numbers[row], "an answer is not at its answer_start; the closest place was taken")
        return {"text": text, "start": start}


def _places(text: str, context: str) -> list[int]:
    """Return where a text begins in the context, wherever it occurs."""
    found, place = [], context.find(text)
    while place >= 0:
        found.append(place)
        place = context.find(text, place + 1)
    return found
