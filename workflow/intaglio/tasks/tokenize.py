"""Tokenization, the same for training, evaluation and calibration; nothing is cached on disk.

Libraries that only some callers need are imported inside functions: each import takes most of a second.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from intaglio.errors import UserError, nearest
from intaglio.store import open_artifact

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset
    from transformers import DataCollatorWithPadding

# Number of texts tokenized at once, which bounds the memory for a large split.
_CHUNK = 1000
_IDS = pa.list_(pa.int32())


def tokenize(tokenizer: Any, table: pa.Table | pd.DataFrame, max_length: int) -> list[dict[str, list[int]]]:
    """Return the tokens of every example, in order, truncated at `max_length` and not padded.

    Args:
        tokenizer: a transformers tokenizer; its `model_input_names` decide whether there are token_type_ids.
        table: with a column text_a, and text_b for pairs (the longer text of a pair is truncated first).
        max_length: number of tokens, special ones included.
    """
    return list(_tokens(tokenizer, table, max_length))


def _tokens(tokenizer: Any, table: pa.Table | pd.DataFrame, max_length: int) -> Iterator[dict[str, list[int]]]:
    names = table.column_names if isinstance(table, pa.Table) else list(table.columns)
    texts = [list(_values(table, name)) for name in ("text_a", "text_b") if name in names]
    for start in range(0, len(texts[0]), _CHUNK):
        chunk = [column[start : start + _CHUNK] for column in texts]
        encoded = tokenizer(*chunk, truncation=True, max_length=max_length)
        columns = {name: encoded[name] for name in tokenizer.model_input_names if name in encoded}
        for row in zip(*columns.values(), strict=True):
            yield dict(zip(columns, row, strict=True))


def set_limit(tokenizer: Any, max_length: int) -> None:
    """Make a tokenizer cut texts as `tokenize` does wherever it is asked to truncate and not at which length.

    The limit is saved with the tokenizer, for transformers and for the library tokenizers alone.
    """
    tokenizer.model_max_length = max_length
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        backend.enable_truncation(max_length, direction=tokenizer.truncation_side)
        backend.no_padding()


def share_cut(
    tokenizer: Any, table: pa.Table | pd.DataFrame, rows: Sequence[dict[str, list[int]]], length: int
) -> float:
    """Return the share of examples that `tokenize` truncated.

    Args:
        tokenizer: the tokenizer that was used.
        table: the examples.
        rows: the result of `tokenize`.
        length: its `max_length`.
    """
    return _count_cut(tokenizer, table, rows, length) / len(rows) if rows else 0.0


def _count_cut(
    tokenizer: Any, table: pa.Table | pd.DataFrame, rows: Sequence[dict[str, list[int]]], length: int
) -> int:
    full = [at for at, row in enumerate(rows) if len(row["input_ids"]) >= length]
    names = table.column_names if isinstance(table, pa.Table) else list(table.columns)
    columns = [_values(table, name) for name in ("text_a", "text_b") if name in names]
    cut = 0
    for start in range(0, len(full), _CHUNK):
        chunk = [[column[at] for at in full[start : start + _CHUNK]] for column in columns]
        cut += sum(len(tokens) > length for tokens in tokenizer(*chunk, verbose=False)["input_ids"])
    return cut


def cut_warning(split: str, share: float, length: int) -> list[str]:
    """Return a list with a warning of truncated texts, empty if there are none."""
    return [f"{split}: {share:.1%} of the texts are cut at max_length {length}"] if share else []


def _values(table: pa.Table | pd.DataFrame, name: str) -> list[Any]:
    return list(table[name].to_pylist() if isinstance(table, pa.Table) else table[name])


def collate(tokenizer: Any) -> DataCollatorWithPadding:
    """Return a collator, which makes padded batches: int64 tensors [batch, longest]; label is renamed to labels."""
    from transformers import DataCollatorWithPadding

    return DataCollatorWithPadding(tokenizer, return_tensors="pt")


def read_split(data: Path, split: str) -> pa.Table:
    """Return a split of a [data] artifact as stored: id, text_a, (text_b,) label.

    Raises:
        UserError: the artifact is damaged or has no such split.
    """
    open_artifact(data, "data")
    path = data / f"{split}.parquet"
    if not path.is_file():
        raise UserError(f"{data}: no split {split!r}, {nearest(split, (file.stem for file in data.glob('*.parquet')))}")
    return pq.ParquetFile(path).read()


def read_task(data: Path) -> dict[str, Any]:
    """Return the content of task.json in a [data] artifact: labels, metric, test_sets, pair."""
    open_artifact(data, "data")
    task: dict[str, Any] = json.loads((data / "task.json").read_text())
    return task


class EncodedSplit(NamedTuple):
    """A split as tokens, in memory.

    Attributes:
        dataset: columns input_ids, attention_mask, token_type_ids if the tokenizer makes them, and label.
        truncated: share of truncated texts.
        lengths: number of tokens, int64 [examples].
    """

    dataset: Dataset
    truncated: float
    lengths: NDArray[np.int64]


def encode_split(data: Path, split: str, tokenizer: Any, max_length: int) -> EncodedSplit:
    """Return a split as tokens, in memory.

    Raises:
        UserError: the artifact is damaged or has no such split.
    """
    from datasets import Dataset

    table = read_split(data, split)
    parts, cut = [], 0
    for start in range(0, table.num_rows, _CHUNK):
        part = table.slice(start, _CHUNK)
        rows = tokenize(tokenizer, part, max_length)
        columns = {name: pa.array([row[name] for row in rows], _IDS) for name in rows[0]}
        parts.append(pa.table({**columns, "label": part["label"]}))
        cut += _count_cut(tokenizer, part, rows, max_length)
    encoded = pa.concat_tables(parts)
    lengths = pc.list_value_length(encoded["input_ids"]).to_numpy().astype(np.int64)
    return EncodedSplit(Dataset(encoded), cut / table.num_rows, lengths)
