"""The splits of a task as tokens: made once for a tokenizer, mapped into memory by every job.

A split is an Arrow file as the library datasets writes and maps it (`Dataset.from_file`). Its columns are

- example: int64, position in the split of the example that a row is of, ascending;
- length and unknown: int32, numbers of all tokens and of unknown ones of the whole text;
- the model's inputs, cut at `max_length` by the tokenizer itself: input_ids: list<int32>, and list<int8> for
  attention_mask and, where the tokenizer makes them, token_type_ids;
- label, as in the [data] artifact.

A row is a text or a pair; of question answering it is a window, of which a question may have several (see
`tokens.windows`): label is then its own, the positions of first and last token, and characters: list<int32> says where
its tokens are in the context.

Texts are stored cut, as only the tokenizer knows how it cuts a pair, or on which side; so `max_length` is part of the
artifact's key.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from intaglio.errors import UserError
from intaglio.metrics import QUESTION_ANSWERING
from intaglio.schemas import as_array
from intaglio.store import new_artifact, open_artifact
from intaglio.tasks.stored import open_data, read_task, split_file
from intaglio.tokens.tokenize import TEXTS_AT_ONCE, encode_texts, text_columns
from intaglio.tokens.windows import windows_of

if TYPE_CHECKING:
    from datasets import Dataset

# Number of examples on which the tokens are compared with those of the tokenizer at hand.
_COMPARED = 100
_FACTS = ("example", "length", "unknown", "characters", "label")
_NARROW = {"attention_mask", "token_type_ids"}


class Tokens(Sequence[dict[str, Any]]):
    """Rows of tokens, which are read from a mapped file when they are asked for.

    An item is a row, the model's inputs by name (and label, if it was asked for) as lists without padding; a slice, as
    `take`, is another `Tokens` on the same file.
    """

    def __init__(self, stored: Dataset, labels: bool = False) -> None:
        """Take a mapped file; its rows have labels if `labels`."""
        given = stored.column_names
        self._stored = stored.data.table
        self._inputs = stored.select_columns(
            [name for name in given if name not in _FACTS or (labels and name == "label")]
        )
        self._rows = np.arange(len(stored))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        return self._inputs[int(self._rows[index])]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Return several rows, which are read at once; torch's DataLoader asks for batches so."""
        rows: list[dict[str, Any]] = self._inputs.__getitems__(self._rows[indices].tolist())
        return rows

    def take(self, rows: NDArray[np.int64]) -> Tokens:
        """Return the rows at these positions, in this order."""
        taken = copy(self)
        taken._rows = self._rows[rows]
        return taken

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of tokens of each row, int64 [rows]."""
        found: NDArray[np.int64] = pc.list_value_length(self._stored["input_ids"]).to_numpy().astype(np.int64)
        return found[self._rows]

    def fact(self, name: str) -> NDArray[Any]:
        """Return a column of facts, [rows, ...]: example, length, unknown or label; see the module."""
        return as_array(self._stored[name])[self._rows]

    def characters(self) -> Iterator[NDArray[np.int64]]:
        """Yield for each window where its tokens begin and end in the context, [length, 2]; -1 for other tokens."""
        for places in self._stored["characters"].take(self._rows):
            yield places.values.to_numpy().astype(np.int64).reshape(-1, 2)

    @property
    def truncated(self) -> float:
        """Share of the rows whose text is cut; nothing is of a context that is read in windows."""
        if "characters" in self._stored.column_names:
            return 0.0
        return float((self.fact("length") > self.lengths).mean())


def write_tokens(data: Path, model: Path, max_length: int, output: Path) -> None:
    """Write the artifact `output` [tokens]: a [data] artifact with its splits as tokens beside it, see the module.

    It has the files of [data], and SPLIT.arrow for every SPLIT.parquet, so jobs take it in place of [data]. Its
    manifest has the facts of [data], and `max_length`.

    Args:
        data: a [data] artifact.
        model: a [model] artifact, for its tokenizer; or a folder as transformers saves it.
        max_length: number of tokens at which texts are truncated.
        output: the artifact.

    Raises:
        UserError: the [data] artifact is damaged, or a split is empty.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    about = {**open_artifact(data, "data"), "data": str(data), "model": str(model), "max_length": max_length}
    with new_artifact(output, "tokens", about) as folder:
        shutil.copyfile(data / "task.json", folder / "task.json")
        for split in ("train", "validation", *read_task(data)["test_sets"]):
            shutil.copyfile(split_file(data, split), folder / f"{split}.parquet")
            _write(tokenizer, data, split, max_length, folder / f"{split}.arrow")


