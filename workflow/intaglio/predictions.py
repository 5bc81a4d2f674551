"""Stored predictions on a test set, in the order of the examples' ids, so that runs can be compared."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.compute as pc
from numpy.typing import NDArray

from intaglio import schemas
from intaglio.kinds import kind_of
from intaglio.store import open_artifact

_KEPT_BYTES = 200_000_000


class Predictions(NamedTuple):
    """Predictions on a test set: ids as an Arrow array; true and predicted values, outputs as in `metrics.Judged`."""

    ids: Any
    true: NDArray[Any]
    predicted: NDArray[Any]
    outputs: NDArray[Any]

    @property
    def nbytes(self) -> int:
        """Their size in memory."""
        return sum(part.nbytes for part in self)


class ReadOnce:
    """Predictions that many comparisons need; those read last are kept, up to 200 MB."""

    def __init__(self) -> None:
        self._kept: dict[tuple[Path, str], Predictions] = {}
        self._bytes = 0

    def of(self, evaluation: Path, test_set: str, task: Mapping[str, Any]) -> Predictions:
        """Return the predictions of an [evaluation] on a test set; `task` is the content of the data's task.json.

        Raises:
            UserError: the evaluation is damaged.
        """
        key = evaluation, test_set
        if key not in self._kept:
            found = _read(evaluation, test_set, task)
            while self._kept and self._bytes + found.nbytes > _KEPT_BYTES:
                self._bytes -= self._kept.pop(next(iter(self._kept))).nbytes
            self._kept[key] = found
            self._bytes += found.nbytes
        return self._kept[key]


def _read(evaluation: Path, test_set: str, task: Mapping[str, Any]) -> Predictions:
    open_artifact(evaluation, "evaluation")
    table = schemas.read_table(evaluation / "predictions.parquet", kind_of(task).predictions)
    table = table.filter(pc.equal(table.column("test_set"), test_set))
    table = table.take(pc.sort_indices(table.column("id")))
    arrays = (schemas.as_array(table.column(name)) for name in ("label", "prediction", "logits"))
    return Predictions(table.column("id").combine_chunks(), *arrays)
