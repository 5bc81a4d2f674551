"""Facts of a task's data, and of how a model's tokenizer reads it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from intaglio.preprocess import WORD, english_stop_words, is_stop_word
from intaglio.schemas import DESCRIPTION, write_table
from intaglio.store import new_artifact
from intaglio.tasks.keys import hashed
from intaglio.tasks.stored import open_data, read_task
from intaglio.tokens.artifact import Tokens, read_tokens

# Texts are read of at most so many examples of a split, evenly spaced; counts are of all examples.
_MOST = 20_000
_CHUNK = 1000
# Bins of lengths up to max_length; as many again lie above it, and one is open.
_BINS = 8

_Row = dict[str, Any]
# Measure, item and value.
_Facts = Iterator[tuple[str, str | None, float]]


def write_description(data: Path, model: Path, max_length: int, output: Path) -> None:
    """Write the artifact `output` [description]: description.parquet, see `schemas.DESCRIPTION`.

    Args:
        data: a [tokens] artifact of the model, or [data].
        model: a [model] artifact, for its tokenizer; or a folder as transformers saves it.
        max_length: number of tokens at which texts are truncated.
        output: the artifact.

    Raises:
        UserError: an artifact is damaged.
    """
    rows = description_rows(data, model, max_length)
    with new_artifact(output, "description", {"data": str(data), "model": str(model)}) as folder:
        write_table(folder / "description.parquet", rows, DESCRIPTION)


def description_rows(data: Path, model: Path | None, max_length: int) -> list[_Row]:
    """Return the rows of description.parquet; without a model, those that need no tokenizer.

    The arguments and errors are those of `write_description`.
    """
    from transformers import AutoTokenizer

    tokenizer = None if model is None else AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    about, task = open_data(data), read_task(data)
    rows = []
    for split in ("train", "validation", *task["test_sets"]):
        examples, duplicates, read = _read(data / f"{split}.parquet")
        counted = about.get("splits", {}).get(split, {})
        facts = [
            ("examples", None, examples),
            *(("class", label, count) for label, count in counted.get("labels", {}).items()),
            *(("target", name, value) for name, value in counted.get("values", {}).items()),
            ("duplicates", None, duplicates),
            *(("in_training", None, count) for count in _of(about.get("test_texts_in_training", {}), split)),
        ]
        counts = Counter(word for column in read for text in column for word in WORD.findall(text))
        facts.append(("read", None, len(read[0])))
        if task.get("language", "en") == "en":
            words = english_stop_words()
            stopped = sum(count for word, count in counts.items() if is_stop_word(word, words))
            facts.append(("stop_words", None, stopped / max(counts.total(), 1)))
        if tokenizer is not None:
            tokens = read_tokens(data, split, tokenizer, max_length)
            # Of a text that is read in windows, the first.
            tokens = tokens.take(np.unique(tokens.fact("example"), return_index=True)[1])[:: _step(examples)]
            facts += [*_of_tokens(tokens, max_length), ("capitals_lost", None, _lost(tokenizer, counts))]
        rows += [{"split": split, "measure": name, "item": item, "value": float(value)} for name, item, value in facts]
    return rows


def _of(counts: dict[str, int], split: str) -> list[int]:
    return [counts[split]] if split in counts else []


def _read(path: Path) -> tuple[int, int, list[list[str]]]:
    """Return a split's number of examples and of those whose texts occurred before, and the texts to read, by column.

    The split is read in parts, so that memory does not grow with its texts.
    """
    file = pq.ParquetFile(path)
    examples = file.metadata.num_rows
    step, first = _step(examples), 0
    columns = [name for name in ("text_a", "text_b") if name in file.schema_arrow.names]
    read: list[list[str]] = [[] for _ in columns]
    hashes = [hashed([])]
    for batch in file.iter_batches(_CHUNK, columns=columns):
        texts = [column.to_pylist() for column in batch.columns]
        hashes.append(hashed(*texts))
        for found, column in zip(read, texts, strict=True):
            found += column[-first % step :: step]
        first += batch.num_rows
    return examples, examples - len(np.unique(np.concatenate(hashes))), read


def _step(examples: int) -> int:
    """Return the distance of the examples to read."""
    return max(1, -(-examples // _MOST))


def _lost(tokenizer: Any, counts: Counter[str]) -> float:
    """Return the share of words whose capitals the tokenizer drops, among the words with capitals."""
    capital = [word for word in counts if word != word.lower()]
    lost = 0
    for start in range(0, len(capital), _CHUNK):
        chunk = capital[start : start + _CHUNK]
        written, small = (
            tokenizer(form, add_special_tokens=False)["input_ids"] for form in (chunk, [word.lower() for word in chunk])
        )
        lost += sum(counts[word] for word, own, other in zip(chunk, written, small, strict=True) if own == other)
    return lost / max(sum(counts[word] for word in capital), 1)


def _of_tokens(tokens: Tokens, max_length: int) -> _Facts:
    """Yield the lengths of texts in tokens and the shares of truncated texts and of unknown tokens."""
    lengths = tokens.fact("length")
    yield "tokens_median", None, float(np.median(lengths))
    yield "tokens_p95", None, float(np.percentile(lengths, 95))
    yield "tokens_longest", None, float(lengths.max())
    yield "truncated", None, tokens.truncated
    yield "unknown", None, float(tokens.fact("unknown").sum() / lengths.sum())
    width = max(1, max_length // _BINS)
    low = 1
    for high in (*range(width, max_length, width), *range(max_length, 2 * max_length + 1, width)):
        yield "length", f"{low}-{high}", float(((lengths >= low) & (lengths <= high)).sum())
        low = high + 1
    yield "length", f"{low}-", float((lengths >= low).sum())