def read_tokens(data: Path, split: str, tokenizer: Any, max_length: int, *, labels: bool = False) -> Tokens:
    """Return a split as tokens, mapped into memory.

    Args:
        data: a [tokens] artifact; or a [data] artifact, which is then tokenized for this job alone, into a file among
            the temporary ones that takes no longer than the result is used.
        split: name of the split.
        tokenizer: a transformers tokenizer, that of the artifact.
        max_length: number of tokens at which texts are truncated, that of the artifact.
        labels: whether rows have labels.

    Raises:
        UserError: the artifact is damaged, has no such split, is of another tokenizer or another `max_length`; or the
            split is empty.
    """
    cut_at = open_data(data).get("max_length")
    if cut_at is None:
        with tempfile.NamedTemporaryFile(suffix=".arrow") as file:
            _write(tokenizer, data, split, max_length, Path(file.name))
            return Tokens(_mapped(Path(file.name)), labels)
    if cut_at != max_length:
        raise UserError(f"{data}: texts are cut at {cut_at} tokens, where max_length is {max_length}; give the same")
    texts, stored = pq.ParquetFile(split_file(data, split)), _mapped(data / f"{split}.arrow")
    first = _encoded(tokenizer, read_task(data), next(texts.iter_batches(_COMPARED)), 0, max_length)
    if not stored.data.table.slice(0, first.num_rows).equals(pa.Table.from_batches([first])):
        raise UserError(
            f"{data}: its tokens are not those of the model's tokenizer; make them with this model (intaglio"
            " tokens), or give the [data] that they are of"
        )
    return Tokens(stored, labels)


def _mapped(path: Path) -> Dataset:
    # Here, because it takes a second: not all that imports this module reads tokens.
    from datasets import Dataset

    try:
        return Dataset.from_file(str(path))
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} is damaged or missing ({error}); delete its folder and rerun") from error


def _write(tokenizer: Any, data: Path, split: str, max_length: int, path: Path) -> None:
    """Write the Arrow file of a split, in parts, so that memory does not grow with its texts."""
    parts = _parts(tokenizer, read_task(data), pq.ParquetFile(split_file(data, split)), max_length)
    first = next(parts, None)
    if first is None:
        raise UserError(f"{data}: {split} is empty; give it examples")
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, first.schema) as writer:
        for part in chain((first,), parts):
            writer.write_batch(part)


def _parts(tokenizer: Any, task: Mapping[str, Any], texts: pq.ParquetFile, max_length: int) -> Iterator[pa.RecordBatch]:
    first = 0
    for batch in texts.iter_batches(TEXTS_AT_ONCE):
        yield _encoded(tokenizer, task, batch, first, max_length)
        first += batch.num_rows


def _encoded(
    tokenizer: Any, task: Mapping[str, Any], examples: pa.RecordBatch, first: int, max_length: int
) -> pa.RecordBatch:
    """Return the rows of successive examples of a split, of which `first` is the position of the first one."""
    found = encode_texts(tokenizer, text_columns(examples), max_length)
    of_example, inputs, label = np.arange(examples.num_rows), found.inputs, {"label": examples["label"]}
    if task.get("kind") == QUESTION_ANSWERING:
        of_example, inputs = windows_of(tokenizer, examples, task, max_length)
        label = {"label": pa.array(inputs.pop("label"), pa.list_(pa.int64()))}
    columns = {
        "example": pa.array(of_example + first),
        "length": pa.array(found.lengths, pa.int32()).take(of_example),
        "unknown": pa.array(found.unknown, pa.int32()).take(of_example),
    }
    for name, rows in inputs.items():
        columns[name] = pa.array(rows, pa.list_(pa.int8() if name in _NARROW else pa.int32()))
    return pa.RecordBatch.from_pydict({**columns, **label})


def cut_warning(split: str, share: float, length: int) -> list[str]:
    """Return a list with a warning of truncated texts, empty if there are none."""
    return [f"{split}: {share:.1%} of the texts are cut at max_length {length}"] if share else []
