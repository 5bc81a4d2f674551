"""SQuAD's own JSON format: articles, their paragraphs, and the questions on them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from intaglio.errors import UserError
from intaglio.reading.raw_table import NumberedRow, RawTable
from intaglio.reading.text import open_text

COLUMNS = ("id", "title", "question", "context", "answers")


def read_squad(path: Path, name: str) -> RawTable | None:
    """Return the questions of a file in SQuAD's format (1.1 or 2.0) as a table; None if it is in another format.

    Args:
        path: a file of one JSON object, with the articles as `data`.
        name: name of the table in messages.

    Raises:
        UserError: the file cannot be read; reading the table raises one if a part of it is missing.
    """
    with open_text(path, name) as lines:
        try:
            content = json.loads("".join(lines))
        except ValueError:  # several objects, one a line
            return None
    if not isinstance(content, dict) or not isinstance(content.get("data"), list):
        return None

    def read(table: RawTable) -> Iterator[NumberedRow]:
        table.begin(COLUMNS)
        number = 0
        for article in content["data"]:
            for paragraph in _part(article, "paragraphs", name, number):
                context = _part(paragraph, "context", name, number)
                for asked in _part(paragraph, "qas", name, number):
                    number += 1
                    answers = [] if asked.get("is_impossible") else _part(asked, "answers", name, number)
                    question = _part(asked, "question", name, number)
                    yield number, [asked.get("id"), article.get("title"), question, context, answers]

    return RawTable(name, "question", read)


def _part(whole: Any, key: str, name: str, number: int) -> Any:
    if not isinstance(whole, dict) or key not in whole:
        raise UserError(f"{name}: no {key!r} at question {number or 1}; SQuAD's format has data, paragraphs and qas")
    return whole[key]
