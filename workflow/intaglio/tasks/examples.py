"""From a table to examples, by the task's columns and labels; error messages name file, row and value.

A table is read in chunks, which are stored as an Arrow file; only what decides splits stays in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from intaglio.errors import UserError, nearest, shown
from intaglio.preprocess import Preprocessor
from intaglio.reading.delimited import other_delimiter
from intaglio.reading.raw_table import CHUNK, Chunk, RawTable, missing
from intaglio.schemas import as_array
from intaglio.study.task import Task
from intaglio.tasks.keys import KeyReader, hashed, unique
from intaglio.tasks.targets import spelled, target_reader

ID_COLUMNS = ("id", "idx")


@dataclass(frozen=True)
class Examples:
    """Examples of one split, in the order of their rows.

    Attributes:
        file: an Arrow file with all rows of a table: number: int64 (of the row), id and idx: string (null where the
            table has no such column), text_a: string, text_b: string (pair tasks only) and label.
        rows: positions of the examples in it, ascending: int64 [examples].
        targets: their values of the column label [examples].
        contents: hashes of their texts, or pairs of texts: uint64 [examples].
        keys: what they are split by: hashes of groups, uint64 [examples], or times, float64 [examples]; None if they
            are split at random.
        id_column: the column whose values are unique: id, idx or number.
        id_prefix: what comes before these values, so that they are unique in the whole task.
    """

    file: Path
    rows: NDArray[np.int64]
    targets: NDArray[Any]
    contents: NDArray[np.uint64]
    keys: NDArray[Any] | None = None
    id_column: str = "number"
    id_prefix: str = ""

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, positions: NDArray[np.int64]) -> Examples:
        """Return the examples at these positions, which ascend."""
        return replace(
            self,
            rows=self.rows[positions],
            targets=self.targets[positions],
            contents=self.contents[positions],
            keys=None if self.keys is None else self.keys[positions],
        )

    def tables(self) -> Iterator[pa.Table]:
        """Yield the examples, a few thousand at a time: id, text_a, text_b (pair tasks only) and label."""
        first, held, count = 0, list[pa.RecordBatch](), 0
        with pa.OSFile(str(self.file)) as file, pa.ipc.open_file(file) as stored:
            for at in range(stored.num_record_batches):
                batch = stored.get_batch(at)
                begin, end = np.searchsorted(self.rows, (first, first + batch.num_rows))
                first += batch.num_rows
                if begin < end:
                    held.append(self._identified(batch.take(pa.array(self.rows[begin:end] - first + batch.num_rows))))
                    count += end - begin
                if count >= CHUNK:
                    yield pa.Table.from_batches(held)
                    held, count = [], 0
        if held:
            yield pa.Table.from_batches(held)

    def _identified(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        ids = batch.column(self.id_column).cast(pa.string())
        if self.id_prefix:
            ids = pc.binary_join_element_wise(self.id_prefix, ids, "")
        rest = batch.drop_columns(["number", *ID_COLUMNS])
        return pa.RecordBatch.from_arrays([ids, *rest.columns], ["id", *rest.schema.names])

    def hashed_ids(self) -> NDArray[np.uint64]:
        """Return hashes of the ids, uint64 [examples]."""
        return np.concatenate([hashed([]), *(hashed(table["id"].to_pylist()) for table in self.tables())])


class ReadExamples(NamedTuple):
    """The examples of a table.

    Attributes:
        examples: all but the dropped ones.
        dropped: number of rows dropped because their bin has no label.
        empty_second: number of pairs whose second text is empty.
        without_words: number of texts of which the task's `preprocess` left no word.
    """

    examples: Examples
    dropped: int
    empty_second: int
    without_words: int


def read_examples(task: Task, table: RawTable, file: Path, *, is_cut: bool = False) -> ReadExamples:
    """Read a table's examples; their texts are as the task's `preprocess` leaves them.

    Args:
        task: its columns and labels.
        table: the rows.
        file: the Arrow file to write, see `Examples`.
        is_cut: whether other splits are cut from these examples, so that the task's `split_by` applies.

    Raises:
        UserError: a column is missing, a text is empty or not a string, or a label is not declared.
    """
    reader, steps = target_reader(task), Preprocessor(task.preprocess, task.language)
    names = (*ID_COLUMNS, *("text_a", "text_b")[: len(task.text)])
    schema = pa.schema([("number", pa.int64()), *((name, pa.string()) for name in names), ("label", reader.type)])
    # Groups of a test set are compared with those of the training data.
    keys = KeyReader(task, is_cut) if task.split_by or (is_cut and task.split_by_time) else None
    # A second text may be empty, but a context may not.
    required = task.text if task.kind == "question_answering" else task.text[:1]
    needed = [*required, *task.label_columns, *([keys.column] if keys and is_cut else [])]
    held: dict[str, list[NDArray[Any]]] = {"targets": [], "contents": [], "keys": []}
    dropped = empty = 0
    identified = set(ID_COLUMNS) - {*task.text, *task.label_columns}
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for chunk in table.chunks():
            # The column of second texts may begin in a later chunk of JSON Lines.
            _require(needed, table)
            of_row = reader.of(chunk)
            texts = [_texts(column, chunk, at > 0) for at, column in enumerate(task.text)]
            rows = [row for row, target in enumerate(of_row) if target is not None]
            dropped += len(of_row) - len(rows)
            if not rows:
                continue
            numbers, *texts, kept = ([values[row] for row in rows] for values in (chunk.numbers, *texts, of_row))
            texts = [steps.of(column) for column in texts]
            ids = [_ids(column, chunk, rows) for column in ID_COLUMNS]
            identified -= {column for column, values in zip(ID_COLUMNS, ids, strict=True) if None in values}
            arrays = [
                pa.array(values, type) for values, type in zip((numbers, *ids, *texts, kept), schema.types, strict=True)
            ]
            writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
            held["targets"].append(as_array(arrays[-1]))
            held["contents"].append(hashed(*texts))
            if keys:
                held["keys"].append(keys.of(chunk, rows))
            empty += texts[-1].count("")
    _require([*needed, *task.text], table)
    reader.check()
    targets, contents, found = (
        np.concatenate(values) if values else np.empty(0, np.uint64) for values in held.values()
    )
    examples = Examples(file, np.arange(len(targets)), targets, contents, found if keys else None)
    by_own = (replace(examples, id_column=column) for column in ID_COLUMNS if column in identified)
    return ReadExamples(
        next((each for each in by_own if unique(each.hashed_ids())), examples), dropped, empty, steps.emptied
    )


def _require(columns: Sequence[str], table: RawTable) -> None:
    for column in columns:
        if column not in table.columns:
            raise UserError(f"{table.name}: {_absent(column, table)}")


def _absent(column: str, table: RawTable) -> str:
    """Return why a column is missing: another delimiter, quotes, no header line, or another name."""
    if column in table.twice:
        return f"two columns are named {column!r}; rename one"
    what, names = f"no column {column!r}", table.columns
    if table.delimiter is not None:
        other = other_delimiter(names)
        if other is not None:
            return f"{what}, its only column is {shown(names[0])}; if {other!r} delimits, set `delimiter: {other!r}`"
        if f'"{column}"' in names:
            return f"{what}, but one in quotes; set `quotes: true`"
    close = f"{what}, {nearest(column, names)}"
    if table.delimiter is not None and not close.endswith("?"):
        close += "; if the file has no header line, name its columns by `columns`"
    return close


def _texts(column: str, chunk: Chunk, optional: bool) -> list[str]:
    values = chunk.columns.get(column, [None] * len(chunk.numbers))
    if all(isinstance(value, str) and value.strip() for value in values):
        return list(values)
    texts = []
    for row, value in enumerate(values):
        if missing(value):
            if not optional:
                raise UserError(f"{chunk.where(row)}: no text in column {column!r}; fill it in or delete the row")
            value = ""
        elif not isinstance(value, str):
            raise UserError(f"{chunk.where(row)}: column {column!r} holds {shown(value)}, not a text; check `text`")
        texts.append(value)
    return texts


def _ids(column: str, chunk: Chunk, rows: list[int]) -> list[str | None]:
    """Return the table's own identifiers, None where there is none."""
    values = chunk.columns.get(column)
    if values is None:
        return [None] * len(rows)
    return [None if missing(values[row]) else spelled(values[row]) for row in rows]
