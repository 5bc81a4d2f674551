"""Questions that can be learned, in SQuAD's format: the answer is the only telling words of a context."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from intaglio.metrics import QUESTION_ANSWERING
from intaglio.schemas import PREDICTED_ANSWERS
from intaglio.store import new_artifact
from tiny import PLAIN, TELLING

_WORDS = [word for group in TELLING for word in group]


def asked(count: int, seed: int, without: float = 0.0, longest: int = 30) -> list[dict[str, Any]]:
    """Return questions with id, title, question, context and answers; a share of them has no answer.

    Contexts have up to `longest` words before and after the answer, which has one or two words.
    """
    chance = random.Random(seed)
    rows = []
    for number in range(count):
        before, after = ([chance.choice(PLAIN) for _ in range(chance.randint(0, longest))] for _ in range(2))
        text = " ".join(chance.sample(_WORDS, chance.randint(1, 2)))
        answers = [{"text": text, "answer_start": len(" ".join([*before, ""]))}]
        if chance.random() < without:
            text, answers = chance.choice(PLAIN), []
        rows.append(
            {
                "id": f"q{seed}-{number}",
                "title": f"article {number % 7}",
                "question": f"{chance.choice(PLAIN)} {chance.choice(PLAIN)}?",
                "context": " ".join([*before, text, *after]),
                "answers": answers,
            }
        )
    return rows


def as_squad(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return questions as a file of SQuAD 2.0 holds them, each in a paragraph of its own."""
    articles = [
        {
            "title": row["title"],
            "paragraphs": [
                {
                    "context": row["context"],
                    "qas": [
                        {name: row[name] for name in ("id", "question", "answers")}
                        | {"is_impossible": not row["answers"]}
                    ],
                }
            ],
        }
        for row in rows
    ]
    return {"version": "v2.0", "data": articles}


def write_squad(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps(as_squad(rows)))
    return path


def table_of(rows: list[dict[str, Any]]) -> pa.Table:
    """Return questions as a split of a [data] artifact holds them."""
    answers = [[{"text": one["text"], "start": one["answer_start"]} for one in row["answers"]] for row in rows]
    columns = {"id": "id", "text_a": "question", "text_b": "context"}
    texts = {name: [row[key] for row in rows] for name, key in columns.items()}
    return pa.table({**texts, "label": pa.array(answers, PREDICTED_ANSWERS.field("label").type)})


def question_task(**given: Any) -> dict[str, Any]:
    """Return the content of task.json."""
    return {
        "kind": QUESTION_ANSWERING,
        "labels": ["start", "end"],
        "positive": None,
        "metric": "answer_f1",
        "test_sets": ["test"],
        "pair": True,
        "unanswerable": False,
        **given,
    }


def write_questions(folder: Path, splits: dict[str, list[dict[str, Any]]], **given: Any) -> Path:
    """Write a [data] artifact of these questions by split."""
    with new_artifact(folder, "data", {"splits": {}}) as draft:
        for split, rows in splits.items():
            pq.write_table(table_of(rows), draft / f"{split}.parquet")
        (draft / "task.json").write_text(json.dumps(question_task(**given)))
    return folder


def question_data(folder: Path, count: int = 64, without: float = 0.0) -> Path:
    """Write a [data] artifact: `count` training questions, a quarter as many to validate, half as many to test on."""
    sizes = {"train": count, "validation": count // 4, "test": count // 2}
    splits = {split: asked(size, seed, without) for seed, (split, size) in enumerate(sizes.items())}
    return write_questions(folder, splits, unanswerable=without > 0)
